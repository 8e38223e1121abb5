"""Frame of every page: title, menu, runs folder and the selected run.

A page begins with `layout.page("Title")` and continues with guards:

    run = layout.pick_run()       # the run named by ?run=NAME; explains what to do and stops where there is none
    with layout.errors():         # a UserError becomes a red box, and the page continues
        ...

A UserError is shown in a red box wherever it happens: in the page itself, which `page` arranges; in fragments made by
`layout.fragment`; and in callbacks made by `on_click=layout.callback(...)`.
"""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import get_script_run_ctx

from ddpm.errors import UserError, user_errors
from ddpm.formatting import some
from ddpm.runs import commands, example, runs
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.runs import Run
from ddpm.storage import paths
from pages.ui.components import thumbnails
from pages.ui.components.markdown import escape, with_code
from pages.ui.frame import keyboard, messages, run_labels

ROOT = Path(__file__).resolve().parents[3]
APP_NAME = "DDPM Workbench"

HOME, TRAIN, MONITOR, SAMPLE = "home.py", "pages/train.py", "pages/monitor.py", "pages/sample.py"
COMPARE, EVALUATE, EXPLORE = "pages/compare.py", "pages/evaluate.py", "pages/explore.py"
MENU = (
    (HOME, "Home", ":material/home:"),
    (TRAIN, "Train", ":material/model_training:"),
    (MONITOR, "Monitor", ":material/monitoring:"),
    (COMPARE, "Compare", ":material/compare_arrows:"),
    (SAMPLE, "Sample", ":material/grid_view:"),
    (EVALUATE, "Evaluate", ":material/straighten:"),
    (EXPLORE, "Explore", ":material/explore:"),
)
OF_A_RUN = (MONITOR, SAMPLE, EVALUATE, EXPLORE)  # pages that show one, by ?run=NAME
RUN = "run"  # in the address, and the key of the field for it
LAST_RUN = "_last_run"  # in the session: the run shown last

# Icon of dots emerging from noise.  An inline SVG, because Streamlit fetches :material: page icons from the internet.
_DOTS = "".join(
    f'<circle cx="{4 + 8 * x}" cy="{4 + 8 * y}" r="{radius}"/>'
    for y, row in enumerate(((0.8, 1.6, 1, 1.9), (1.5, 2.4, 3, 1.4), (1, 3.2, 3.6, 2.2), (1.9, 1.5, 2.4, 3)))
    for x, radius in enumerate(row)
)
ICON = f'<svg viewBox="0 0 32 32" fill="#5c7cfa">{_DOTS}</svg>'
LOGO = (
    '<svg viewBox="0 0 132 32" height="32" fill="#5c7cfa" font-family="system-ui, sans-serif" font-weight="600">'
    f'{_DOTS}<text x="42" y="14" font-size="15">DDPM</text><text x="42" y="29" font-size="14">Workbench</text></svg>'
)

STYLE = Path(__file__).with_name("page.css").read_text("utf-8")

PATHS: dict[str | type, Any] = {str: os.fsencode}  # a path may hold bytes that Streamlit does not hash as text
PAGE = "_page"  # in the session: title of the page that is open
BEGIN_ANEW = "_begin_anew"  # in the session: Train has to fill its form with the run of the address, whatever it holds
PENDING_ERROR = "_wrong"  # error of a callback, until the page shows it
EXAMPLE = "small photographs of ten classes (CIFAR-10), learned in less than three hours on one core"
EXAMPLE_SIDE = 402  # of its preview: each pixel three times


def page(title: str) -> None:
    """Begins a page: browser tab title, wide layout, menu.  The first call of every page.

    A UserError that ends the page from here on is shown in a box, as is one of the click that it answers.
    """
    if Path(sys.argv[0]).resolve() in {ROOT / script for script, _, _ in MENU}:  # by `streamlit run`
        st.error("Nothing guards a page that is started by itself: start the dashboard with `streamlit run app.py`.")
        st.stop()
    if context := get_script_run_ctx():
        context.on_script_error = _show_error
    st.set_page_config(page_title=f"{title} · {APP_NAME}", page_icon=ICON, layout="wide", initial_sidebar_state=230)
    st.html(f"<style>{STYLE}</style>")
    st.logo(LOGO, size="large")
    with st.sidebar:
        _menu()
        keyboard.show(title)
    st.session_state[PAGE] = title
    messages.show()
    if sentence := st.session_state.pop(PENDING_ERROR, ""):
        _error_box(sentence)


