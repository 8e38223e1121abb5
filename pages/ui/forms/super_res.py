"""Super-resolution: the switch on the Train page and the low-resolution images on the Sample page."""

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import streamlit as st

from ddpm.config.fields import absolute, settings
from ddpm.config.model import ModelConfig
from ddpm.config.tasks import OWN_DATA, SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import classes, low_res
from ddpm.runs import runs
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import files, image_files, images
from pages.ui.components import setting_widgets
from pages.ui.forms import setting_fields
from pages.ui.forms.setting_fields import Notes
from pages.ui.frame import job_progress, layout

KINDS = {
    "data": "The run's own data",
    "drawn": "Samples of a run",
    "upload": "Upload",
    "path": "Folder, file or data set",
}
NEWEST = 50  # samples offered
SHOWN = 12  # low-resolution images shown
SHOWN_SIDE = 40  # pixels each on screen, about
SMALL_SIZE = next(s for s in settings(ModelConfig) if s.name == "small_size")


# Train


def show_train_fields(form: str, model: ModelConfig, notes: Notes) -> None:
    """Shows the switch in a fold, and its settings while it is on."""
    with setting_fields.fold(form, "Super-resolution", "small_size" in notes.problems):
        if model.super_res:
            st.caption(f"{model.small_size:d} → {model.image_size:d} pixels")
        st.caption(
            "The model learns to upsample: given a low-resolution image, it samples a matching high-resolution one."
            " For training, the low-resolution images are made from the data. A trained model upsamples the samples"
            " of another run, or your own images."
        )
        where = setting_widgets.key(form, "super_res")
        st.session_state[where] = model.super_res
        st.toggle(
            "Train a super-resolution model",
            key=where,
            on_change=layout.callback(_switch),
            args=(form, model.image_size),
        )
        if model.super_res:
            setting_widgets.show_field(form, SMALL_SIZE)
            setting_fields.show_notes(form, SMALL_SIZE, notes)


