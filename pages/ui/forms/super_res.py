"""Super-resolution: the switch on the Train page, and which small pictures the Sample page enlarges."""

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
from pages.ui.frame import job_progress, layout

KINDS = {
    "data": "The run's own data",
    "drawn": "Drawn by a run",
    "upload": "Upload",
    "path": "Folder, file or data set",
}
NEWEST = 50  # drawings offered
LOOK = 12  # small pictures shown
LOOK_SIDE = 40  # pixels each on screen, about
SMALL_SIZE = next(s for s in settings(ModelConfig) if s.name == "small_size")


# Train


def fields(form: str, model: ModelConfig, problems: setting_widgets.Problems) -> None:
    """The switch, folded, and what belongs to it while it is on."""
    wrong = problems.get("small_size", ())
    label = "Super-resolution" + (f" · {model.small_size} → {model.image_size} pixels" if model.super_res else "")
    with st.expander(label, expanded=bool(wrong), key=f"{form}_super_res_{'wrong' if wrong else 'more'}"):
        st.caption(
            "The network learns to enlarge: it is shown a small picture, and draws a large one that it may have been."
            " The small ones are made from the data. Once it is trained, it enlarges what another run has drawn, or"
            " pictures of your own."
        )
        where = setting_widgets.key(form, "super_res")
        st.session_state[where] = model.super_res
        st.toggle(
            "Enlarge small pictures", key=where, on_change=layout.callback(_switch), args=(form, model.image_size)
        )
        if model.super_res:
            setting_widgets.box(form, SMALL_SIZE)
            setting_widgets.complaint(wrong)


def _switch(form: str, image_size: int) -> None:
    on = st.session_state[setting_widgets.key(form, "super_res")]
    setting_widgets.begin(form, {"small_size": max(1, image_size // 4) if on else 0})


# Sample


class Look(NamedTuple):
    """Some of the small pictures as a PNG, or why there are none."""

    picture: bytes | None
    error: str = ""


def begin(form: str, config: Config, base_samples: str) -> None:
    """Put `base_samples` of an earlier drawing into the fields; the run's own data to begin with."""
    own = base_samples in ("", OWN_DATA) and bool(config.data.data_dir)
    setting_widgets.begin(form, {"base": "data" if own else "path", "base_path": "" if own else base_samples})


def choose(form: str, run: Run, config: Config, text: str, problems: list[str]) -> str:
    """The fields for a super-resolution run: which small pictures to enlarge.  Returns base_samples.

    `text` are the classes asked for; without, they come with the small pictures.  `problems` gets a sentence where
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
        "Small pictures",
        kinds,
        key=where,
        format_func=KINDS.__getitem__,
        required=True,
        wrap=True,
        persist_state="session",
        help=(
            f"What is enlarged: pictures of {size} x {size} pixels, in turn. Those of a data set are made small first."
        ),
    )
    match kind:
        case "drawn":
            base = _drawn(form, fitting)
        case "upload":
            base = _uploaded(form, run, problems)
        case "path":
            base = st.text_input(
                "Path",
                key=setting_widgets.key(form, "base_path"),
                placeholder="/home/me/small",
                persist_state="session",
                help="A folder of small images, an .npz file with arr_0, or a data set by name, such as shapes.",
            ).strip()
            base = base if low_res.is_data_set(base) else absolute(base)
        case _:
            base = OWN_DATA
    if base:
        look = _look(config, base, text, _stamp(base))
        if look.picture:
            st.image(look.picture, output_format="PNG", alt="Some of the small pictures")
        problems += [look.error] if look.error else []
    elif not problems:
        problems.append("No small pictures are named yet: upload some, or say where they are.")
    return base


def _fitting(run: Run, config: Config) -> dict[str, str]:
    """Drawings of any run whose pictures this one can enlarge: file -> what to call it, newest first."""
    wanted = (config.model.small_size, config.model.small_size, config.model.image_channels)
    found: list[tuple[str, Run, SampleJob]] = [
        (job.name, other, job)
        for other in runs.list_runs(run.folder.parent)
        for job in other.sample_jobs()
        if (job.shape or ())[1:] == wanted
    ]
    newest = sorted(found, key=lambda entry: entry[0], reverse=True)[:NEWEST]
    return {str(job.npz): f"{other.name}, {job_progress.when(job)}" for _, other, job in newest}


def _drawn(form: str, fitting: dict[str, str]) -> str:
    where = setting_widgets.key(form, "base_drawn")
    if st.session_state.get(where) not in fitting:
        st.session_state[where] = next(iter(fitting))
    return st.selectbox("Drawing", list(fitting), key=where, format_func=fitting.__getitem__, persist_state="session")


def _uploaded(form: str, run: Run, problems: list[str]) -> str:
    """Keep what is uploaded in the run's folder, where the process that draws finds it."""
    given = st.file_uploader(
        "Pictures, or one .npz file",
        ["npz", *(e.removeprefix(".") for e in image_files.EXTENSIONS)],
        accept_multiple_files=True,
    )
    where = setting_widgets.key(form, "base_uploaded")
    if not given:
        return str(st.session_state.get(where, {}).get(run.name, ""))
    contents = _named((Path(file.name).name, file.getvalue()) for file in given)
    packed = [name for name in contents if name.lower().endswith(".npz")]
    if packed and len(contents) > 1:
        problems.append("An .npz file was uploaded together with other files: upload it alone, or only images.")
        return ""
    digest = hashlib.sha256(b"".join(name.encode() + data for name, data in sorted(contents.items()))).hexdigest()[:16]
    folder = run.folder / "uploads" / digest
    try:
        for name, data in contents.items():
            if not (folder / name).exists():
                files.write_bytes(folder / name, data)
    except UserError as error:  # the disk is full
        problems.append(str(error))
        return ""
    base = str((folder / packed[0] if packed else folder).absolute())
    st.session_state[where] = {run.name: base}  # it stays chosen when the page is left
    return base


def _named(uploads: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """What was uploaded, by name: of files with one name, the same content is kept once, and another gets a number."""
    contents: dict[str, bytes] = {}
    taken: dict[str, bytes] = {}  # by names as systems compare them that make no difference between A and a
    for name, data in uploads:
        free = next(path.name for path in files.numbered(Path(name)) if taken.get(path.name.casefold(), data) == data)
        if free.casefold() not in taken:
            contents[free] = taken[free.casefold()] = data
    return contents


def _stamp(base: str) -> int:
    """Changes when the folder or file does."""
    try:
        return 0 if low_res.is_data_set(base) else Path(base).stat().st_mtime_ns
    except OSError:
        return 0


@st.cache_data(max_entries=32, ttl=60, show_spinner="Looking at the small pictures …")
def _look(config: Config, base: str, text: str, stamp: int) -> Look:
    try:
        small = low_res.read(config, SampleConfig(num_samples=LOOK, base_samples=base, classes=text))
        assert small is not None
        if small.labels is None:
            classes.parse_classes(config, text)
    except UserError as error:
        return Look(None, str(error))
    strip = images.strip(small.pixels, scale=max(1, LOOK_SIDE // config.model.small_size))
    return Look(images.encode_png(strip))
