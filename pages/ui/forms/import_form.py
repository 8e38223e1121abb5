"""Import of an improved-diffusion folder: its contents, a name, and the process that imports it."""

from pathlib import Path

import streamlit as st

from ddpm import formatting
from ddpm.config import codec
from ddpm.config.fields import absolute, path_text
from ddpm.config.training import DataConfig
from ddpm.errors import UserError
from ddpm.runs import launch, openai_folder, run_names
from ddpm.runs.jobs import ACTIVE, Job
from ddpm.runs.openai_folder import Folder
from pages.ui.components import setting_widgets
from pages.ui.components.markdown import escape, with_code
from pages.ui.frame import layout

PATH, NAME, DATA = "import.path", "import.name", "import.data"
SUGGESTED = "import.suggested"  # in the session: the name that was suggested last
STARTED = "import.started"  # in the session: the folder that was imported last, and as which run


def show(runs_dir: Path) -> None:
    """Content of the expander."""
    typed = st.text_input(
        "Folder",
        key=PATH,
        placeholder="/tmp/openai-2021-02-18-12-00-00-000000",
        help="The folder improved-diffusion logged to (OPENAI_LOGDIR).",
    )
    if not path_text(typed):
        st.caption(
            "Its curves, checkpoints, weight averages and optimiser state become a run that can be monitored,"
            " sampled from and trained further."
        )
        return
    path = Path(absolute(typed))
    job = launch.import_job(path, runs_dir)
    if job.status() and job.state() in ACTIVE:
        layout.fragment(run_every=1.0)(_progress)(job)
        return
    begun, name = st.session_state.get(STARTED, ("", ""))
    began_here = begun == str(path)
    if (
        job.status() and job.state() == "finished" and began_here and run_names.name_problem(runs_dir, name)
    ):  # it is there
        _done(job, name)
        return
    status = job.status()
    if status and status.message and job.state() in ("failed", "lost") and began_here:
        st.error(with_code(status.message), icon=":material/error:")
    try:
        folder = openai_folder.read_folder(path)
    except UserError as error:
        setting_widgets.show_problems([str(error)])
        return
    _ask(folder, runs_dir)


def _ask(folder: Folder, runs_dir: Path) -> None:
    files = folder.newest
    averages = escape(", ".join(files.averages)) or "none"
    st.caption(
        f"{formatting.plural(len(folder.steps), 'checkpoint')}, the newest of step {files.step:,} · averages:"
        f" {averages} · {'with' if files.optimizer else 'without'} the optimiser ·"
        f" {'with' if folder.progress else 'without'} a log"
    )
    setting_widgets.suggest(NAME, SUGGESTED, run_names.free_name(runs_dir, folder.path.absolute().name))
    name = st.text_input("Run name", key=NAME)
    bad_name = run_names.name_problem(runs_dir, name)
    setting_widgets.show_problems(bad_name)
    data_dir = st.text_input(
        "Training data",
        key=DATA,
        placeholder="later",
        help="The images it was trained on: a folder, an .npz file or a data set by name. It can also be entered"
        " later.",
    )
    data = codec.with_absolute_paths(DataConfig(data_dir)).data_dir
    flags = ["--data_dir", data] if data else []
    st.caption(
        "A probe denoises a few images to infer what the files do not record: noise schedule, number of timesteps"
        " and prediction target."
    )
    with st.container(horizontal=True):
        for label, key, in_place, help in (
            ("Import", "import.copy", False, "Copies everything into a new run."),
            ("Open in place", "import.here", True, "Copies nothing: adds a few files to the folder and links to it."),
        ):
            if st.button(
                label, key=key, disabled=bool(bad_name), help=help, type="secondary" if in_place else "primary"
            ):
                with layout.errors():
                    launch.start_importing(folder.path, runs_dir, name, in_place, flags)
                    st.session_state[STARTED] = str(folder.path), name
                    st.rerun()


def _progress(job: Job) -> None:
    if job.state() not in ACTIVE:
        st.rerun()
    status = job.status()
    if status:
        share = status.step / status.total_steps if status.total_steps else 0.0
        st.progress(min(1.0, share), text=escape(status.message) or "Starting")


def _done(job: Job, name: str) -> None:
    status = job.status()
    st.success(f"{escape(name)} has been imported as a run.", icon=":material/check:")
    st.caption(escape(status.message if status else ""))
    st.page_link(layout.MONITOR, label="Monitor", query_params={"run": name}, icon=":material/monitoring:")
