"""What a run is: its settings, data, device and checkpoints, and what the user says of it."""

import time
import zlib
from typing import Any

import streamlit as st

from ddpm.config import codec, wording
from ddpm.config.fields import Setting
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.formatting import duration, memory, plural, some
from ddpm.host import hardware
from ddpm.runs.jobs import Status
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.runs.usage import Meter
from pages.ui.components import setting_widgets
from pages.ui.components.local_time import clock
from pages.ui.components.markdown import escape, with_code
from pages.ui.forms import checkpoint_form, sampling_form
from pages.ui.frame import layout, run_menu
from pages.ui.frame.run_store import RunView

FIELDS = wording.by_name()
DATA = ("data_dir", "image_size", "hold_out", "random_flip", "crop", "enlarge", "skip_broken")
FEW = 4  # checkpoints that are shown at once
NOTHING = "–"


def nearest(config: Config) -> tuple[str, Config]:
    """The preset with the fewest other settings, and its title; the defaults where none has fewer."""
    known = {"Default": codec.resolved(Config()), **{p.title: codec.resolved(p.config) for p in PRESETS.values()}}
    title = min(known, key=lambda name: len(changed(known[name], config)))
    return title, known[title]


def changed(base: Config, config: Config) -> dict[str, tuple[Any, Any]]:
    """The settings that differ: name -> (in `base`, in `config`), without what follows from the data."""
    found = codec.differences(base, config)
    return {name: pair for name, pair in found.items() if name in FIELDS and name != "num_classes"}


def settings(config: Config) -> None:
    """The settings that differ from the nearest preset, and all of them on request."""
    title, base = nearest(config)
    other = changed(base, config)
    if other:
        st.table(
            {
                "Setting": [escape(label(FIELDS[name])) for name in other],
                "This run": [escape(wording.shown(FIELDS[name], now)) for name, (_, now) in other.items()],
                escape(title): [escape(wording.shown(FIELDS[name], before)) for name, (before, _) in other.items()],
            },
            hide_index=True,
            width="stretch",
        )
    else:
        st.caption(f"As in the preset {escape(title)}.")
    every = st.expander("All settings", icon=":material/tune:", key="all_settings", on_change="rerun")
    if every.open:
        values = setting_widgets.values_of(config)
        every.table(
            {
                "Setting": [escape(label(FIELDS[name])) for name in values],
                "Value": [escape(wording.shown(FIELDS[name], value)) for name, value in values.items()],
            },
            hide_index=True,
            width="stretch",
        )


def label(setting: Setting) -> str:
    return f"{setting.label} ({setting.unit})" if setting.unit else setting.label


def facts(rows: dict[str, str]) -> None:
    """A table of names and values."""
    st.table(
        {"": [escape(name) for name in rows], " ": [escape(value) for value in rows.values()]},
        hide_index=True,
        hide_header=True,
        width="stretch",
    )


def data(config: Config) -> None:
    """What the run is trained on."""
    values = setting_widgets.values_of(config)
    names = config.class_names
    rows = {
        FIELDS[name].label: wording.shown(FIELDS[name], values[name])
        for name in DATA
        if values[name] or name == "data_dir"
    }
    if names:
        rows["Classes"] = f"{len(names):,}: {some(names, 6)}"
    facts(rows)


def device(status: Status | None, config: Config) -> None:
    """What computes, and where."""
    computed = status.computed if status else ""
    here = status is not None and status.pid > 0 and status.owner.here
    rows = {
        "Computed": computed or NOTHING,
        "Threads": f"{config.train.threads:,}" if config.train.threads else "as many as cores are free",
        "Machine": (status.host if status else "") or NOTHING,
    }
    if here:
        rows["Processor"] = f"{hardware.processor()}, {plural(hardware.physical(), 'core')}"
    facts(rows)


def times(view: RunView, active: bool) -> None:
    """When it began, and how long it has taken, with and without pauses."""
    status = view.status()
    trained = status.metrics.get("seconds") if status else None
    end = time.time() if active else status.updated_at if status and status.updated_at else None
    rows = {
        "Created": clock(view.created_at) if view.created_at else NOTHING,
        "Trained for": duration(trained),
        "Elapsed, pauses included": duration(end - view.created_at) if end and view.created_at else NOTHING,
    }
    facts(rows)


