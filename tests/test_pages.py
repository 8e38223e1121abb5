"""Every page, run without a browser: with no run, a live one, and ones that ended badly."""

import os
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import unquote

import fake_run
import pytest
from app_page import ROOT, commands, open_page, plain, said, text
from asking import charts, metrics_of
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from streamlit.testing.v1 import AppTest

from ddpm.config import codec
from ddpm.config.presets import DEFAULT, PRESETS
from ddpm.runs import launch, progress_log, runs, trash
from ddpm.runs.worker import Worker
from pages.server import log_route
from pages.server.asked import Asked
from pages.ui.frame import layout, run_status

pytestmark = pytest.mark.usefixtures("runs_here")

PAGES = ["home.py", *sorted(f"pages/{path.name}" for path in (ROOT / "pages").glob("*.py") if path.stem != "__init__")]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", ["", "one"])
def test_pages_make_nothing_by_being_looked_at(page: str, name: str, runs_dir: Path) -> None:
    if name:
        fake_run.write(runs_dir, name, steps=40)
    before = {path: path.lstat().st_mtime_ns for path in runs_dir.rglob("*")}
    at = open_page(page)
    at.run()
    assert {path: path.lstat().st_mtime_ns for path in runs_dir.rglob("*")} == before


@pytest.mark.parametrize("page", PAGES)
def test_no_run(page: str) -> None:
    open_page(page)


@pytest.mark.parametrize("page", PAGES)
def test_a_live_run(page: str, runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "live", steps=40, state="running", total=100)
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", step=40, steps_per_second=4.0, seconds_left=15.0, now=True)
        open_page(page).run()