def place() -> tuple[str, str]:
    """The page that is open, and the run in its address."""
    return st.session_state.get(PAGE, ""), st.query_params.get(RUN, "")


def _menu() -> None:
    """Links to the pages, which keep the run that is looked at."""
    run = st.query_params.get(RUN) or st.session_state.get(LAST_RUN)
    try:
        query = {"run": runs.find_run(runs_dir(), run).name} if run else None
    except UserError:  # it was deleted, or never there
        query = None
    for script, label, symbol in MENU:
        st.page_link(
            script, label=label, icon=symbol, width="stretch", query_params=query if script in OF_A_RUN else None
        )


def tab_title(title: str) -> None:
    """Changes only the browser tab's title, as in "42% · my-run"."""
    st.set_page_config(page_title=f"{title} · {APP_NAME}")


def runs_dir() -> Path:
    """Folder of the runs: next to app.py, or where DDPM_RUNS points."""
    return paths.runs_folder() or ROOT / "runs"


def shell_runs_dir() -> Path:
    """The runs folder as a command in a shell names it: relative where it is the usual one, in the project's folder."""
    return commands.RUNS if runs_dir() == ROOT / commands.RUNS else runs_dir()


class Offer(NamedTuple):
    """A button for the example model, on a page of runs where it is not among them."""

    label: str
    help: str
    action: Callable[[], object]  # raises UserError


USE_EXAMPLE = Offer(
    "Use the example model",
    f"Copies a small trained model to the runs: {EXAMPLE}.",
    lambda: example.provide(runs_dir()),
)