@st.cache_resource(show_spinner=False)
def meter() -> Meter:
    """The server's only one, as the cores in use follow from two looks."""
    return Meter()


def system(run: Run, active: bool) -> None:
    """Memory and cores of the training process, and what is left on the disk."""
    used = meter().usage(run)
    with st.grid(min_column_width=100, key="system"):
        if active:
            st.metric("Memory", memory(used.memory) if used.memory else NOTHING, help=HELP["memory"])
            cores = NOTHING if used.cores is None else f"{used.cores:,.1f} of {hardware.logical():,}"
            st.metric("Cores", cores, help=HELP["cores"])
        left = used.disk_left
        st.metric("Disk left", NOTHING if left is None else memory(left), help=HELP["disk"])


HELP = {
    "memory": "Memory that the training process takes now.",
    "cores": "Cores that the training process keeps busy, of those that this machine has for it.",
    "disk": "Free space on the disk of the runs.",
}


def checkpoints(run: Run, view: RunView) -> None:
    """The checkpoints, newest first, with what can be done with each."""
    found = view.checkpoints()
    if not found:
        st.caption("There is none yet.")
        return
    total = sum(map(size, found))
    st.caption(f"{plural(len(found), 'checkpoint')}, {memory(total)} in all.")
    rows = list(reversed(found))
    every = len(rows) <= FEW or st.session_state.get(f"every_checkpoint-{run.name}", False)
    for checkpoint in rows if every else rows[:FEW]:
        _checkpoint(run, checkpoint)
    if len(rows) > FEW:
        st.toggle(f"Show all {len(rows):,}", key=f"every_checkpoint-{run.name}")


def _checkpoint(run: Run, checkpoint: Checkpoint) -> None:
    step = checkpoint.step
    with st.container(horizontal=True, vertical_alignment="center", border=True, key=f"checkpoint-{step}"):
        kinds = ", ".join(checkpoint_form.weights_label(kind) for kind in checkpoint.weights)
        with st.container(width="stretch", gap=None):
            st.markdown(f"**Step {step:,}**")
            st.caption(f"{memory(size(checkpoint))} · trained for {duration(checkpoint.seconds)} · {escape(kinds)}")
        if st.button(
            "Sample", icon=":material/grid_view:", key=f"sample_from-{step}", type="tertiary", help="Sample from it."
        ):
            sampling_form.use_checkpoint(run.config, step)
            layout.show_run(run.name, layout.SAMPLE)
        for action, label, icon, help in BUTTONS:
            if st.button(label, icon=icon, key=f"{action}_checkpoint-{step}", type="tertiary", help=help):
                run_menu.act(action, [run.name], step)
                st.rerun()


BUTTONS = (  # action of the menu, label, icon, help
    ("continue", "Continue …", ":material/fork_right:", "Start a new run that goes on from it."),
    ("clean", "Remove …", ":material/delete:", "Remove it for good, after saying what that frees."),
)


def size(checkpoint: Checkpoint) -> int:
    """Bytes of its files, by its manifest."""
    return sum(int(entry["bytes"]) for entry in checkpoint.files.values())


def notes(run: Run) -> None:
    """What the user says of the run; what is typed is kept at once."""
    about = run.about()
    if problem := run.about_problem():
        st.warning(with_code(problem), icon=":material/warning:")
    said = [f"**{escape(about.title)}**"] if about.title else []
    said += [f":gray-badge[{escape(tag)}]" for tag in about.tags]
    if said:
        st.markdown(" ".join(said))
    key = f"notes-{run.name}-{zlib.crc32(about.notes.encode()):x}"  # another field for notes that changed elsewhere

    def keep() -> None:
        run.describe(notes=st.session_state[key])

    st.text_area(
        "Notes",
        about.notes,
        key=key,
        label_visibility="collapsed",
        placeholder="What you want to remember of this run",
        on_change=layout.callback(keep),
    )