@pytest.mark.parametrize("page", PAGES)
def test_a_busy_server_may_drop_what_any_fragment_has_queued(
    page: str, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Streamlit does where a fragment's timer fires before the page's run has been sent."""
    messages: list[ForwardMsg] = []
    monkeypatch.setattr(ForwardMsgQueue, "_before_enqueue_msg", messages.append)
    run = fake_run.write(runs_dir, "live", steps=40, state="running", total=100)
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", step=40, steps_per_second=4.0, seconds_left=15.0, now=True)
        open_page(page)
    fragments = {message.auto_rerun.fragment_id for message in messages if message.HasField("auto_rerun")}
    assert len(fragments) >= {"home.py": 1, "pages/monitor.py": 2}.get(page, 0)
    for dropped in (None, *fragments):
        children: dict[tuple[int, ...], int] = {}
        deltas = (m for m in messages if m.HasField("delta") and m.delta.fragment_id != dropped)
        for path in (tuple(message.metadata.delta_path) for message in deltas):
            parent, index = path[:-1], path[-1]
            assert index <= children.get(parent, 0), f"{path} without {dropped}"
            children[parent] = max(children.get(parent, 0), index + 1)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("state", ["failed", "running"], ids=["failed", "lost"])
def test_a_run_that_crashed(page: str, state: str, runs_dir: Path) -> None:
    fake_run.write(runs_dir, "crashed", steps=40, state=state, total=100, message="CUDA took a day off.", nan_from=30)
    open_page(page).run()


@pytest.mark.parametrize("page", PAGES)
def test_a_run_that_has_written_nothing_yet(page: str, runs_dir: Path) -> None:
    runs.create_run(runs_dir, "new", fake_run.config(10))
    open_page(page).run()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", ["config.json", "status.json"])
def test_a_damaged_file_is_reported_in_a_sentence(page: str, name: str, runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "spoilt", steps=4)
    (run.folder / name).write_text('{"half')
    open_page(page).run()


RENAMED = ["mein Lauf (2)", "猫 run", "*a_b* [x](y) $c$ :smile: #1"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", RENAMED)
@pytest.mark.parametrize("page", PAGES)
def test_a_run_that_was_renamed_by_hand(page: str, name: str, runs_dir: Path) -> None:
    fake_run.write(runs_dir, "other", steps=4)
    run = fake_run.write(runs_dir, "before", steps=4)
    run.folder.rename(runs_dir / name)
    at = open_page(page, **({"run": name} if page not in ("home.py", "pages/train.py") else {}))
    assert not at.error
    if page == "home.py":
        assert f"**{name}**" in said(at)
    elif page == "pages/compare.py":
        assert {*at.multiselect(key="compared").value} == {name, "other"}
        assert {unquote(part) for part in "".join(at.query_params["runs"]).split(",")} == {name, "other"}
    elif page != "pages/train.py":
        assert at.selectbox(key="run").value == name
        assert at.query_params["run"] in (name, [name])
    if page == "pages/monitor.py":
        (further,) = [shlex.split(line) for line in commands(at) if "--resume" in line]
        assert further == ["ddpm", "train", "--resume", name, "--total_steps", "8", "--runs_dir", str(runs_dir)]


@pytest.mark.parametrize("page", PAGES)
def test_data_whose_name_is_no_text(page: str, runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "named", steps=4, state="stopped", total=8)
    run.save_config(codec.replace(run.config, {"data_dir": "/nowhere/caf\udce9"}))
    at = open_page(page, **({"run": "named"} if page != "pages/train.py" else {}))
    assert not at.exception
    assert not [box.value for box in at.error if "letters" in box.value]


FILES = [
    "config.json",
    "status.json",
    "control.json",
    "progress.csv",
    "log.txt",
    "run.lock",
    "saves",
    "samples",
    "evaluations",
]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", FILES)
def test_what_cannot_be_read_is_no_traceback(page: str, name: str, runs_dir: Path) -> None:
    """A folder in the place of a file, and a file in that of a folder, as any user may have them."""
    fake_run.write(runs_dir, "whole", steps=4)
    run = fake_run.write(runs_dir, "spoilt", steps=4)
    path = run.folder / name
    folder = "." not in name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if folder:
        path.write_bytes(b"")
    else:
        path.mkdir()
    at = open_page(page, run="spoilt").run()
    assert not at.exception
    if page == "home.py":
        assert "whole" in text(at)
        assert "spoilt" in text(at) or name == "config.json"


def play() -> None:
    """A page in which everything goes wrong that can."""
    import streamlit as st

    from pages.ui.frame import layout

    def fail() -> None:
        open(st.session_state["missing"])

    layout.page("Test")
    st.button("press", on_click=layout.callback(fail))
    layout.fragment()(fail)()
    st.write("after the fragment")
    with layout.errors():
        fail()
    st.write("after the block")
    if st.session_state["end"]:
        fail()
    raise RuntimeError("a fault of ours")


@pytest.fixture
def no_menu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of a test is none of the dashboard's."""
    monkeypatch.setattr(layout, "MENU", ())


@pytest.mark.usefixtures("no_menu")
def test_whatever_goes_wrong_in_a_page_is_a_box(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    at = AppTest.from_function(play, default_timeout=30)
    at.session_state["missing"], at.session_state["end"] = str(tmp_path / "missing"), True
    at.run()
    assert not at.exception
    assert "Traceback" not in caplog.text
    assert len(at.error) == 3, "the fragment's, the block's and the page's own"
    assert all(f"{tmp_path / 'missing'} cannot be used" in plain(box.value) for box in at.error)
    assert [m.value for m in at.markdown] == ["after the fragment", "after the block"]
    at.button[0].click().run()
    assert not at.exception
    assert len(at.error) == 4, "and the click's, on top"
    at.run()
    assert len(at.error) == 3, "which is told once"


@pytest.mark.usefixtures("no_menu")
def test_a_fault_of_the_program_shows_where_it_happened(tmp_path: Path) -> None:
    at = AppTest.from_function(play, default_timeout=30)
    at.session_state["missing"], at.session_state["end"] = str(tmp_path / "missing"), False
    at.run()
    assert [e.message for e in at.exception] == ["a fault of ours"]


@pytest.mark.slow
def test_a_folder_of_runs_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DDPM_RUNS", str(tmp_path / "file" / "runs"))
    for page in PAGES:
        at = open_page(page)
        if page == "home.py":
            assert str(tmp_path / "file") in plain(at.error[0].value)


def test_monitor_shows_a_live_run(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "live", steps=40, state="running", total=100)
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", step=40, steps_per_second=4.0, seconds_left=15.0, metrics={"loss": 0.25}, now=True)
        at = open_page("pages/monitor.py", run="live")
        assert {m.label: m.value for m in at.metric}["Speed"] == "4 it/s"
        assert {m.label: m.value for m in at.metric}["Time left"] == "15 s"
        assert [chart["runs"][0]["live"] for chart in charts(at)] == [True]
        at.button(key="save").click().run()
        assert "save" in run.requests()
        at.button(key="stop").click().run()
        assert "stop" in run.requests()
        assert worker.poll_requests() >= {"stop"}
        assert run.state() == "stopping"
        assert at.button(key="stop").disabled
        assert at.button(key="kill")


@pytest.mark.parametrize("page", ["home.py", "pages/monitor.py"])
def test_a_run_that_shares_the_cores_says_so(page: str, runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "live", steps=40, state="running", total=100)
    sentence = "2 trainings share 2 cores: this one goes on with 1 thread."
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", step=40, sharing=sentence, now=True)
        assert sentence in [plain(caption.value) for caption in open_page(page).caption]
        worker.beat(sharing="", now=True)
        assert sentence not in [plain(caption.value) for caption in open_page(page).caption]


def test_monitor_of_a_failed_run_says_why_and_resumes(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(launch, "start_training", lambda run: started.append(run.name))
    fake_run.write(runs_dir, "crashed", steps=40, state="failed", total=100, message="No room: free some space.")
    at = open_page("pages/monitor.py", run="crashed")
    assert [plain(e.value) for e in at.error] == ["No room: free some space."]
    log = log_route.log(Asked({"run": "crashed"}, {}))
    assert [line for _, line in log["lines"]][-2:] == [
        "Traceback (most recent call last):",
        "RuntimeError: No room: free some space.",
    ]
    assert at.button(key="save").disabled
    assert "failed" in at.button(key="save").help
    at.button(key="resume").click().run()
    assert started == ["crashed"]


def test_monitor_of_a_lost_run_says_what_is_safe(runs_dir: Path) -> None:
    fake_run.write(runs_dir, "gone", steps=40, state="running", total=100)
    at = open_page("pages/monitor.py", run="gone")
    assert "up to step 40 is saved" in at.error[0].value
    assert not at.button(key="resume").disabled


def test_monitor_of_a_finished_run(runs_dir: Path) -> None:
    fake_run.write(runs_dir, "done", steps=40, warning="The disk is nearly full.")
    at = open_page("pages/monitor.py", run="done")
    assert not at.button(key="train_more").disabled
    assert "resume" not in {b.key for b in at.button}
    assert [w.value for w in at.warning] == ["The disk is nearly full."]
    assert any("ddpm train --resume done --total_steps 80" in line for line in commands(at))


def test_nan_never_reaches_the_browser(runs_dir: Path) -> None:
    fake_run.write(runs_dir, "nan", steps=40, nan_from=20)
    at = open_page("pages/monitor.py", run="nan")
    assert {m.label: m.value for m in at.metric}["Loss"] == "–"
    assert metrics_of(run="nan", columns="loss")[0]["lost"]["loss"]["count"] == 21


def test_the_chart_is_told_what_to_show_and_what_it_means(runs_dir: Path) -> None:
    fake_run.write(runs_dir, "one", steps=40)
    fake_run.write(runs_dir, "two", steps=40)
    at = open_page("pages/monitor.py", run="one", x="images", smooth="0.0", log="false")
    assert at.selectbox(key="run").value == "one"
    (chart,) = charts(at)
    assert chart["runs"] == [{"name": "one", "label": "one", "colour": None, "live": False}]
    assert {*progress_log.HELP} < {*chart["help"]}
    at = open_page("pages/monitor.py", run="three")
    assert at.selectbox(key="run").value in ("one", "two", None)


def test_monitor_says_what_a_run_is(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=40, total=200)
    fake_run.save_checkpoint(run, 20, 0)
    run.save_config(codec.replace(run.config, dict(lr=3e-4, grad_clip=1.0)))
    at = open_page("pages/monitor.py", run="one")
    assert {"Curves", "Previews", "Log", "Settings", "Data", "Time", "Notes", "Checkpoints", "Device"} <= {
        box.value for box in at.header
    }
    settings, data, times, device = [
        [[plain(cell) for cell in row] for row in table.value.values.tolist()] for table in at.table
    ]
    assert settings == [
        ["Training steps", "200", "1,000"],
        ["Learning rate", "3e-4", "0.001"],
        ["Gradient clipping", "1", "off"],
        ["Log every (steps)", "1", "5"],
    ]
    assert ["Data", "shapes"] in data
    assert ["Classes", "4: circle, square, triangle, star"] in data
    assert ["Trained for", "4.0 s"] in times
    assert ["Machine", "–"] in device
    assert "Disk left" in {m.label for m in at.metric}
    assert {m.label: m.value for m in at.metric}["Trained for"] == "4.0 s"
    assert [m.value for m in at.markdown if m.value.startswith("**Step")] == ["**Step 40**", "**Step 20**"]
    assert "EMA 0.995, Raw" in said(at)
    at.text_area[0].set_value("worked *well*").run()
    assert run.about().notes == at.text_area[0].value == "worked *well*"
    at.button(key="clean_checkpoint-20").click().run()
    at.button(key="dialog_sure").click().run()
    assert [c.step for c in run.checkpoints()] == [40]
    fake_run.save_checkpoint(run, 20, 0)
    at.button(key="continue_checkpoint-40").click().run()
    assert at.selectbox(key="dialog_step").value == 40
    at.button(key="dialog_cancel").click().run()
    at.button(key="sample_from-20").click().run()
    assert not at.exception
    assert at.selectbox(key="run").value == "one"
    assert at.selectbox(key="sample.step").value == 20


def test_the_figures_are_the_ends_of_the_curves(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=40, state="running", total=100)
    end = run.metrics.iloc[-1]
    with Worker(run.folder, 100) as worker:
        worker.beat(state="running", step=41, steps_per_second=4.0, seconds_left=14.75, metrics={"loss": 9.0}, now=True)
        at = open_page("pages/monitor.py", run="one")
        shown = {m.label: m.value for m in at.metric}
        assert shown["Loss"] == f"{end['loss']:.4g}"
        assert shown["Gradient norm"] == f"{end['grad_norm']:.4g}"
        assert (shown["Speed"], shown["Time left"]) == ("4 it/s", "14.8 s" if "14.8 s" in shown.values() else "15 s")
        assert shown["Memory"].endswith("MB")
        assert shown["Cores"] in ("–", *(value for value in shown.values() if " of " in value))


def test_home_without_runs_starts_the_first_in_one_click(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(launch, "start_training", lambda run: started.append(run))
    at = open_page("home.py")
    at.button(key="quick_start").click().run()
    assert not at.exception
    assert [run.name for run in started] == ["quick-start"]
    assert started[0].config.train == PRESETS[DEFAULT].config.train
    assert started[0].config.class_names


def test_home_lists_runs_the_live_one_first(runs_dir: Path) -> None:
    live = fake_run.write(runs_dir, "live", steps=40, state="running", total=100)
    fake_run.write(runs_dir, "newer", steps=40)
    with Worker(live.folder, 100) as worker:
        worker.beat(state="running", step=40, now=True)
        at = open_page("home.py")
        names = [m.value for m in at.markdown if m.value.startswith("**")]
        assert names == ["**live**", "**newer**"]
        assert at.button(key="delete-live").disabled
        assert not at.button(key="delete-newer").disabled


def test_a_deleted_run_can_be_moved_back(runs_dir: Path) -> None:
    fake_run.write(runs_dir, "old", steps=4)
    fake_run.write(runs_dir, "new", steps=4)
    at = open_page("home.py")
    at.button(key="delete-old").click().run()
    assert (runs_dir / "old").exists()
    at.button(key="dialog_sure").click().run()
    assert not (runs_dir / "old").exists()
    assert (runs_dir / ".trash" / "old" / "config.json").exists()
    assert not at.exception
    at.run()
    at.button(key="undo_delete").click().run()
    assert (runs_dir / "old" / "config.json").exists()
    assert trash.entries(runs_dir) == []
    assert not at.exception


def test_a_page_that_watches_makes_no_threads(runs_dir: Path) -> None:
    import threading

    fake_run.write(runs_dir, "one", steps=40)
    at = open_page("pages/monitor.py", run="one")
    before = sorted(t.name for t in threading.enumerate())
    for _ in range(20):
        at.run()
    assert sorted(t.name for t in threading.enumerate()) == before


@pytest.mark.slow
def test_the_server_never_imports_torch(runs_dir: Path) -> None:
    """In a process of its own, for other tests import it."""
    fake_run.write(runs_dir, "one", steps=40)
    program = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from streamlit.testing.v1 import AppTest
for page in {PAGES!r}:
    at = AppTest.from_file({str(ROOT / "home.py")!r}, default_timeout=60)
    if page != "home.py":
        at.switch_page(page)
    at.run()
    assert not at.exception, (page, at.exception)
from ddpm.runs import runs
from pages.ui.frame import run_files, layout
run_files.workbook(runs.find_run(layout.runs_dir(), "one"))
loaded = sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "torchvision"))
assert not loaded, loaded[:5]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_state_has_a_badge_and_every_menu_entry_a_page() -> None:
    from typing import get_args

    from ddpm.runs.jobs import State

    assert set(run_status.BADGES) == set(get_args(State))
    assert all((ROOT / script).exists() for script, _, _ in layout.MENU)


def test_monitor_says_which_checkpoints_cannot_be_read(runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=40, state="stopped", total=100)
    (run.folder / "saves" / "000099.json").write_text("{")
    at = open_page("pages/monitor.py", run="one")
    assert ["000099.json" in w.value for w in at.warning] == [True]


def test_monitor_asks_where_data_is_that_was_moved(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(launch, "start_training", lambda run, *data: started.append((run.name, *data)))
    run = fake_run.write(runs_dir, "one", steps=40, state="stopped", total=100)
    at = open_page("pages/monitor.py", run="one")
    assert not at.text_input(key="moved_to-one").value.startswith("/"), "a data set by name is always there"
    assert not [w.value for w in at.warning]

    run.save_config(codec.replace(run.config, {"data_dir": str(tmp_path / "gone")}))
    at = open_page("pages/monitor.py", run="one")
    assert any(str(tmp_path / "gone") in plain(w.value) for w in at.warning)
    assert at.button(key="resume_moved").disabled
    (tmp_path / "here").mkdir()
    at.text_input(key="moved_to-one").set_value(str(tmp_path / "here")).run()
    at.button(key="resume_moved").click().run()
    assert not at.exception
    assert started == [("one", str(tmp_path / "here"), False)]


@pytest.mark.parametrize("state", ["running", "finished"])
def test_monitor_asks_nothing_about_the_data_of_a_run_that_needs_none(state: str, runs_dir: Path) -> None:
    run = fake_run.write(runs_dir, "one", steps=40, state=state, total=100)
    with Worker(run.folder, 100) if state == "running" else nullcontext() as worker:
        if worker:
            worker.beat(state="running", step=40, now=True)
        at = open_page("pages/monitor.py", run="one")
        assert not [field for field in at.text_input if field.key == "moved_to-one"]


def test_a_run_whose_name_no_address_can_have_is_left_out(runs_dir: Path) -> None:
    """Its bytes are no UTF-8: the other runs are there."""
    fake_run.write(runs_dir, "one", steps=20)
    bad = fake_run.write(runs_dir, "bad", steps=20)
    try:
        bad.folder.rename(runs_dir / os.fsdecode(b"caf\xe9"))
    except OSError:
        pytest.skip("this disk has no such names")
    for page in ("pages/monitor.py", "pages/sample.py"):
        at = open_page(page)
        assert not at.exception
        assert at.selectbox(key="run").options == ["one"]
        assert "caf" in " ".join(caption.value for caption in at.caption)
    at = open_page("pages/compare.py")
    assert at.multiselect(key="compared").options == ["one"]
    assert "caf" in " ".join(caption.value for caption in at.caption)