def _switch(form: str, image_size: int) -> None:
    on = st.session_state[setting_widgets.key(form, "super_res")]
    setting_widgets.fill(form, {"small_size": max(1, image_size // 4) if on else 0})


# Sample


class Preview(NamedTuple):
    """Some of the low-resolution images as a PNG, or why there are none."""

    picture: bytes | None
    error: str = ""


def fill(form: str, config: Config, base_samples: str) -> None:
    """Puts `base_samples` of an earlier request into the fields; initially the run's own data."""
    own = base_samples in ("", OWN_DATA) and bool(config.data.data_dir)
    setting_widgets.fill(form, {"base": "data" if own else "path", "base_path": "" if own else base_samples})


def show_sample_fields(form: str, run: Run, config: Config, text: str, problems: list[str]) -> str:
    """Shows the fields for the low-resolution images of a super-resolution run.  Returns base_samples.

    `text`: the classes; empty: those of the low-resolution images.  Appends a sentence to `problems` where
    there are none yet, or they do not fit.
    """
    fitting = _fitting(run, config)
    without = {"data"} if not config.data.data_dir else set()
    kinds = [kind for kind in KINDS if kind not in without and (kind != "drawn" or fitting)]
    where = setting_widgets.key(form, "base")
    if st.session_state.get(where) not in kinds:
        st.session_state[where] = kinds[0]
    size = config.model.small_size
    kind = st.segmented_control(
        "Low-resolution images",
        kinds,
        key=where,
        format_func=KINDS.__getitem__,
        required=True,
        wrap=True,
        persist_state="session",
        help=(f"Images of {size:d} x {size:d} pixels to upsample, in turn. Those of a data set are downsampled first."),
    )
    match kind:
        case "drawn":
            base = _samples(form, fitting)
        case "upload":
            base = _uploaded(form, run, problems)
        case "path":
            base = st.text_input(
                "Path",
                key=setting_widgets.key(form, "base_path"),
                placeholder="/home/me/small",
                persist_state="session",
                help="A folder of low-resolution images, an .npz file with arr_0, or a data set by name, such as"
                " shapes.",
            ).strip()
            base = base if low_res.is_data_set(base) else absolute(base)
        case _:
            base = OWN_DATA
    if base:
        look = _preview(config, base, text, _stamp(base))
        if look.picture:
            st.image(look.picture, output_format="PNG", alt="Some of the low-resolution images")
        problems += [look.error] if look.error else []
    elif not problems:
        problems.append("No low-resolution images are selected yet: upload some, or type a path.")
    return base


def _fitting(run: Run, config: Config) -> dict[str, str]:
    """Samples of any run that this one can upsample: file -> label, newest first."""
    wanted = (config.model.small_size, config.model.small_size, config.model.image_channels)
    found: list[tuple[str, Run, SampleJob]] = []
    for other in runs.list_runs(run.folder.parent):
        with contextlib.suppress(UserError, OSError):  # one that may not be read has nothing to offer
            found += [(job.name, other, job) for job in other.sample_jobs() if (job.shape or ())[1:] == wanted]
    newest = sorted(found, key=lambda entry: entry[0], reverse=True)[:NEWEST]
    return {str(job.npz): f"{other.name}, {job_progress.started_at(job)}" for _, other, job in newest}


def _samples(form: str, fitting: dict[str, str]) -> str:
    where = setting_widgets.key(form, "base_drawn")
    if st.session_state.get(where) not in fitting:
        st.session_state[where] = next(iter(fitting))
    return st.selectbox("Samples", list(fitting), key=where, format_func=fitting.__getitem__, persist_state="session")


def _uploaded(form: str, run: Run, problems: list[str]) -> str:
    """Stores uploads in the run's folder, where the sampling process finds them."""
    uploads = st.file_uploader(
        "Images, or one .npz file",
        ["npz", *(e.removeprefix(".") for e in image_files.EXTENSIONS)],
        accept_multiple_files=True,
    )
    where = setting_widgets.key(form, "base_uploaded")
    if not uploads:
        return str(st.session_state.get(where, {}).get(run.name, ""))
    contents = _unique_names((Path(file.name).name, file.getvalue()) for file in uploads)
    packed = [name for name in contents if name.lower().endswith(".npz")]
    if packed and len(contents) > 1:
        problems.append("An .npz file was uploaded together with other files: upload it alone, or only images.")
        return ""
    digest = hashlib.sha256(b"".join(name.encode() + data for name, data in sorted(contents.items()))).hexdigest()[:16]
    folder = run.folder / "uploads" / digest
    try:
        within = run.content.inside("uploads", digest).make()
        for name, data in contents.items():
            if not within.exists(name):
                files.write_bytes(folder / name, data)
    except UserError as error:  # the disk is full
        problems.append(str(error))
        return ""
    base = str((folder / packed[0] if packed else folder).absolute())
    st.session_state[where] = {run.name: base}  # it stays chosen when the page is left
    return base


def _unique_names(uploads: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """Uploads by name: files of the same name and content are kept once, others get a number."""
    contents: dict[str, bytes] = {}
    seen: dict[str, bytes] = {}  # by names as systems compare them that make no difference between A and a
    for name, data in uploads:
        free = next(path.name for path in files.numbered(Path(name)) if seen.get(path.name.casefold(), data) == data)
        if free.casefold() not in seen:
            contents[free] = seen[free.casefold()] = data
    return contents


def _stamp(base: str) -> int:
    """Modification time of the folder or file, as a cache key."""
    try:
        return 0 if low_res.is_data_set(base) else Path(base).stat().st_mtime_ns
    except OSError:
        return 0


@st.cache_data(hash_funcs=layout.PATHS, max_entries=32, ttl=60, show_spinner="Reading the low-resolution images …")
def _preview(config: Config, base: str, text: str, stamp: int) -> Preview:
    try:
        small = low_res.read(config, SampleConfig(num_samples=SHOWN, base_samples=base, classes=text))
        assert small is not None
        if small.labels is None:
            classes.parse_classes(config, text)
    except UserError as error:
        return Preview(None, str(error))
    strip = images.strip(small.pixels, scale=max(1, SHOWN_SIDE // config.model.small_size))
    return Preview(images.encode_png(strip))
