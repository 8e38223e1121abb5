"""What the command line does in surroundings that lack something: streams, encodings, rights, asserts."""

import ctypes
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_run
import numpy as np
import pytest
from PIL import Image

from ddpm.cli import main
from ddpm.runs import example, runs
from ddpm.runs.jobs import Job
from ddpm.runs.runs import Run

pytestmark = pytest.mark.slow

ROOT = Path(main.__file__).parents[2]
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has other rights and names")
SMALL = """
    --data_dir shapes --image_size 8 --num_channels 32 --num_res_blocks 1 --channel_mult 1 --attention_resolutions 4
    --num_heads 1 --diffusion_steps 20 --noise_schedule cosine --batch_size 2 --total_steps 2 --sample_interval 0
    --threads 1
""".split()  # noqa: SIM905


def python(
    *arguments: str | bytes | Path,
    cwd: Path,
    env: dict[str, str] | None = None,
    first: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run Python with the package at hand, in a process that does something `first`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, timeout=240, preexec_fn=first
    )


# --- streams


def test_without_standard_streams_no_file_takes_their_place(tmp_path: Path) -> None:
    code = """
import os, sys
for number in (0, 1, 2):
    os.close(number)
sys.stdin = sys.stdout = sys.stderr = None
from ddpm.cli import main
assert main.main(["runs", "--runs_dir", "runs"]) == 0
assert main.main(["export", "none", "--runs_dir", "runs"]) == 2
with open("written", "w") as file:
    print("printed")
    print("told", file=sys.stderr)
    os.write(1, b"1")
    os.write(2, b"2")
    file.write(str(file.fileno()))
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0
    assert int((tmp_path / "written").read_text()) > 2


@POSIX
def test_a_training_without_standard_streams(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "ddpm", "train", *SMALL, "--run", "r"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert done.returncode == 0
    run = Run(tmp_path / "runs" / "r")
    assert run.state() == "finished"
    assert run.checkpoint().step == 2
    assert "Finished: 2 steps" in run.log_tail()
    assert all(isinstance(json.loads(path.read_bytes()), dict) for path in run.folder.rglob("*.json"))


@pytest.mark.parametrize(
    "encoding",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "cp1252", "C"],
)
def test_narrow_encodings_write_letters_out(tmp_path: Path, encoding: dict[str, str]) -> None:
    folder = tmp_path / "läufe 猫"
    done = python("-m", "ddpm", "runs", "--runs_dir", folder, cwd=tmp_path, env=encoding)
    assert done.returncode == 0, done.stderr
    assert b"\\u" in done.stdout or "猫".encode() in done.stdout
    done = python("-m", "ddpm", "export", "none", "--runs_dir", folder, cwd=tmp_path, env=encoding)
    assert (done.returncode, done.stdout) == (2, b""), done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/l\xe4ufe"
    os.mkdir(folder)
    done = python("-m", "ddpm", "runs", "--runs_dir", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = python("-m", "ddpm", "train", *SMALL, "--run", "r", "--runs_dir", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = Run(Path(os.fsdecode(folder)) / "r")
    assert run.state() == "finished"
    done = python(
        "-m",
        "ddpm",
        "sample",
        "--model_path",
        os.fsencode(run.checkpoint().path("model")),
        "--num_samples",
        "1",
        "--steps",
        "2",
        "--out",
        folder + b"/o",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert Job(Path(os.fsdecode(folder)) / "o").state() == "finished"


# --- asserts


def test_without_asserts(tmp_path: Path) -> None:
    """`python -O` trains, goes on and samples as ever."""
    code = """
import sys
from ddpm.cli import main
assert sys.exit("there are asserts")
flags, where = sys.argv[1:], ["--runs_dir", "runs"]
codes = [main.main(["train", *flags, "--run", "r", *where])]
codes += [main.main(["train", "--resume", "r", *where])]
codes += [main.main(["sample", "--run", "r", *where, "--num_samples", "1", "--steps", "2", "--out", "o"])]
codes += [main.main(["nll", "--run", "r", *where, "--num_samples", "1", "--out", "e"])]
print(codes)
"""
    done = python("-O", "-c", code, *SMALL, cwd=tmp_path)
    assert done.stdout.decode().splitlines()[-1] == "[0, 0, 0, 0]", done.stderr
    assert (tmp_path / "o" / "samples_1x8x8x3.npz").exists()


# --- rights


def give_up_rights() -> None:
    """Make root obey permissions, as every other user does: in a new process, of whatever is executed there."""
    if os.geteuid() == 0:
        for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.fixture(scope="module")
def obeying(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether processes started with `give_up_rights` may not read what nobody may."""
    if os.name == "nt":
        return False
    path = tmp_path_factory.mktemp("rights") / "file"
    path.write_bytes(b"")
    path.chmod(0o000)
    done = subprocess.run(
        [sys.executable, "-c", f"open({str(path)!r})"], preexec_fn=give_up_rights, capture_output=True
    )
    return done.returncode == 1


