"""The package as a library: `import ddpm` and its seven names."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import ddpm
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.runs.runs import Run
from ddpm.training.trainer import Report

ROOT = Path(ddpm.__file__).parents[1]


def python(code: str, cwd: Path = ROOT) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_import_is_lazy() -> None:
    heavy = "[name for name in ('torch', 'pandas', 'numpy', 'psutil') if name in sys.modules]"
    assert python(f"import sys, ddpm; dir(ddpm); print({heavy})").strip() == "[]"
    code = "import sys, ddpm; ddpm.list_runs(); ddpm.Config(); ddpm.PRESETS; print('torch' in sys.modules)"
    assert python(code).strip() == "False"


def test_names() -> None:
    names = {"Config", "PRESETS", "evaluate", "list_runs", "load", "open_run", "train"}
    assert set(ddpm.__all__) == names
    assert names <= set(dir(ddpm))
    assert all(getattr(ddpm, name) is not None for name in names)
    assert not {path.stem for path in (ROOT / "ddpm").iterdir()} & names, "a subpackage would take its place"
    assert (ROOT / "ddpm" / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ddpm.trian  # noqa: B018


def test_runs(fake_run: Callable[..., Run], runs_dir: Path) -> None:
    assert ddpm.list_runs(runs_dir) == []
    assert ddpm.list_runs(runs_dir / "none") == []
    fake_run("one")
    two = fake_run("two")
    assert [run.name for run in ddpm.list_runs(runs_dir)] == ["two", "one"]
    run = ddpm.open_run("two", runs_dir)
    assert run == two == ddpm.open_run(two.folder) == ddpm.open_run(str(two.folder)) == ddpm.open_run(two)
    assert isinstance(run.metrics, pd.DataFrame)
    assert run.metrics["step"].tolist() == list(range(1, 41))
    assert (run.config.model.image_size, run.state(), [c.step for c in run.checkpoints()]) == (8, "finished", [20, 40])
    for name in ("three", runs_dir / "three"):
        with pytest.raises(UserError) as raised:
            ddpm.open_run(name, runs_dir)
        assert raised.value.code in ("unknown-run", "not-a-run")


def losses(reports: list[Report]) -> list[float]:
    return [float(report.losses["loss"].mean()) for report in reports]


def test_training_in_memory(tiny: Config, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs_dir.parent)
    training = ddpm.train(tiny, total_steps=5, seed=3)
    reports = list(training)
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    assert training.run is None
    assert (training.step, training.config.train.seed, training.config.class_names[0]) == (5, 3, "circle")
    assert losses(reports) == losses(list(ddpm.train(tiny, total_steps=5, seed=3)))
    assert list(Path().rglob("*.pt")) == []
    weights = training.model("model").network.state_dict()
    averages = training.model().network.state_dict()
    assert any(not torch.equal(weights[name], averages[name]) for name in weights)


def test_training_writes_what_the_command_writes(tiny: Config, runs_dir: Path) -> None:
    from ddpm.cli import main
    from ddpm.config import codec

    training = ddpm.train(tiny, run="ours", runs_dir=runs_dir)
    reports = list(training)
    run = ddpm.open_run("ours", runs_dir)
    assert training.run == run
    assert (len(reports), run.state()) == (20, "finished")
    flags = codec.to_flags(tiny)
    assert main.main(["train", *flags, "--run", "theirs", "--runs_dir", str(runs_dir)]) == 0
    other = ddpm.open_run("theirs", runs_dir)
    names = sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*"))
    assert names == sorted(str(path.relative_to(other.folder)) for path in other.folder.rglob("*"))
    assert run.config == other.config
    same = run.metrics.drop(columns=["seconds", "steps_per_second"])
    pd.testing.assert_frame_equal(same, other.metrics.drop(columns=["seconds", "steps_per_second"]))
    for name in run.checkpoint().files:
        if not name.startswith("state"):
            assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    assert "DDPM Workbench" in run.log_path.read_text()
    assert "Finished: 20 steps" in run.log_path.read_text()


def test_closing_saves_and_it_can_be_resumed(tiny: Config, runs_dir: Path) -> None:
    whole = list(ddpm.train(tiny, run=runs_dir / "whole"))
    training = ddpm.train(tiny, run=runs_dir / "part")
    first = [next(training) for _ in range(7)]
    training.close()
    run = ddpm.open_run("part", runs_dir)
    assert (run.state(), run.checkpoint().step) == ("stopped", 7)
    with pytest.raises(StopIteration):
        next(training)
    rest = list(ddpm.train(run))
    assert [report.step for report in rest] == list(range(8, 21))
    assert losses(first + rest) == losses(whole)
    assert run.state() == "finished"
    with pytest.raises(UserError) as raised:
        ddpm.train(run)
    assert raised.value.code == "nothing-left"
    assert run.state() == "finished", "to be refused changes nothing"


def test_leaving_the_loop_saves_too(tiny: Config, runs_dir: Path) -> None:
    for report in ddpm.train(tiny, run=runs_dir / "mine"):
        if report.step == 4:
            break
    run = ddpm.open_run(runs_dir / "mine")
    assert (run.state(), run.checkpoint().step) == ("stopped", 4)


def test_closing_before_the_first_step(tiny: Config, runs_dir: Path) -> None:
    ddpm.train(tiny, run=runs_dir / "mine").close()
    run = ddpm.open_run(runs_dir / "mine")
    assert (run.state(), run.checkpoints()) == ("stopped", [])


def test_closing_after_the_last_step(tiny: Config, runs_dir: Path) -> None:
    training = ddpm.train(tiny, run=runs_dir / "mine", total_steps=3)
    for report in training:
        if report.step == 3:
            break
    training.close()
    assert ddpm.open_run(runs_dir / "mine").state() == "finished"


@pytest.mark.parametrize(
    ("arguments", "settings", "code"),
    [
        (["no-such-preset"], {}, "unknown-setting"),
        ([], {"learning_rate": 1}, "unknown-setting"),
        ([], {"lr": 5.0}, "out-of-range"),
        ([], {"data_dir": "nowhere"}, "not-found"),
    ],
)
def test_training_refuses_at_once(arguments: list[str], settings: dict[str, object], code: str, runs_dir: Path) -> None:
    with pytest.raises(UserError) as raised:
        ddpm.train(*arguments, run=runs_dir / "mine", **settings)
    assert raised.value.code == code
    assert not (runs_dir / "mine").exists()


def test_a_name_that_is_taken(tiny: Config, fake_run: Callable[..., Run], runs_dir: Path) -> None:
    run = fake_run("mine")
    with pytest.raises(UserError) as raised:
        ddpm.train(tiny, run="mine", runs_dir=runs_dir)
    assert raised.value.code == "already-exists"
    with pytest.raises(UserError) as raised:
        ddpm.train(run, lr=1.0)
    assert raised.value.code == "settings-are-fixed"