def _is_addressable(name: str) -> bool:
    """Whether it can stand in the address of a page: not a name of bytes that are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def addressable(listed: Sequence[Run], room: DeltaGenerator | None = None) -> list[Run]:
    """The runs that an address can name; says which others are left out, in `room` where that is given."""
    found = [run for run in listed if _is_addressable(run.name)]
    if len(found) < len(listed):
        with room or contextlib.nullcontext():
            others = escape(some([run.name for run in listed if run not in found], 3))
            st.caption(f"Left out, as no address can have such a name: {others}. Rename the folder.")
    return found


def pick_run(
    candidates: Sequence[Run] | None = None,
    *,
    empty: str = "There are no runs yet. Train one first: the quick start takes one click.",
    offer: Offer | None = None,
    room: DeltaGenerator | None = None,
) -> Run:
    """A selectbox of runs, those that are not archived first; kept in the address as ?run=NAME, and from page to page.

    Without candidates it shows `empty` with links to start one, and stops the page.  offer: a button for the example
    model, unless that is a candidate.  room: where that is said, if there is little of it around the selectbox.
    """
    found = addressable(runs.list_runs(runs_dir()) if candidates is None else candidates, room)
    if not found:
        with room or contextlib.nullcontext():
            no_runs(empty, offer)
        st.stop()
    names = run_labels.labels(found)
    by_name = {run.name: run for run in found}
    if RUN not in st.query_params:
        before = st.session_state.get(LAST_RUN)
        st.query_params[RUN] = before if before in by_name else _most_active([by_name[name] for name in names]).name
    asked = st.query_params[RUN]
    st.session_state[RUN] = asked if asked in by_name else None
    name = st.selectbox(
        "Run",
        list(names),
        index=None,
        key=RUN,
        format_func=lambda name: names[name],
        required=True,
        label_visibility="collapsed",
        on_change=_choose_run,
    )
    if name is None:  # ?run= names one that is not there
        (room or st).info("There is no run with that name: choose one from the list.", icon=":material/search_off:")
        st.stop()
    st.session_state[LAST_RUN] = name
    if offer and name == example.NAME:
        st.caption(
            f":material/school: This is the included example model: {EXAMPLE}. The quick start on the home page"
            " trains one of your own."
        )
    elif offer and example.NAME not in by_name:
        _offer_button(offer, "tertiary")
    return by_name[name]


def _offer_button(offer: Offer, type: Literal["primary", "tertiary"]) -> None:
    st.button(
        escape(offer.label),
        icon=":material/school:",
        type=type,
        key="use_example",
        help=escape(offer.help),
        on_click=callback(_use_example),
        args=(offer,),
    )


def _use_example(offer: Offer) -> None:
    offer.action()
    st.query_params[RUN] = example.NAME


def _choose_run() -> None:
    st.query_params[RUN] = st.session_state[RUN]


def show_run(name: str, page: str = MONITOR) -> None:
    """Goes to a page on that run."""
    st.switch_page(page, query_params={RUN: name})


def _most_active(found: Sequence[Run]) -> Run:
    return next((run for run in found if run.state() in ACTIVE), found[0])


def no_runs(sentence: str, offer: Offer | None = None) -> None:
    """Shows what to do where there is nothing to show yet, and with an offer what the example model samples."""
    st.info(escape(sentence), icon=":material/lightbulb:")
    with st.container(horizontal=True, vertical_alignment="center"):
        if offer:
            _offer_button(offer, "primary")
        st.page_link(HOME, label="Quick start", icon=":material/rocket_launch:")
        st.page_link(TRAIN, label="Choose data and settings", icon=":material/model_training:")
    if offer:
        run = Run(example.ASSET)
        if image := thumbnails.shown(run, run.previews()[-1][1], EXAMPLE_SIDE):
            st.image(image, width=EXAMPLE_SIDE, caption=f"The example model: {EXAMPLE}.", alt="Samples of it")


@contextlib.contextmanager
def errors(stop: bool = False) -> Iterator[None]:
    """Shows a UserError as a red box; the page continues after the block, or stops there."""
    try:
        with user_errors():
            yield
    except UserError as error:
        _error_box(str(error))
        if stop:
            st.stop()


def fragment(run_every: float | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Streamlit's fragment, a part of the page that reruns by itself; errors are shown in its place.

    It stands in a container of the page's: when a fragment's timer fires while the page still runs on a busy machine,
    Streamlit drops what the page's run has queued for that fragment.  Without the container, whatever follows the
    fragment would then name a place in the page that does not exist yet, and the browser shows an error instead.
    """

    def decorate(render: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(render)
        def boxed(*args: Any, **kwargs: Any) -> None:
            with errors():
                render(*args, **kwargs)
            messages.refresh()

        def contained(*args: Any, **kwargs: Any) -> None:
            with st.container():
                st.fragment(run_every=run_every)(boxed)(*args, **kwargs)

        return contained

    return decorate


def callback(action: Callable[..., object]) -> Callable[..., None]:
    """Wraps the callback of a widget; errors are shown at the top of the page."""

    @functools.wraps(action)
    def boxed(*args: Any, **kwargs: Any) -> None:
        try:
            with user_errors():
                action(*args, **kwargs)
        except UserError as error:
            st.session_state[PENDING_ERROR] = str(error)

    return boxed


def _error_box(sentence: str) -> None:
    st.error(with_code(sentence), icon=":material/error:")


KNOWN = (UserError, OSError, UnicodeError)


def _show_error(error: Exception) -> bool:
    """Shows the error that ended a page; False for a bug, whose traceback Streamlit shows."""
    if not isinstance(error, KNOWN):
        return False
    with errors():
        raise error
    return True


def _is_bug(record: logging.LogRecord) -> bool:
    """Whether a record with a traceback is a bug of the program."""
    return not (record.exc_info and isinstance(record.exc_info[1], KNOWN))


logging.getLogger("streamlit.error_util").addFilter(_is_bug)
