"""Pictures being drawn, and pictures drawn: progress, the grid, downloads, what there was before."""

import io
import json
import zipfile
from collections.abc import Callable

import streamlit as st

from ddpm import config as configs
from ddpm import words
from ddpm.config import Config, SampleConfig
from ddpm.errors import UserError
from ddpm.jobs import ACTIVE
from ddpm.runs import Run, SampleJob
from pages.ui import forms, pictures, work

SIDE = 460  # pixels that a grid takes
BOX = SIDE + 34  # height of its frame: always the same, so that nothing jumps
THUMB = 176
PER_PAGE = 12


def show(job: SampleJob, config: Config) -> None:
    """The pictures of one job: as they sharpen, or finished with their downloads."""
    active = job.state() in ACTIVE
    st.fragment(run_every=0.7 if active else None)(_picture)(job, active)
    if not active:
        _downloads(job)


def _picture(job: SampleJob, was_active: bool) -> None:
    state = job.state()
    if was_active and state not in ACTIVE:
        st.rerun()  # once, so that the polling really stops
    status = job.status()
    image = _latest(job, SIDE)
    with st.container(border=True, height=BOX, horizontal_alignment="center", vertical_alignment="center"):
        if image:
            st.image(image, output_format="PNG", alt="The pictures that were drawn")
        elif was_active:
            st.caption("Loading the weights …", width="content")
        else:
            st.caption("No picture was finished.", width="content")
    if not was_active:
        if state in ("failed", "lost"):
            st.error(forms.plain(work.why_failed(job, "The drawing")), icon=":material/error:")
        elif status and status.message:
            st.caption(forms.plain(status.message))
        return
    done, total = (status.step, status.total_steps) if status else (0, 0)
    work.progress(job, status, f"{done:,} of {total:,} denoising steps")


def _latest(job: SampleJob, side: int) -> bytes | None:
    """The finished pictures, or how far they have come."""
    return pictures.shown(job.grid, side) or pictures.shown(job.preview, side)


def _downloads(job: SampleJob) -> None:
    npz = job.npz
    if not npz or not job.grid.exists():
        return
    stem = f"{job.folder.parent.parent.name}-{job.name}"
    files: list[tuple[str, str, str, Callable[[], bytes]]] = [
        ("Grid (PNG)", f"{stem}.png", "image/png", job.grid.read_bytes),
        ("Pictures (zip)", f"{stem}.zip", "application/zip", lambda: zip_of(job)),
        ("Arrays (npz)", npz.name, "application/octet-stream", npz.read_bytes),
        ("Settings (JSON)", f"{stem}.json", "application/json", lambda: json.dumps(job.settings, indent=2).encode()),
    ]
    with st.grid(2, min_column_width=150):
        for label, name, mime, data in files:
            st.download_button(
                label, data, name, mime, icon=":material/download:", on_click="ignore", key=f"get_{label}", width="stretch"
            )  # fmt: skip
    with st.expander("The same as a command"):
        st.code(job.settings.get("command", ""), language="bash", wrap_lines=True)


def zip_of(job: SampleJob) -> bytes:
    """Every picture as a PNG, in one zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # a PNG does not get smaller
        for path in job.images:
            archive.write(path, path.name)
    return buffer.getvalue()


def history(jobs: list[SampleJob], shown: SampleJob, config: Config, choose: Callable[[str], None], use: Callable[[SampleConfig], None]) -> None:  # fmt: skip
    """What was drawn from this run, newest first; a click shows it again, or fills the form."""
    pages = -(-len(jobs) // PER_PAGE)
    page = st.pagination(pages, key="history_page") if pages > 1 else 1
    with st.grid("auto", min_column_width=THUMB + 16):
        for job in jobs[(page - 1) * PER_PAGE : page * PER_PAGE]:
            with st.container(border=True, height="stretch", gap="xsmall", key=f"drawn_{job.name}"):
                _entry(job, job == shown, config, choose, use)


def _entry(job: SampleJob, is_shown: bool, config: Config, choose: Callable[[str], None], use: Callable[[SampleConfig], None]) -> None:  # fmt: skip
    sample = settings_of(job)
    with st.container(height=THUMB + 8, horizontal_alignment="center", vertical_alignment="center", border=False):
        image = _latest(job, THUMB)
        if image:
            st.image(image, output_format="PNG", alt=f"Drawn at {job.name}")
        else:
            st.caption(f"*{job.state()}*", width="content")
    st.markdown(f"**{work.when(job)}**")
    st.caption(describe(config, sample) if sample else "–")
    with st.container(horizontal=True, gap="small"):
        st.button("Shown" if is_shown else "Show", key=f"show_{job.name}", disabled=is_shown, on_click=choose, args=(job.name,))  # fmt: skip
        if sample:
            st.button("Use settings", key=f"use_{job.name}", on_click=use, args=(sample,), type="tertiary")


def settings_of(job: SampleJob) -> SampleConfig | None:
    """What it was drawn with; None before the job has written it down."""
    try:
        return job.config
    except (KeyError, UserError):
        return None


def describe(config: Config, sample: SampleConfig) -> str:
    """16 pictures · DDIM, 50 steps · seed 0."""
    try:
        steps = len(configs.sampling_timesteps(config, sample))
    except UserError:
        steps = 0
    eta = f", eta {sample.eta:g}" if sample.use_ddim and sample.eta else ""
    return f"{words.plural(sample.num_samples, 'picture')} · {'DDIM' if sample.use_ddim else 'DDPM'}, {words.plural(steps, 'step')}{eta} · seed {sample.seed}"  # fmt: skip


def estimate(run: Run, config: Config, sample: SampleConfig, steps: int) -> float | None:
    """Seconds that a drawing will take, from the speed of an earlier one of the same run."""
    for job in run.sample_jobs()[:20]:
        status, before = job.status(), settings_of(job)
        if status and before and status.state == "finished" and status.steps_per_second:
            together = min(before.batch_size, before.num_samples)
            return steps * sample.num_samples / (status.steps_per_second * together)
    return None