@pytest.fixture
def shared(obeying: bool) -> Iterator[Path]:
    """A folder that others may read and not write, with a run in it; beside it one that anybody may write."""
    if not obeying:
        pytest.skip("this system lets its administrator read everything")
    folder = Path(tempfile.mkdtemp())
    example.provide(folder / "runs")
    fake_run.write(folder / "runs", "private", steps=4)
    (folder / "own").mkdir()
    readable(folder)
    (folder / "own").chmod(0o777)
    yield folder
    readable(folder, 0o755)
    shutil.rmtree(folder)


def readable(folder: Path, mode: int = 0o555) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(mode if path.is_dir() else stat.S_IMODE(path.stat().st_mode) | 0o444)


def as_another(*arguments: str | Path, folder: Path) -> tuple[int, str, str]:
    """The command line as another user has it: exit code and what was said."""
    own = {f"DDPM_{name}": str(folder / "own" / name) for name in ("CACHE", "SHARES", "KERNEL_CACHE")}
    done = python("-m", "ddpm", *arguments, cwd=folder, env=own, first=give_up_rights)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@POSIX
@pytest.mark.parametrize(
    ("name", "mode", "states"),
    [
        ("status.json", 0o000, ("finished", "unreadable")),
        ("run.lock", 0o000, ("finished", "finished")),
        (".", 0o000, ("finished", "unreadable")),
    ],
    ids=["status", "lock", "folder"],
)
def test_another_users_private_run_does_not_hide_the_others(
    shared: Path, name: str, mode: int, states: tuple[str, str]
) -> None:
    path = shared / "runs" / "private" / name
    path.parent.chmod(0o755)
    path.touch()
    path.parent.chmod(0o555)
    path.chmod(mode)
    code, out, reported = as_another("runs", "--runs_dir", shared / "runs", folder=shared)
    found = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:]}
    assert (code, found) == (0, {"example": states[0], "private": states[1]})
    assert ("status.json" in reported) == (states[1] == "unreadable")


@POSIX
def test_what_may_not_be_read_or_written_is_named(shared: Path) -> None:
    where = ("--runs_dir", shared / "runs")
    images = shared / "own" / "p.npz"
    np.savez(images, np.zeros((3, 8, 8, 3), np.uint8))
    image = shared / "own" / "p.png"
    Image.new("RGB", (8, 8)).save(image)
    weights = Run(shared / "runs" / "example").checkpoint().path("ema_0.99")
    for path in (images, image, weights):
        path.chmod(0o000)
    cases: dict[Path, tuple[str | Path, ...]] = {
        shared / "runs" / "private" / "results.xlsx": ("export", "private", *where),
        shared / "x.xlsx": ("export", "private", *where, "--xlsx", shared / "x.xlsx"),
        weights: (
            "sample",
            "--model_path",
            weights,
            "--num_samples",
            "1",
            "--steps",
            "1",
            "--out",
            shared / "own" / "o",
        ),
        images: ("train", *SMALL, "--data_dir", images, "--run", "z", "--runs_dir", shared / "own" / "runs"),
        shared / "runs": ("train", *SMALL, "--run", "z", *where),
        shared / "nowhere": ("sample", "--run", "example", *where, "--num_samples", "1", "--out", shared / "nowhere"),
    }
    for path, arguments in cases.items():
        code, _, reported = as_another(*arguments, folder=shared)
        assert (code, str(path) in reported) == (2, True), (arguments, reported)
    assert not (shared / "own" / "runs" / "z").exists(), "bad data leaves no run"


def test_a_run_of_no_rights_is_not_thought_gone(shared: Path) -> None:
    assert [run.name for run in runs.list_runs(shared / "runs")] == ["private", "example"]
