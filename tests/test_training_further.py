"""Training further and from earlier checkpoints is what training straight on would have been, to the bit."""

from pathlib import Path

import pytest
import torch

import ddpm
from ddpm.checkpoints import checkpoint_files
from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.runs import copying
from ddpm.runs.runs import Run

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(config: Config | Run, runs_dir: Path, name: str | None = None, **settings: object) -> Run:
    training = ddpm.train(config, run=name, runs_dir=runs_dir, **settings)  # type: ignore[arg-type]
    for _ in training:
        pass
    assert training.run is not None
    return Run(training.run.folder)


def check_same(one: Run, other: Run, step: int) -> None:
    """Weights, averages and optimiser of that step are equal, and so is the log, but for what is measured by clocks."""
    for kind in ("model", "ema_0.9", "ema_0.99"):
        mine, theirs = (checkpoint_files.load_weights(run.checkpoint(step).path(kind)).tensors for run in (one, other))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    mine, theirs = (checkpoint_files.read(run.checkpoint(step).path("opt"))["state"] for run in (one, other))
    assert all(torch.equal(mine[k]["exp_avg_sq"], theirs[k]["exp_avg_sq"]) for k in theirs)
    columns = ["step", "loss", "grad_norm", "lr", "samples"]
    rows = [run.metrics[run.metrics["step"] <= step][columns] for run in (one, other)]
    assert rows[0].equals(rows[1])


def test_further_is_as_straight_on(runs_dir: Path, tiny: Config) -> None:
    config = codec.replace(tiny, {"total_steps": 10, "save_interval": 4})
    straight = trained(codec.replace(config, {"total_steps": 14}), runs_dir, "straight")
    run = trained(config, runs_dir, "run")
    assert run.state() == "finished"
    further = trained(run, runs_dir, total_steps=14)
    assert (further.state(), further.config) == ("finished", straight.config)
    status = further.status()
    assert status is not None
    assert (status.step, status.total_steps, status.warning) == (14, 14, "")
    check_same(further, straight, 14)

    # From an earlier checkpoint, in a run of its own: the old one stays as it is.
    before = sorted((p.name, p.stat().st_mtime_ns) for p in further.folder.rglob("*") if p.is_file())
    branch = trained(copying.copy_run(further, "branch", step=8), runs_dir)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in further.folder.rglob("*") if p.is_file()) == before
    assert [c.step for c in branch.checkpoints()] == [8, 12, 14]
    check_same(branch, further, 14)
    assert branch.status().warning == ""  # type: ignore[union-attr]

    # A copy of all goes on likewise.
    copy = trained(copying.copy_run(further, "copy"), runs_dir, total_steps=18)
    assert [c.step for c in copy.checkpoints()] == [4, 8, 10, 12, 14, 16, 18]
    check_same(copy, trained(branch, runs_dir, total_steps=18), 18)


def test_the_command_trains_a_finished_run_further(
    runs_dir: Path, tiny: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(codec.replace(tiny, {"total_steps": 4, "save_interval": 4}), runs_dir, "run")
    where = ["--runs_dir", str(runs_dir)]
    assert main.main(["train", "--resume", "run", *where]) == 0
    assert "--total_steps 8" in capsys.readouterr().out
    assert main.main(["train", "--resume", "run", "--total_steps", "4", *where]) == 2
    assert main.main(["train", "--resume", "run", "--total_steps", "8", *where]) == 0
    assert [c.step for c in run.checkpoints()] == [4, 8]
    assert (run.state(), Run(run.folder).config.train.total_steps) == ("finished", 8)
    assert main.main(["train", "--resume", "run", "--lr", "1", *where]) == 2


def test_an_annealed_rate_falls_to_the_new_end(runs_dir: Path, tiny: Config) -> None:
    config = codec.replace(tiny, {"total_steps": 4, "lr_anneal_steps": 4, "save_interval": 4, "lr": 1e-3})
    run = trained(trained(config, runs_dir, "run"), runs_dir, total_steps=8)
    assert list(run.metrics["lr"]) == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4, 5e-4, 3.75e-4, 2.5e-4, 1.25e-4])
