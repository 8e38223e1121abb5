"""The command line as a user types it, in processes of its own where one is stopped or killed, or waits for another."""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from openpyxl import load_workbook
from PIL import Image
from raising import raises_error
from tiny import MODEL_FLAGS
from waiting import PATIENCE, until

from ddpm.cli import main
from ddpm.config import codec, fields
from ddpm.config.training import Config
from ddpm.runs.jobs import Job
from ddpm.runs.runs import Run

pytestmark = pytest.mark.usefixtures("threads_afterwards")

TINY = [
    "--data_dir",
    "cifar10-mini",
    *MODEL_FLAGS,
    *shlex.split(
        "--batch_size 4 --microbatch 2 --dropout 0.2 --class_cond True --random_flip True --ema_rate 0.9,0.99 "
        "--log_interval 3 --sample_interval 10 --preview_samples 4 --preview_steps 3 --threads 1"
    ),
]


def ddpm(*arguments: str | Path, cwd: Path, timeout: float = 120, code: int = 0) -> str:
    """Run `python -m ddpm`; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "ddpm", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def here(*arguments: str | Path, cwd: Path, code: int = 0) -> str:
    """The same in this process, which has loaded torch already."""
    said = io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        found = main.main([str(argument) for argument in arguments])
    assert found == code, said.getvalue()
    return said.getvalue()


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ddpm", *arguments],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])},
    )


def wait_for_step(job: Job, step: int) -> None:
    until(lambda: (status := job.status()) and status.step >= step, f"step {step}")


def contents(run: Run, step: int) -> list[torch.Tensor]:
    def flat(value: object) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value]
        if isinstance(value, dict):
            return [t for v in value.values() for t in flat(v)]
        return [t for v in value for t in flat(v)] if isinstance(value, list) else []

    checkpoint = run.checkpoint(step)
    return [t for name in sorted(checkpoint.files) for t in flat(torch.load(run.folder / name, weights_only=True))]


def rows(run: Run) -> list[str]:
    """progress.csv without the columns that the machine decides."""
    lines = [line.split(",") for line in run.progress_path.read_text().splitlines()]
    measured = {lines[0].index(name) for name in ("seconds", "steps_per_second", "memory_mb")}
    return [",".join(cell for i, cell in enumerate(line) if i not in measured) for line in lines]


@pytest.mark.slow
def test_stop_and_resume_equal_never_having_stopped(tmp_path: Path) -> None:
    """20 steps straight against about 10, a stop by request, and the rest."""
    here("train", *TINY, "--total_steps", "20", "--run", "straight", cwd=tmp_path)
    straight, stopped = Run(tmp_path / "runs" / "straight"), Run(tmp_path / "runs" / "stopped")
    assert straight.state() == "finished"

    here("train", *TINY, "--total_steps", "20", "--run", "stopped", "--save_interval", "1", cwd=tmp_path)
    for manifest in sorted((stopped.folder / "saves").glob("*.json"))[10:]:
        manifest.unlink()  # as if the process had been killed after step 10
    assert stopped.checkpoint().step == 10
    ddpm("train", "--resume", "stopped", cwd=tmp_path)
    one, other = contents(straight, 20), contents(stopped, 20)
    assert len(one) == len(other) > 100
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
def test_a_polite_stop_in_the_middle(tmp_path: Path) -> None:
    here("train", *TINY, "--total_steps", "200", "--run", "straight", cwd=tmp_path)
    straight, run = Run(tmp_path / "runs" / "straight"), Run(tmp_path / "runs" / "stopped")
    process = start("train", *TINY, "--total_steps", "200", "--run", "stopped", cwd=tmp_path)
    wait_for_step(run, 10)
    said = here("stop", "stopped", cwd=tmp_path)
    assert process.wait(PATIENCE) == 0
    at = int(re.search(r"stopped at step (\d+)", said).group(1))  # type: ignore[union-attr]
    assert 10 <= at < 200
    assert run.state() == "stopped"
    assert [c.step for c in run.checkpoints()] == [at]
    assert "nothing to stop" in here("stop", "stopped", cwd=tmp_path, code=2)

    process = start("train", "--resume", "stopped", cwd=tmp_path)
    wait_for_step(run, at + 5)
    process.send_signal(signal.SIGTERM)  # a stop too
    assert process.wait(PATIENCE) == 0
    assert run.state() == "stopped"
    here("train", "--resume", "stopped", cwd=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(contents(straight, 200), contents(run, 200), strict=True))
    assert rows(straight) == rows(run), "the log is that of one training"
    assert "has done all its 200 steps" in here("train", "--resume", "stopped", cwd=tmp_path)
    assert run.state() == "finished", "it changes nothing"


@pytest.mark.slow
def test_train_sample_export(tmp_path: Path) -> None:
    """The journey of the README, on a folder of real images."""
    with np.load(Path(main.__file__).parents[1] / "assets" / "cifar10_mini.npz") as mini:
        pixels = next(mini[name] for name in mini.files if mini[name].ndim == 4)[:40]
    for k, image in enumerate(pixels):
        (tmp_path / "cifar").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "cifar" / f"{'ab'[k % 2]}_{k:05d}.png")
    ddpm("train", *TINY, "--data_dir", "cifar", "--total_steps", "12", "--run", "mine", "--seed", "3", cwd=tmp_path)
    run = Run(tmp_path / "runs" / "mine")
    assert run.config.class_names == ("a", "b")
    assert [step for step, _ in run.previews()] == [10, 12]
    table = here("runs", cwd=tmp_path)
    assert re.search(r"mine +finished +12/12", table)

    flags = ["--num_samples", "6", "--use_ddim", "True", "--timestep_respacing", "ddim5", "--eta", "0", "--seed", "0"]
    ddpm("sample", "--run", "mine", *flags, "--out", "one", cwd=tmp_path)
    here(
        "sample",
        "--model_path",
        "runs/mine/ema_0.9_000012.pt",
        *flags,
        "--batch_size",
        "4",
        "--out",
        "two",
        cwd=tmp_path,
    )
    with (
        np.load(tmp_path / "one" / "samples_6x8x8x3.npz") as one,
        np.load(tmp_path / "two" / "samples_6x8x8x3.npz") as two,
    ):
        assert one["arr_0"].dtype == np.uint8
        assert one["arr_0"].shape == (6, 8, 8, 3)
        assert one["arr_1"].tolist() == [0, 1, 0, 1, 0, 1]
        np.testing.assert_array_equal(one["arr_0"], two["arr_0"])
        first = np.asarray(Image.open(tmp_path / "one" / "images" / "00000.png"))
        np.testing.assert_array_equal(first, one["arr_0"][0])
    settings = json.loads((tmp_path / "one" / "settings.json").read_text())
    assert settings["checkpoint"]["step"] == 12
    assert settings["sample"]["seed"] == 0
    again = settings["command"].split()[1:]
    here(*again, "--out", "three", cwd=tmp_path)
    assert (tmp_path / "three" / "grid.png").read_bytes() == (tmp_path / "one" / "grid.png").read_bytes()
    assert "already holds samples" in here("sample", "--run", "mine", *flags, "--out", "one", cwd=tmp_path, code=2)

    here("sample", "--run", "mine", *flags, "--classes", "b", "--weights", "model", "--out", "b", cwd=tmp_path)
    with np.load(tmp_path / "b" / "samples_6x8x8x3.npz") as sampled:
        assert sampled["arr_1"].tolist() == [1] * 6

    here("export", "mine", "--xlsx", "mine.xlsx", cwd=tmp_path)
    assert load_workbook(tmp_path / "mine.xlsx", read_only=True).sheetnames[:3] == ["Summary", "Config", "Metrics"]


@pytest.mark.slow
def test_killed_at_any_time_it_can_be_resumed(tmp_path: Path) -> None:
    here("train", *TINY, "--total_steps", "60", "--run", "straight", cwd=tmp_path)
    straight, run = Run(tmp_path / "runs" / "straight"), Run(tmp_path / "runs" / "killed")
    arguments = ["train", *TINY, "--total_steps", "60", "--save_interval", "5", "--run", "killed"]
    for step in (7, 23, 41):
        process = start(*arguments, cwd=tmp_path)
        wait_for_step(run, step)
        process.kill()
        process.wait()
        assert run.state() == "lost"
        arguments = ["train", "--resume", "killed"]
    here(*arguments, cwd=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(contents(straight, 60), contents(run, 60), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="limits of file sizes are POSIX")
def test_a_full_disk_ends_with_a_sentence_and_what_was_saved_stays(tmp_path: Path) -> None:
    """Files that may not grow past a limit fail as on a full disk."""
    import resource

    here("train", *TINY, "--total_steps", "4", "--run", "mine", cwd=tmp_path)
    run = Run(tmp_path / "runs" / "mine")
    config = json.loads((run.folder / "config.json").read_text())
    config["train"]["total_steps"] = 8
    (run.folder / "config.json").write_text(json.dumps(config))
    process = subprocess.run(
        [sys.executable, "-m", "ddpm", "train", "--resume", "mine"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert process.returncode == 2
    assert "No room to write model000008.pt" in process.stderr.splitlines()[-1]
    assert run.state() == "failed"
    assert run.status().message.startswith("No room")  # type: ignore[union-attr]
    assert [c.step for c in run.checkpoints()] == [4]
    assert not list(run.folder.glob("*000008.pt"))
    assert run.progress_path.read_text().count("\n") == 6  # header; steps 1, 3, 4; 6, 8
    here("train", "--resume", "mine", cwd=tmp_path)  # with room again
    assert run.checkpoint().step == 8


@pytest.mark.slow
def test_a_second_training_waits_for_the_first(tmp_path: Path) -> None:
    first = start("train", *TINY, "--total_steps", "100000", "--run", "first", cwd=tmp_path)
    one, two = Run(tmp_path / "runs" / "first"), Run(tmp_path / "runs" / "second")
    wait_for_step(one, 1)
    second = start("train", *TINY, "--total_steps", "3", "--run", "second", cwd=tmp_path)
    until(lambda: two.state() == "queued" and (status := two.status()) and status.message)
    assert two.status().message == "Waiting for first to end"  # type: ignore[union-attr]
    assert "already" in here("train", "--resume", "first", cwd=tmp_path, code=2)
    here("stop", "first", cwd=tmp_path)
    assert first.wait(PATIENCE) == 0
    assert second.wait(PATIENCE) == 0
    assert two.state() == "finished"


BAD = {
    "no such folder": (["train", "--data_dir", "nowhere"], "nowhere"),
    "an empty folder": (["train", "--data_dir", "empty"], "empty"),
    "a broken image": (["train", "--data_dir", "broken", "--image_size", "8", "--run", "x"], "bad.png"),
    "images too small": (["train", "--data_dir", "small", "--image_size", "64", "--run", "x"], "set enlarge to True"),
    "betas above 1": (["train", "--data_dir", "shapes", "--diffusion_steps", "10"], "at least 21 diffusion steps"),
    "not divisible": (["train", "--data_dir", "shapes", "--image_size", "30", "--channel_mult", "1,2,2"], "28, 32"),
    "heads": (["train", "--data_dir", "shapes", "--num_heads", "3"], "num_heads 3 does not divide"),
    "a path for a name": (["train", "--data_dir", "shapes", "--run", "../evil"], "no path"),
    "a name taken": (["train", "--data_dir", "shapes", "--run", "taken"], "already a run named taken"),
    "no such run": (["train", "--resume", "nobody"], "no run named nobody"),
    "settings of a resumed run": (["train", "--resume", "taken", "--lr", "1"], "--lr was given too"),
    "no checkpoint": (["sample", "--run", "taken", "--num_samples", "1"], "no checkpoint yet"),
    "no such file": (["sample", "--model_path", "none.pt"], "There is no file"),
    "not a checkpoint": (["sample", "--model_path", "empty/../text.pt"], "not a checkpoint"),
    "eta": (["sample", "--run", "taken", "--eta", "2"], "between 0 and 1"),
    "a bool": (["train", "--class_cond", "maybe"], "True or False"),
    "a number": (["train", "--batch_size", "many"], "invalid int"),
    "an unknown flag": (["train", "--learning_rate", "1"], "--learning_rate 1"),
    "no archive": (["data", "cifar10", "--archive", "none.tar.gz"], "none.tar.gz"),
    "stop nobody": (["stop", "nobody"], "no run named"),
    "export nobody": (["export", "nobody"], "no run named"),
}


@pytest.mark.parametrize(("arguments", "says"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "broken", "small"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "broken" / "good.png")
    (tmp_path / "broken" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    Image.new("RGB", (16, 16)).save(tmp_path / "small" / "a.png")
    (tmp_path / "text.pt").write_bytes(b"hello")
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "config.json").write_text(json.dumps(codec.to_json(Config())))
    code = main.main(arguments)
    said = capfd.readouterr().err
    assert code == 2
    assert says in said
    assert "Traceback" not in said
    assert [p.name for p in (tmp_path / "runs").iterdir() if p.name[0] != "."] == ["taken"], "nothing half-made is left"
    assert not (tmp_path / "samples").exists() or not list((tmp_path / "samples").iterdir())
    assert not (tmp_path / "runs" / "taken" / "samples").exists() or not list(
        (tmp_path / "runs" / "taken" / "samples").iterdir()
    )


def test_bool_flags_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main.main(["train", "--help"])
    assert leaving.value.code == 0
    help_text = capsys.readouterr().out
    for cls in codec.SECTIONS.values():
        for s in fields.settings(cls):
            assert f"--{s.name}" in help_text


@pytest.mark.slow
def test_a_checkpoint_of_other_flags(tmp_path: Path) -> None:
    here("train", *TINY, "--total_steps", "1", "--run", "mine", cwd=tmp_path)
    path = "runs/mine/model000001.pt"
    said = here("sample", "--model_path", path, "--num_channels", "64", "--out", "x", cwd=tmp_path, code=2)
    assert "--num_channels 64 (trained with 32)" in said
    cut = tmp_path / "cut.pt"
    cut.write_bytes((tmp_path / path).read_bytes()[:-1000])
    assert "cut short" in here("sample", "--model_path", "cut.pt", "--out", "y", cwd=tmp_path, code=2)
    foreign = torch.load(tmp_path / path, weights_only=True)
    torch.save(dict(foreign), tmp_path / "foreign.pt")  # as another program writes it: without settings
    flags = [*MODEL_FLAGS, "--class_cond", "True"]
    drawing = ["--num_samples", "2", "--timestep_respacing", "5"]
    here("sample", "--model_path", "foreign.pt", *flags, *drawing, "--out", "f", cwd=tmp_path)
    assert (tmp_path / "f" / "samples_2x8x8x3.npz").exists()
    said = here(
        "sample", "--model_path", "foreign.pt", "--num_channels", "64", *drawing, "--out", "g", cwd=tmp_path, code=2
    )
    assert "use --num_channels 32" in said
    said = ddpm("sample", "--model_path", "foreign.pt", *drawing, "--out", "h", cwd=tmp_path)
    assert "--image_size says another" in said


@pytest.mark.slow
def test_data_that_changed_between_stop_and_resume(tmp_path: Path) -> None:
    for k in range(6):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (40 * k, 0, 0)).save(tmp_path / "data" / f"{'ab'[k % 2]}_{k}.png")
    settings = [*TINY, "--data_dir", str(tmp_path / "data"), "--save_interval", "2"]
    here("train", *settings, "--total_steps", "2", "--run", "mine", cwd=tmp_path)
    path = tmp_path / "runs" / "mine" / "config.json"
    path.write_text(path.read_text().replace('"total_steps": 2', '"total_steps": 4'))
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "b_9.png")
    here("train", "--resume", "mine", cwd=tmp_path)
    log = (path.parent / "log.txt").read_text()
    assert f"There are 7 images in {tmp_path / 'data'} now, and were 6" in log
    assert "not as it would have" in log
    path.write_text(path.read_text().replace('"total_steps": 4', '"total_steps": 6'))
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "c_1.png")
    said = here("train", "--resume", "mine", cwd=tmp_path, code=2)
    assert "are a, b, c now, and were a, b when the run began" in said


@pytest.mark.parametrize("text", ["-1e4", "-inf", "1e30"])
def test_every_number_out_of_its_limits_gets_the_same_sentence(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kinds = (float,) if text == "-inf" else (int, float)
    numbers = [s for cls in codec.SECTIONS.values() for s in fields.settings(cls) if s.type in kinds]
    for s in numbers:
        assert main.main(["train", "--data_dir", "shapes", f"--{s.name}", text]) == 2
        assert f"{s.name} is {s.type(float(text))}: set it between" in capfd.readouterr().err
    assert len(numbers) > 5
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_may_be_written_as_powers() -> None:
    options = main._parser().parse_args(["train", "--total_steps", "1e6", "--seed", "4_000"])
    assert (options.total_steps, options.seed) == (1_000_000, 4000)
    with raises_error("usage", "1.5"):
        main._parser().parse_args(["train", "--total_steps", "1.5"])


def test_help_is_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main.main(["train", "-h"])
    assert leaving.value.code == 0
    assert "usage: ddpm train" in capsys.readouterr().out
    assert main.main(["train", "--run", "-h"]) == 2
    sentence = capsys.readouterr().err
    assert "--run" in sentence
    assert "ddpm train --help" in sentence
    assert len(sentence.splitlines()) == 1
