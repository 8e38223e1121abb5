"""A data set that is not on this computer yet: downloads it, or reads its archive, with progress and Cancel."""

from pathlib import Path

import streamlit as st

from ddpm import formatting
from ddpm.config import fields
from ddpm.data import download
from ddpm.data_sets import ARCHIVES, DATA_SETS, WRITING
from ddpm.runs import launch
from ddpm.runs.jobs import ACTIVE, Job
from pages.ui.components import setting_widgets
from pages.ui.components.markdown import escape
from pages.ui.frame import job_progress, layout

ARCHIVE = "train.archive"  # key of the field for the path of the archive of a data set by name
MADE = "train_made"  # in the session: the folder of images that a conversion has just made


def show(name: str) -> None:
    """Shows how to get the data set `name`, or how far that is."""
    job = launch.data_job(name)
    with st.container(border=True, key="obtain_data"):
        if _is_followed(job, "The download"):
            return
        here = download.bytes_here()
        done = f", and {formatting.memory(here)} are here already" if here else ""
        st.markdown(f"**{escape(DATA_SETS[name].title)} is not on this computer yet**")
        st.caption(f"The official archive has 170 MB{done}. Nothing else is sent or loaded.")
        st.button(
            "Resume download" if here else "Download",
            icon=":material/download:",
            key="download",
            on_click=layout.callback(launch.start_getting),
            args=(name,),
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            typed = st.text_input(
                "Or its archive on this computer",
                key=ARCHIVE,
                placeholder=str(Path.home() / "Downloads" / download.archive_path().name),
                persist_state="session",
            )
            st.button(
                "Use archive",
                icon=":material/folder_zip:",
                key="use_archive",
                disabled=not typed.strip(),
                on_click=layout.callback(_use_archive),
                args=(name,),
            )


def show_archive(form: str, name: str) -> None:
    """Shows where a data set of `ARCHIVES` is had, and makes a folder of images of its archive."""
    about, job = ARCHIVES[name], launch.data_job(name)
    with st.container(border=True, key="obtain_data"):
        st.markdown(f"**This preset trains on {escape(about.title)}**")
        if _is_followed(job, "The conversion"):
            return
        st.caption(escape(about.where))
        if not about.wanted:
            return
        st.text_input(
            "Archive on this computer",
            key=setting_widgets.key(form, f"archive-{name}"),
            placeholder=about.wanted,
            help=escape(f"Path of {about.wanted}."),
            persist_state="session",
        )
        archive, beside = _archive(form, name)
        st.text_input(
            "Folder for the images",
            key=setting_widgets.key(form, f"images-{name}"),
            placeholder=beside or "Next to the archive",
            help=f"{formatting.plural(about.images, 'PNG file')} of {about.side} pixels, which take less than"
            f" {formatting.memory(about.images * about.side**2 * 3)}.",
            persist_state="session",
        )
        with st.container(horizontal=True):
            st.button(
                "Convert",
                icon=":material/folder_zip:",
                key="convert_archive",
                disabled=not archive,
                on_click=layout.callback(_convert),
                args=(form, name),
            )
            if job.state() == "finished" and (made := launch.made_folder(job)):
                st.button(
                    "Use the images made before",
                    icon=":material/folder_open:",
                    key="use_made",
                    help=escape(made),
                    on_click=layout.callback(_remember),
                    args=(made,),
                )


def _use_archive(name: str) -> None:
    launch.start_getting(name, fields.absolute(st.session_state[ARCHIVE]))


def _archive(form: str, name: str) -> tuple[str, str]:
    """The archive that its field names, and the folder beside it for the images."""
    archive = fields.absolute(st.session_state.get(setting_widgets.key(form, f"archive-{name}")) or "")
    return archive, str(Path(archive).parent / f"{name}-images") if archive else ""


def _convert(form: str, name: str) -> None:
    archive, beside = _archive(form, name)
    chosen = fields.absolute(st.session_state.get(setting_widgets.key(form, f"images-{name}")) or "")
    launch.start_converting(name, archive, chosen or beside)


def take_made() -> str:
    """The folder that a conversion has just made, once; empty if there is none."""
    return str(st.session_state.pop(MADE, ""))


def _remember(folder: str) -> None:
    st.session_state[MADE] = folder


def _is_followed(job: Job, what: str) -> bool:
    """Shows how far a job is and returns True, or shows why it has ended without a result."""
    state = job.state() if job.status() else "stopped"
    if state in ACTIVE:
        layout.fragment(run_every=1.0)(_progress)(job)
        return True
    if state in ("failed", "lost"):
        setting_widgets.show_problems([job_progress.failure_message(job, what)])
        layout.fragment(run_every=2.0)(_look_again)(job, state)  # on a busy machine its process may still come up
    return False


def _look_again(job: Job, state: str) -> None:
    if job.state() != state:
        st.rerun()


def _progress(job: Job) -> None:
    state, status = job.state(), job.status()
    if state not in ACTIVE:
        if state == "finished" and (made := launch.made_folder(job)):
            _remember(made)
        st.rerun()
    doing = status.message if status and status.message else "Starting"
    total = status.total_steps if status else 0
    say = "{:,}".format if doing == WRITING else formatting.memory
    done = f" · {say(status.step)} of {say(total)}" if status and total else ""
    job_progress.progress(job, status, f"{doing}{done}")
