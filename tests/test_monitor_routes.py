"""What the server answers for Monitor: previews, lines of the log, rows."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import fake_run
import pytest
from PIL import Image
from raising import raises_error
from starlette.responses import Response
from waiting import until

from ddpm.errors import UserError
from ddpm.runs import log_lines, usage
from ddpm.runs.log_lines import LogReader
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import image_limits
from pages.server import asked, log_route, previews_route, row_route
from pages.server.asked import Asked
from pages.ui.frame import layout, run_files

pytestmark = pytest.mark.usefixtures("runs_here")


def ask(read: Any, headers: dict[str, str] | None = None, **arguments: object) -> Any:
    return read(Asked({key: str(value) for key, value in arguments.items()}, headers or {}))


def answer(read: Any, **arguments: object) -> Response:
    return asked._answer(read, Asked({key: str(value) for key, value in arguments.items()}, {}))


@pytest.fixture
def run(runs_dir: Path) -> Run:
    return fake_run.write(runs_dir, "one", steps=400)


def test_previews_are_listed_and_sent_as_they_are_asked_for(run: Run) -> None:
    found = ask(previews_route.previews, run="one")
    assert (found["steps"], found["labels"], found["active"]) == ([100, 200, 400], ["100", "200", "400"], False)
    assert ask(previews_route.previews, run="one", since=found["revision"]) == {"same": True, "active": False}
    sizes = {}
    for side in previews_route.SIDES:
        sent = ask(previews_route.preview, run="one", step=200, side=side)
        (run.folder / "seen.png").write_bytes(sent.body)
        with Image.open(run.folder / "seen.png") as image:
            sizes[side] = image.size
    assert sizes == {120: (120, 120), 768: (768, 768), 1536: (1536, 1536), 0: (128, 128)}
    tag = {"if-none-match": sent.headers["etag"]}
    assert ask(previews_route.preview, tag, run="one", step=200, side=0).status_code == 304
    fake_run.save_preview(run, 200, 200)
    assert ask(previews_route.preview, tag, run="one", step=200, side=0).status_code == 200


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"run": "two"},
        {"run": "../one"},
        {"run": "o" * 300},
        {"run": "one", "step": "-1"},
        {"run": "one", "step": "٣"},
        {"run": "one", "step": "1" * 16},
        {"run": "one", "step": 300},
        {"run": "one", "step": 200, "side": 7},
        {"run": "one", "step": 200, "side": "1e3"},
    ],
)
def test_what_is_not_there_or_no_argument_is_refused_in_a_sentence(run: Run, arguments: dict[str, object]) -> None:
    refused = answer(previews_route.preview, **arguments)
    assert refused.status_code in (400, 404)
    assert refused.media_type == "text/plain"
    assert bytes(refused.body).count(b"\n") == 1


def test_an_image_that_is_none_or_too_large_is_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.folder / "samples" / "000300.png").write_bytes(b"no image")
    with raises_error("not-an-image", "000300.png"):
        ask(previews_route.preview, run="one", step=300, side=120)
    monkeypatch.setenv(image_limits.VARIABLE, "1000")
    with raises_error("image-too-large", "000400.png"):
        ask(previews_route.preview, run="one", step=400, side=120)
    assert answer(previews_route.preview, run="one", step=400, side=120).status_code == 400


def test_the_log_is_found_by_step_in_a_log_of_any_length(run: Run) -> None:
    with open(run.log_path, "w") as log:
        log.write("begins\n")
        log.writelines(f"12:00:00  step {step}  loss 0.5 {'x' * 40}\n" for step in range(0, 30_000, 5))
        log.write("Saved the checkpoint of step 20000\n")
        log.writelines(f"12:30:00  step {step}  again\n" for step in range(20_005, 25_000, 5))
    reader = LogReader(run)
    assert len(reader.tail().lines) == log_lines.MOST_LINES
    assert reader.tail().lines[-1].step == 24_995
    for step, text in [(0, "step 0 "), (5004, "step 5000 "), (10_000, "step 10000 "), (24_000, "step 24000  again")]:
        found = reader.around(step)
        assert text in found.lines[log_lines.nearest(found.lines, step)].text
        assert len(found.lines) <= log_lines.MOST_LINES
    assert "loss" in reader.around(29_000).lines[log_lines.nearest(reader.around(29_000).lines, 29_000)].text
    with open(run.log_path, "a") as log:
        log.write("step 40000  new\nstep 40005 half a l")
    assert reader.around(40_000).lines[-2:] == [(40_000, "step 40000  new"), (40_005, "step 40005 half a l")]
    run.log_path.write_text("other\n")
    assert reader.around(3).lines == [(None, "other")]
    run.log_path.unlink()
    assert reader.around(3).lines == []


def test_a_log_is_sent_as_text_whatever_is_in_it(run: Run) -> None:
    run.log_path.write_bytes(b"\x1b[31m<b>step 7</b>\xff\n" + b"y" * 100_000 + b"\n")
    sent = json.loads(bytes(answer(log_route.log, run="one").body))
    assert [(step, len(text)) for step, text in sent["lines"]] == [(None, log_lines.MOST_LINE + 2)]
    found = LogReader(run)
    run.log_path.write_bytes(b"\x1b[31m<b>step 7</b>\xff\n" + b"y" * 5000 + b"\n")
    first, second = found.tail().lines
    assert first == (7, "\\x1b[31m<b>step 7</b>\ufffd")
    assert len(second.text) == log_lines.MOST_LINE + 2
    # Once the change has been noticed, which takes the watcher a moment.
    until(lambda: ask(log_route.log, run="one", since=ask(log_route.log, run="one")["revision"]).get("same", False))


def test_a_row_is_that_of_the_nearest_step(run: Run) -> None:
    row = ask(row_route.row, run="one", step=100)
    rows = run.metrics
    there = rows[rows["step"] == 100].iloc[0]
    assert (row["step"], row["label"], row["previous"], row["next"]) == (100, "100", 99, 101)
    assert dict(row["values"]) == {
        "Loss": f"{there['loss']:.4g}",
        "Gradient norm": f"{there['grad_norm']:.4g}",
        "Learning rate": "0.001",
        "Trained for": "10 s",
        "Images seen": "1,600",
    }
    assert ask(row_route.row, run="one")["step"] == 400
    assert (ask(row_route.row, run="one", step=9999)["step"], ask(row_route.row, run="one", step=0)["step"]) == (400, 1)
    assert ask(row_route.row, run="one")["next"] is None


def test_a_run_without_anything_has_no_row_no_line_and_no_preview(runs_dir: Path) -> None:
    from ddpm.runs import runs

    runs.create_run(runs_dir, "new", fake_run.config(10))
    assert ask(row_route.row, run="new")["step"] is None
    assert ask(log_route.log, run="new", step=3)["lines"] == []
    assert ask(previews_route.previews, run="new")["steps"] == []


def test_all_previews_come_down_as_they_are(run: Run) -> None:
    (run.folder / "samples" / "000300.png").write_bytes(b"no image")
    with zipfile.ZipFile(io.BytesIO(run_files.previews(run))) as zipped:
        assert zipped.namelist() == [f"one/000{step}.png" for step in (100, 200, 300, 400)]
        assert zipped.read("one/000300.png") == b"no image"
        assert zipped.read("one/000400.png") == (run.folder / "samples" / "000400.png").read_bytes()


def test_a_process_is_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = usage.Meter()
    idle = meter.usage(run)
    assert (idle.memory, idle.cores) == (None, None)
    assert idle.disk_left is not None
    monkeypatch.setattr(usage, "LEAST", 0.0)
    with Worker(run.folder, 400):
        assert meter.usage(run).cores is None
        sum(k * k for k in range(2_000_000))
        found = meter.usage(run)
        assert found.memory is not None
        assert found.memory > 10**7
        assert found.cores is not None
        assert found.cores > 0.1


def test_routes_are_those_of_the_folder_of_the_runs(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(layout, "runs_dir", lambda: tmp_path / "other")
    with pytest.raises(UserError):
        ask(previews_route.previews, run="one")
