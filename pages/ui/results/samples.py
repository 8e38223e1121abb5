"""Samples of one job: progress, grid, downloads, resuming."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import streamlit as st
from PIL import Image

from ddpm import formatting
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.reports import downloads
from ddpm.runs import launch, run_folder, runs
from ddpm.runs.jobs import ACTIVE, Status
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import images
from pages.ui.components import shell_command, thumbnails
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import reopen
from pages.ui.frame import job_progress, layout
from pages.ui.results import nearest, sample_actions, sample_grid

MAX_INTERPOLATION = 64  # images of an interpolation that are shown
PER_ROW = 10
TIMES = (1, 2, 3, 4, 8, 16)
MOST_SIDE = 2048  # pixels of an image that is downloaded, at most, where it is enlarged
MAX_ERRORS = 16  # shown one by one

T = TypeVar("T")


def show(run: Run, job: SampleJob, config: Config, use: reopen.Use) -> None:
    """Shows the samples of one job while they form, or finished with downloads and actions."""
    active = job.state() in ACTIVE
    with layout.errors():
        sample_grid.show(run, job, config, active, functools.partial(sample_actions.act, run))
    layout.fragment(run_every=0.7 if active else None)(_progress)(job, active)
    if active:
        return
    nearest.show(job, config)
    sample = job.sample_config
    with st.container(horizontal=True, gap="small"):
        if _can_resume(job) and st.button(
            "Resume",
            icon=":material/play_arrow:",
            help="Samples the missing images and keeps the existing ones.",
        ):
            with layout.errors():
                launch.resume_sampling(job)
                st.rerun()
        if sample:
            st.button(
                "Use these settings",
                icon=":material/settings_backup_restore:",
                key="use_shown",
                on_click=layout.callback(use),
                args=(sample, job.settings.get("checkpoint")),
            )
    with layout.errors():
        _downloads(job)
    if job.command:
        with st.expander("Shell command"):
            shell_command.show(job.command, "command-job")


def _can_resume(job: SampleJob) -> bool:
    """Whether it ended before all images were sampled."""
    if job.state() == "finished":
        return False
    try:
        runs.check_resumable(job)
    except UserError:
        return False
    return True


def _progress(job: SampleJob, was_active: bool) -> None:
    state = job.state()
    if was_active and state not in ACTIVE:
        st.rerun()  # once, so that the polling stops
    status = job.status()
    if not was_active:
        _outcome(job, state, status)
        return
    done, total = (status.step, status.total_steps) if status else (0, 0)
    job_progress.progress(job, status, f"{done:,} of {formatting.plural(total, 'model evaluation')}")


def _outcome(job: SampleJob, state: str, status: Status | None) -> None:
    """Shows the outcome of a sampling job that has ended."""
    if state in ("failed", "lost"):
        st.error(with_code(job_progress.failure_message(job, "Sampling")), icon=":material/error:")
    elif status and status.message and not job.result:  # which shows the same as a number
        st.caption(escape(status.message))
    if status and status.warning:
        st.warning(with_code(status.warning), icon=":material/warning:")
    if job.has(job.pairs):
        left = "the input image" if job.given_images else "the low-resolution image"
        st.caption(f"Each pair shows {left} on the left and the sample on the right.")
    if errors := job.result.get("rmse"):
        each = ", ".join(formatting.number(error, 2) for error in errors[:MAX_ERRORS]) + (
            ", …" if len(errors) > MAX_ERRORS else ""
        )
        st.metric(
            "Reconstruction error",
            formatting.number(job.result.get("mean", 0), 3),
            help=(
                "Root mean square difference between each input image and its reconstruction, in"
                f" {escape(job.result.get('unit', ''))}."
            ),
        )
        if len(errors) > 1:
            st.caption(f"Per image: {each}")


def latest(job: SampleJob, side: int) -> bytes | None:
    """Finished samples, or their current state, as a PNG with that side; None where there is nothing yet.

    Raises UserError where no file that could show them can be used.
    """
    if _is_interpolation(job):
        return _fitted_strip(job, tuple(map(str, job.images[:MAX_INTERPOLATION])), job.changed_at(job.grid), side)
    return _first(job, lambda path: thumbnails.shown(job, path, side))


def image(job: SampleJob) -> Image.Image | None:
    """The same at the original resolution."""
    if _is_interpolation(job):
        return _strip(job, job.images[:MAX_INTERPOLATION])
    return _first(job, lambda path: thumbnails.load(job, path))


def _first(job: SampleJob, load: Callable[[Path], T | None]) -> T | None:
    """What `load` makes of the first file that shows the samples and can be used; raises the first UserError if none.

    A grid may be larger than what is read of a stranger's file; the preview is small.
    """
    errors = []
    for path in (job.pairs, job.grid, job.preview):
        try:
            if found := load(path):
                return found
        except FileNotFoundError:
            continue
        except UserError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return None


def _is_interpolation(job: SampleJob) -> bool:
    """Whether it is a finished interpolation, which is shown in order."""
    sample = job.sample_config
    return bool(sample and sample.task == "interpolate" and job.has(job.grid) and not job.has(job.pairs) and job.images)


def _strip(job: SampleJob, paths: Sequence[Path]) -> Image.Image:
    """Images in a strip, in several rows where there are many.  Raises UserError if they differ in size."""
    loaded = [thumbnails.load(job, path) for path in paths]
    if len({(image.size, image.mode) for image in loaded}) > 1:
        raise UserError(
            f"The images in {paths[0].parent} differ in size or kind: restore them from a copy.", code="wrong-size"
        )
    pixels = np.stack([np.asarray(image) for image in loaded])
    pixels = pixels if pixels.ndim == 4 else pixels[..., None]
    return images.from_pixels(images.grid(pixels, PER_ROW))


@st.cache_data(max_entries=64, show_spinner=False)
def _fitted_strip(_job: SampleJob, paths: tuple[str, ...], changed_at: int, side: int) -> bytes:
    return thumbnails.png(thumbnails.fitted(_strip(_job, [Path(path) for path in paths]), side))


def _downloads(job: SampleJob) -> None:
    npz = job.npz
    if not npz or not job.has(job.grid):
        return
    stem, pairs = f"{job.folder.parent.parent.name}-{job.name}", job.has(job.pairs)
    side = max(job.shape[1:3]) if job.shape else 1
    times = st.segmented_control(
        "Enlarge",
        [k for k in TIMES if k == 1 or k * side <= MOST_SIDE],
        key="download_times",
        default=1,
        required=True,
        format_func=lambda k: f"{k:d}×",
        persist_state="session",
        help="PNG files are downloaded with each pixel enlarged to so many by so many, without blur.",
    )
    files: list[job_progress.Download] = [
        ("Grid (PNG)", f"{stem}.png", "image/png", lambda: downloads.enlarged(job.read(job.grid), times)),
        *(
            [("Pairs (PNG)", f"{stem}-pairs.png", "image/png", lambda: downloads.enlarged(job.read(job.pairs), times))]
            if pairs
            else []
        ),
        ("Images (zip)", f"{stem}.zip", "application/zip", lambda: downloads.samples_zip(job, times)),
        ("Arrays (npz)", npz.name, "application/octet-stream", lambda: job.read(npz, run_folder.MOST_ARRAYS)),
        ("Settings (JSON)", f"{stem}.json", "application/json", lambda: json.dumps(job.settings, indent=2).encode()),
    ]
    job_progress.downloads(files)
