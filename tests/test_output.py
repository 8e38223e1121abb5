"""Results of commands as JSON: one document on stdout, nothing else there; the same for errors."""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm.cli import main, output
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.runs import log_file
from ddpm.runs.runs import Run

Ask = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def ask(runs_dir: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs a command with --json True next to a folder of runs; returns its exit code, document and stderr."""
    monkeypatch.chdir(runs_dir.parent)

    def ask(*words: str | Path) -> tuple[int, Any, str]:
        code = main.main([*map(str, words), "--json", "True"])
        out, err = capfd.readouterr()
        return code, json.loads(out), err

    return ask


def test_the_list_of_runs(ask: Ask, runs_dir: Path, fake_run: Callable[..., Run]) -> None:
    assert ask("runs") == (0, {"runs_dir": str(runs_dir), "runs": []}, "")
    run = fake_run("mine")
    code, document, _ = ask("runs")
    (found,) = document["runs"]
    assert code == 0
    assert (found["run"], found["folder"], found["state"]) == ("mine", str(run.folder), "finished")
    assert (found["step"], found["total_steps"], found["metrics"]["loss"]) == (40, 40, pytest.approx(40**-0.5))


def test_one_run(ask: Ask, fake_run: Callable[..., Run]) -> None:
    run = fake_run("mine")
    code, document, _ = ask("runs", "mine")
    assert code == 0
    assert document["run"] == "mine"
    assert document["config"]["model"]["image_size"] == 8
    assert [c["step"] for c in document["checkpoints"]] == [20, 40]
    assert document["checkpoints"][1]["weights"]["ema_0.9"] == str(run.folder / "ema_0.9_000040.pt")
    assert [p["step"] for p in document["previews"]] == [20, 40]
    assert document["samples"] == []


def test_metrics(ask: Ask, fake_run: Callable[..., Run]) -> None:
    fake_run("mine")
    code, document, _ = ask("metrics", "mine")
    assert code == 0
    assert [row["step"] for row in document["rows"]] == list(range(31, 41))
    assert "lg_loss_scale" not in document["rows"][0], "a column that has no values is left out"
    _, document, _ = ask("metrics", "mine", "--column", "loss,lr", "--from", "4", "--to", "9")
    assert document["columns"] == ["step", "loss", "lr"]
    assert [row["step"] for row in document["rows"]] == [4, 5, 6, 7, 8, 9]
    assert document["rows"][0] == {"step": 4, "loss": 0.5, "lr": 1e-4}
    _, document, _ = ask("metrics", "mine", "--column", "loss", "--from", "4", "--last", "2")
    assert [row["step"] for row in document["rows"]] == [39, 40]
    _, document, _ = ask("metrics", "mine", "--last", "0")
    assert len(document["rows"]) == 40
    _, document, _ = ask("metrics", "mine", "--from", "100")
    assert document["rows"] == []


def test_metrics_as_text(fake_run: Callable[..., Run], runs_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_run("mine")
    words = ["metrics", "mine", "--runs_dir", str(runs_dir), "--column", "loss", "--last", "2"]
    assert main.main(words) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["step", "loss"],
        ["39", "0.16013"],
        ["40", "0.15811"],
    ]


def test_errors(ask: Ask, fake_run: Callable[..., Run]) -> None:
    fake_run("mine")
    for expected, words in (
        ("unknown-run", ["runs", "other"]),
        ("unknown-setting", ["metrics", "mine", "--column", "lss"]),
        ("out-of-range", ["metrics", "mine", "--last", "-3"]),
        ("unknown-run", ["sample", "--run", "other"]),
        ("usage", ["train", "--data_dir", "shapes", "--eta", "1"]),
        ("usage", ["metrics"]),
        ("usage", ["no-such-command"]),
    ):
        code, document, err = ask(*words)
        assert code == 2
        assert list(document) == ["error"]
        assert set(document["error"]) == {"message", "code"}
        assert document["error"]["message"]
        assert document["error"]["code"] == expected
        assert document["error"]["message"] in err


@pytest.mark.slow
def test_a_training(ask: Ask, runs_dir: Path) -> None:
    tiny = "--data_dir shapes --image_size 8 --num_channels 32 --num_res_blocks 1 --channel_mult 1 --num_heads 1"
    tiny += " --diffusion_steps 20 --noise_schedule cosine --sample_interval 0 --threads 1 --attention_resolutions="
    code, document, _ = ask("train", *tiny.split(), "--total_steps", "3", "--run", "mine")
    assert (code, document["run"], document["state"], document["step"]) == (0, "mine", "finished", 3)
    assert document["metrics"]["step"] == 3
    code, document, _ = ask("export", "mine", "--xlsx", "mine.xlsx")
    assert (code, document) == (0, {"run": "mine", "path": str(runs_dir.parent / "mine.xlsx")})
    code, document, _ = ask("export", "mine", "--openai", "theirs")
    assert document["folder"] == str(runs_dir.parent / "theirs")
    assert Path(document["folder"], "model000003.pt").exists()


def test_the_example(ask: Ask, runs_dir: Path) -> None:
    code, document, _ = ask("example")
    assert (code, document["run"], document["folder"]) == (0, "example", str(runs_dir / "example"))
    assert document["command"].startswith("ddpm sample --run example")


def test_a_file_beside_the_text(
    fake_run: Callable[..., Run], runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run("mine")
    path = tmp_path / "runs.json"
    assert main.main(["runs", "--runs_dir", str(runs_dir), "--json", str(path)]) == 0
    assert "finished" in capsys.readouterr().out
    assert json.loads(path.read_text())["runs"][0]["run"] == "mine"


@pytest.mark.parametrize(
    ("words", "alone"),
    [
        (["runs", "--json", "True"], True),
        (["runs", "--json=yes"], True),
        (["runs", "--json", "out.json"], False),
        (["runs", "--json", "False"], False),
        (["runs", "--json"], False),
        (["runs"], False),
        (["bench", "--json", "a.json", "speed", "--json", "true"], True),
    ],
)
def test_what_asks_for_json(words: list[str], alone: bool) -> None:
    assert output.is_json(words) is alone


def test_numbers_that_json_lacks_are_null() -> None:
    import numpy as np

    value = {"a": float("nan"), "b": [np.float32(1.5), np.int64(2)], "c": Path("x"), "d": np.array([np.inf, 1.0])}
    assert output.finite(value) == {"a": None, "b": [1.5, 2], "c": "x", "d": [None, 1.0]}


@pytest.fixture
def nothing_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of training steps go to a folder of this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.usefixtures("nothing_measured")
def test_a_dry_run(ask: Ask, runs_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--preset", "quick-start", "--hold_out", "0.2", "--batch_size", "7", "--dry_run", "True"]
    code, document, _ = ask(*words)
    assert (code, document["parameters"], document["total_steps"]) == (0, 1_193_539, 1000)
    assert document["memory_bytes"] > 10 * document["parameters"]
    assert document["previews"] == 10
    assert document["epochs"] == 1000 * 7 / 4000
    assert document["seconds_per_step"] is document["finish_time"] is None
    assert document["config"]["class_names"][0] == "circle"
    assert main.main(words) == 0
    assert ["Parameters", "1,193,539"] in [line.split() for line in capfd.readouterr().out.splitlines()]
    assert list(runs_dir.iterdir()) == [], "nothing is started"
    code, document, _ = ask("train", "--data_dir", "nowhere", "--dry_run", "True")
    assert (code, document["error"]["code"]) == (2, "not-found")
    code, document, _ = ask("train", "--resume", "mine", "--dry_run", "True")
    assert (code, document["error"]["code"]) == (2, "not-applicable")


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_measured")
def test_a_dry_run_knows_what_was_measured(ask: Ask, tiny: Config) -> None:
    words = ["train", *codec.to_flags(tiny), "--batch_size", "5", "--dry_run", "True"]
    _, document, _ = ask(*words, "--measure", "True")
    assert document["seconds_per_step"] > 0, document
    assert document["total_seconds"] >= 20 * document["seconds_per_step"]
    assert document["finish_time"] > time.time()
    assert document["memory_measured"]
    _, again, _ = ask(*words)
    assert again["seconds_per_step"] == document["seconds_per_step"], "as it was measured before"


@pytest.mark.slow
def test_what_is_done_with_a_checkpoint(ask: Ask, runs_dir: Path) -> None:
    shutil.copytree(Path(__file__).parent / "shapes_run", runs_dir / "example")
    source = ["--run", "example", "--out", "out"]
    code, document, _ = ask("sample", *source, "--num_samples", "2", "--steps", "2")
    out = runs_dir.parent / "out"
    assert (code, document["folder"], document["state"], document["shape"]) == (0, str(out), "finished", [2, 32, 32, 3])
    assert [Path(document["npz"]).name, Path(document["grid"]).name] == ["samples_2x32x32x3.npz", "grid.png"]
    assert document["images"] == [str(out / "images" / f"{k:05d}.png") for k in range(2)]
    assert (document["sample"]["seed"], document["checkpoint"]["step"]) == (0, 3000)
    code, document, _ = ask("sample", *source, "--num_samples", "2", "--steps", "2")
    assert (code, document["error"]["code"]) == (2, "already-exists")
    data = ["--data_dir", "shapes", "--num_samples", "2"]
    code, document, _ = ask("nll", *source[:2], "--out", "bits", *data, "--timestep_respacing", "4")
    assert (code, document["pictures"], document["timesteps"], document["state"]) == (0, 2, 4, "finished")
    assert document["bits_per_dim"] > document["ci95"] > 0
    code, document, _ = ask("microscope", *source[:2], "--out", "one", "--num_samples", "1", "--steps", "3")
    assert (code, document["total"], len(document["t"])) == (0, 3, 3)
    code, document, _ = ask("analytic", *source[:2], "--data_dir", "shapes", "--num_samples", "1")
    assert (code, Path(document["path"]).parent) == (0, runs_dir / "example")
    assert all(0 < value < 2 for value in document["mse"])


def test_what_a_terminal_would_obey_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b]0;title\x07\x9b2J\r\x08\u2028b"
    output.say(f"{name}\nsecond line")
    output.say(name, aside=True)
    output.print_document({"name": name})
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:2] == [r"a\x1b]0;title\x07\x9b2J\x0d\x08\u2028b", "second line"]
    assert printed.err == r"a\x1b]0;title\x07\x9b2J\x0d\x08\u2028b" + "\n"
    assert not set(printed.out + printed.err) & {*map(chr, range(10)), *map(chr, range(11, 32)), "\x9b", "\x7f"}
    assert json.loads(printed.out[printed.out.index("{") :]) == {"name": name}, "a document has them, in escapes"


def test_a_line_of_the_log_steers_no_terminal() -> None:
    record = logging.LogRecord("ddpm", logging.INFO, "", 0, "class \x1b[2J", (), None)
    assert log_file.Lines().format(record).endswith(r"  class \x1b[2J")


def test_a_result_is_printed_though_its_file_cannot_be_written(
    fake_run: Callable[..., Run], runs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_run("mine")
    (tmp_path / "file").touch()
    assert main.main(["runs", "--runs_dir", str(runs_dir), "--json", str(tmp_path / "file" / "runs.json")]) == 2
    assert "mine" in capsys.readouterr().out


def test_columns_of_a_log_without_steps(ask: Ask, fake_run: Callable[..., Run]) -> None:
    run = fake_run("mine")
    run.progress_path.write_text("loss,mse\n1,1\n")
    code, document, _ = ask("metrics", "mine", "--column", "loss")
    assert (code, document["error"]["code"]) == (2, "wrong-file")
