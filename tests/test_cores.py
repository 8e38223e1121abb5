"""The share of the cores: counted, divided, taken back from whoever is gone; and the number of threads found best."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_cli import TINY
from waiting import PATIENCE, until

from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.host import cpu_threads, hardware
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.training import trial
from ddpm.training.trainer import Trainer

ROOT = Path(cpu_threads.__file__).parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of this test's for those who compute, six cores, and nothing said in the environment."""
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DDPM_SHARES", str(tmp_path / "shares"))
    monkeypatch.setattr(hardware, "physical", lambda: 6)
    monkeypatch.setattr(hardware, "logical", lambda: 6)
    monkeypatch.setattr(cpu_threads, "LOOK_EVERY", 0.0)
    yield tmp_path / "shares"
    cpu_threads.leave()


# --- what there is


@pytest.mark.skipif(len(hardware.allowed() or ()) < 2, reason="nothing to bind apart")
def test_who_is_bound_to_other_cores_takes_none_of_these() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    one = cpu_threads.Peer(f"1-{other.pid}-0-training", 0, "training")
    try:
        assert not cpu_threads.apart(one)
        os.sched_setaffinity(other.pid, allowed[1:])
        assert not cpu_threads.apart(one), "this process may use these as well"
        os.sched_setaffinity(0, allowed[:1])
        assert cpu_threads.apart(one)
    finally:
        os.sched_setaffinity(0, allowed)
        other.communicate(b"\n")
    assert not cpu_threads.apart(one), "gone"


def test_bound_to_some_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    monkeypatch.setattr(hardware, "quota", lambda: None)
    monkeypatch.setattr(hardware, "_distinct", lambda allowed: 0)
    for allowed, found in (
        (None, (8, 16)),
        (list(range(16)), (8, 16)),
        ([0, 1, 2], (3, 3)),
        (list(range(12)), (8, 12)),
    ):
        monkeypatch.setattr(hardware, "allowed", lambda allowed=allowed: allowed)
        assert (hardware.physical(), hardware.logical()) == found
    monkeypatch.setattr(hardware, "_distinct", lambda allowed: 6)  # twelve hyperthreads of six cores
    assert (hardware.physical(), hardware.logical()) == (6, 12)
    for limit, found in ((2.0, (2, 2)), (1.5, (2, 2)), (0.3, (1, 1)), (10.0, (6, 10)), (100.0, (6, 12))):
        monkeypatch.setattr(hardware, "quota", lambda limit=limit: limit)
        assert (hardware.physical(), hardware.logical()) == found


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no processes")
def test_bound_for_real() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}}); from ddpm.host import hardware; print(hardware.physical(),"
        " hardware.logical())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.parametrize(
    ("member", "told", "limit"),
    [
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        (
            "0::/user.slice/a.scope",
            {"user.slice/a.scope/cpu.max": "max 100000", "user.slice/cpu.max": "300000 100000"},
            3.0,
        ),
        (
            "0::/user.slice/a.scope",
            {"user.slice/a.scope/cpu.max": "50000 100000", "user.slice/cpu.max": "300000 100000"},
            0.5,
        ),
        ("0::/../..", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/", {"cpu.max": "what"}, None),
        ("0::/", {"cpu.max": "0 0"}, None),
        ("4:cpu,cpuacct:/docker/7\n0::/", {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 2.5),
        (
            "4:cpu,cpuacct:/docker/7",
            {"cpu/docker/7/cpu.cfs_quota_us": "-1", "cpu/docker/7/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("4:cpuset:/docker/7", {"cpu/docker/7/cpu.cfs_quota_us": "1", "cpu/docker/7/cpu.cfs_period_us": "1"}, None),
    ],
)
def test_quota(tmp_path: Path, member: str, told: dict[str, str], limit: float | None) -> None:
    own = tmp_path / "cgroup"
    own.write_text(member + "\n")
    for name, text in told.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert hardware.quota(tmp_path / "groups", own) == limit
    assert hardware.quota(tmp_path / "groups", tmp_path / "nowhere") is None


@pytest.mark.parametrize(("said", "asked"), [("", 0), ("4", 4), ("1", 1), ("4,2", 4), ("many", 0), ("-3", 0), ("0", 0)])
def test_the_environment_may_ask(monkeypatch: pytest.MonkeyPatch, said: str, asked: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert hardware.asked_outside() == asked
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # torchrun, which sets 1 by itself
    assert hardware.asked_outside() == (0 if said == "1" else asked)


# --- dividing


@given(st.lists(st.sampled_from([0, 0, 0, 1, 2, 5]), min_size=1, max_size=12), st.integers(1, 40))
def test_shares(asked: list[int], count: int) -> None:
    found = cpu_threads.shares(asked, count)
    sharing = [threads for threads, one in zip(found, asked, strict=True) if not one]
    assert all(threads == one for threads, one in zip(found, asked, strict=True) if one), "what is asked for is kept"
    assert min(found) >= 1
    if sharing:
        assert max(sharing) - min(sharing) <= 1
        if sum(asked) + len(sharing) <= count:
            assert sum(found) == count, "no core is idle, and none has two"
        else:
            assert max(sharing) == 1


def test_first_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for processes, threads in ((1, 6), (2, 3), (3, 2), (8, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert cpu_threads.first_share() == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert cpu_threads.first_share() == 5


# --- with others

WORK = """
import sys, time
from pathlib import Path
from ddpm.host import cpu_threads, hardware
hardware.physical = hardware.logical = lambda: 6
cpu_threads.LOOK_EVERY = 0.01
asked, doing, file = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
cpu_threads.take(asked, doing, lambda threads: file.write_text(f"{threads} "), fixed="fixed" in sys.argv)
while not file.with_suffix(".stop").exists():
    cpu_threads.look()
    time.sleep(0.005)
"""


class Other:
    """A process that computes."""

    def __init__(self, place: Path, number: int, asked: int = 0, doing: str = "training", *more: str):
        self.file = place.parent / f"other-{number}"
        command = [sys.executable, "-c", WORK, str(asked), doing, str(self.file), *more]
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        until(self.threads)

    def threads(self) -> int:
        try:
            return int(self.file.read_text())
        except (FileNotFoundError, ValueError):
            return 0


@pytest.fixture
def others(place: Path) -> Iterator[Callable[..., Other]]:
    started: list[Other] = []

    def start(*arguments: Any) -> Other:
        started.append(Other(place, len(started), *arguments))
        return started[-1]

    yield start
    for other in started:
        other.process.kill()
        other.process.wait()


def test_processes_share_and_a_killed_one_frees_its_share(place: Path, others: Callable[..., Other]) -> None:
    a, b = others(), others()
    until(lambda: (a.threads(), b.threads()) == (3, 3))
    c, d = others(), others()
    until(lambda: [one.threads() for one in (a, b, c, d)] == [2, 2, 1, 1])
    b.process.kill()
    c.file.with_suffix(".stop").touch()
    c.process.wait()
    until(lambda: (a.threads(), d.threads()) == (3, 3))
    until(lambda: len(os.listdir(place)) == 2)
    a.process.kill()
    until(lambda: d.threads() == 6)
    until(lambda: len(os.listdir(place)) == 1)


def test_what_one_asks_for_it_keeps(others: Callable[..., Other]) -> None:
    a, b, asking = others(), others(), others(3)
    until(lambda: [one.threads() for one in (a, b, asking)] == [2, 1, 3])
    timing = others(0, "comparison", "fixed")
    until(lambda: [one.threads() for one in (a, b, asking, timing)] == [1, 1, 3, 1])
    a.process.kill()
    asking.process.kill()
    until(lambda: b.threads() == 5)
    assert timing.threads() == 1, "what is timed keeps its number"


def test_this_process_says_how_it_shares(
    place: Path, others: Callable[..., Other], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ddpm")
    used: list[int] = []
    assert cpu_threads.take(0, "training", used.append) == ""
    assert (cpu_threads.look(), used, caplog.messages) == ("", [6], [])
    other = others()
    sentence = "2 trainings share 6 cores: this one goes on with 3 threads."
    assert cpu_threads.look() == cpu_threads.look() == sentence
    drawing = others(0, "drawing")
    assert cpu_threads.look() == "3 processes share 6 cores: this one goes on with 2 threads."
    for one in (other, drawing):
        one.process.kill()
        one.process.wait()
    assert cpu_threads.look() == ""
    assert used == [6, 3, 2, 6]
    assert caplog.messages == [
        sentence,
        "3 processes share 6 cores: this one goes on with 2 threads.",
        "Nothing else computes now: this training goes on with 6 threads.",
    ]
    cpu_threads.leave()
    assert os.listdir(place) == []
    assert cpu_threads.look() == ""


def test_a_beat_tells_it(tmp_path: Path, others: Callable[..., Other]) -> None:
    with Worker(tmp_path / "job") as worker:
        cpu_threads.take(0, "drawing", int)
        worker.beat(now=True)
        assert worker.status.sharing == ""
        others(0, "drawing")
        worker.beat(now=True)
        status = worker.job.status()
        assert status
        assert status.sharing == "2 drawings share 6 cores: this one goes on with 3 threads."
    assert cpu_threads.look() == "", "a worker that ends computes no more"


def test_looks_are_seldom_and_cheap(monkeypatch: pytest.MonkeyPatch, others: Callable[..., Other]) -> None:
    cpu_threads.take(0, "training", int)
    others()
    began = time.thread_time()  # of its own: what else the machine does takes none of it
    for _ in range(20):
        cpu_threads.look()
    assert (time.thread_time() - began) / 20 < 1e-3
    monkeypatch.setattr(cpu_threads, "LOOK_EVERY", 60.0)
    cpu_threads.look()
    monkeypatch.setattr(os, "listdir", lambda *_: pytest.fail("it looked again at once"))
    cpu_threads.look()


def test_torchruns_processes_count_before_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    used: list[int] = []
    cpu_threads.take(0, "training", used.append)
    assert cpu_threads.look() == "2 processes share 6 cores: this one goes on with 3 threads."
    assert used == [3]


def test_a_tidied_folder_is_no_end(place: Path, others: Callable[..., Other]) -> None:
    cpu_threads.take(0, "training", int)
    other = others()
    until(lambda: other.threads() == 3)
    for name in os.listdir(place):
        (place / name).unlink()
    assert "2 trainings share" in cpu_threads.look() or cpu_threads.look() == ""
    until(lambda: len(os.listdir(place)) == 2 and "2 trainings share 6 cores" in cpu_threads.look())
    (place / "a note of mine").touch()
    assert "2 trainings share" in cpu_threads.look()
    assert (place / "a note of mine").exists()


def test_a_folder_that_cannot_be_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ddpm")
    place.write_text("not a folder")
    used: list[int] = []
    cpu_threads.take(0, "training", used.append, fixed=True)
    assert (cpu_threads.look(), used) == ("", [6])
    assert len(caplog.messages) == 1
    assert "cannot be written" in caplog.text
    assert "other processes that compute are not seen, and this one uses all cores" in caplog.text


def test_a_folder_that_is_lost_on_the_way(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ddpm")
    used: list[int] = []
    cpu_threads.take(0, "training", used.append)
    for name in os.listdir(place):
        (place / name).unlink()
    place.rmdir()
    place.write_text("not a folder")
    assert cpu_threads.look() == cpu_threads.look() == ""
    assert used == [6]
    assert caplog.text.count("are not seen") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_child_of_a_fork_does_not_keep_the_share(place: Path) -> None:
    code = """
import os, time
from ddpm.host import cpu_threads, hardware
cpu_threads.take(0, "training", int)
if os.fork() == 0:
    assert cpu_threads.look() == ""
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    assert len(cpu_threads.alive()) == 1
    parent.kill()
    parent.wait()
    assert child.is_running()
    assert cpu_threads.alive() == []
    child.kill()
    parent.stdout.close()


# --- too many


@pytest.mark.parametrize(
    ("cores_", "threads", "machine", "sentence"),
    [
        (2, 2, 2, "16 threads were asked for and this computer has 2 cores: 2 are used."),
        (1, 1, 1, "16 threads were asked for and this computer has 1 core: 1 is used."),
        (4, 8, 8, "16 threads were asked for and this computer has 8 logical cores: 8 are used."),
        (2, 2, 8, "16 threads were asked for and 2 cores of this computer may be used: 2 are used."),
        (16, 16, 16, ""),
    ],
)
def test_more_threads_than_cores(
    monkeypatch: pytest.MonkeyPatch, cores_: int, threads: int, machine: int, sentence: str
) -> None:
    monkeypatch.setattr(hardware, "physical", lambda: cores_)
    monkeypatch.setattr(hardware, "logical", lambda: threads)
    monkeypatch.setattr(psutil, "cpu_count", lambda: machine)
    used: list[int] = []
    assert cpu_threads.take(16, "training", used.append) == sentence
    assert used == [min(16, threads)]


FAKED = """
import sys
from ddpm.cli import main
from ddpm.host import cpu_threads, hardware
hardware.physical = hardware.logical = lambda: 6
cpu_threads.LOOK_EVERY = 0.05
code = main.main(sys.argv[1:])
import torch
print("threads in the end:", torch.get_num_threads())
sys.exit(code)
"""


def training(cwd: Path, name: str, *more: str) -> subprocess.Popen[str]:
    settings = [*TINY[: TINY.index("--threads")], "--sample_interval", "0", "--queue", "False", "--run", name, *more]
    return subprocess.Popen(
        [sys.executable, "-c", FAKED, "train", *settings],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_a_training_with_too_many_threads_goes_on(tmp_path: Path) -> None:
    process = training(tmp_path, "many", "--total_steps", "2", "--threads", "99")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    run = Run(tmp_path / "runs" / "many")
    status = run.status()
    assert status
    assert run.state() == "finished"
    assert "99 threads were asked for and" in status.warning
    assert status.warning.endswith("6 are used.")
    assert said.count(status.warning) == 1
    assert "with 6 threads" in said
    assert "threads in the end: 6" in said


@pytest.mark.slow
def test_two_trainings_at_once_share(tmp_path: Path) -> None:
    processes, found = {}, {}
    for name in ("one", "two"):
        processes[name] = training(tmp_path, name, "--total_steps", "1000000")
        found[name] = Run(tmp_path / "runs" / name)
    sentence = "2 trainings share 6 cores: this one goes on with 3 threads."
    for run in found.values():
        until(lambda run=run: (status := run.status()) and status.step and status.sharing == sentence)
    found["two"].request("stop")
    said, _ = processes["two"].communicate(timeout=PATIENCE)
    assert "threads in the end: 3" in said
    until(lambda: (status := found["one"].status()) and not status.sharing)
    found["one"].request("stop")
    said, _ = processes["one"].communicate(timeout=PATIENCE)
    assert sentence in said
    assert "Nothing else computes now: this training goes on with 6 threads." in said
    assert "threads in the end: 6" in said


# --- which number is best


def test_candidates() -> None:
    assert cpu_threads.candidates(2, 2) == [2]
    assert cpu_threads.candidates(4, 8) == [4, 8]
    assert cpu_threads.candidates(16, 16) == [16]
    assert cpu_threads.candidates(32, 64) == [32, 64, 16]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "threads.json"


def test_the_fastest_is_remembered(own_cache: Path) -> None:
    tried: list[int] = []

    def time_one(threads: int) -> float:
        tried.append(threads)
        return {4: 0.02, 8: 0.01}[threads]

    assert cpu_threads.best([4, 8], {"model": "a"}, time_one) == 8
    assert len(tried) == 2 * (1 + cpu_threads.ROUNDS)
    assert cpu_threads.best([4, 8], {"model": "a"}, lambda _: pytest.fail("it was known")) == 8
    assert cpu_threads.best([4, 8], {"model": "b"}, lambda threads: 0.01) == 4, "equals are the usual one"
    assert cpu_threads.best([4, 8], {"model": "c"}, lambda threads: {4: 0.01, 8: 0.0099}[threads]) == 4, (
        "by a hair is not"
    )
    assert sorted(json.loads(own_cache.read_text()).values()) == [4, 4, 8]


def test_another_machine_is_another_question(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_threads.best([4, 8], {}, lambda threads: 1 / threads / 100) == 8
    monkeypatch.setattr(hardware, "processor", lambda: "another")
    assert cpu_threads.best([4, 8], {}, lambda threads: threads / 100) == 4


def test_where_it_takes_too_long_the_usual_one_is_it(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(cpu_threads.time, "monotonic", lambda: now[0])

    def time_one(threads: int) -> float:
        now[0] += 1.2
        return 1.2

    assert cpu_threads.best([4, 8], {}, time_one) == 4
    assert now[0] <= cpu_threads.TRIAL_SECONDS
    assert cpu_threads.best([4, 8], {}, lambda _: pytest.fail("it was known")) == 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": "y"}', "folder", "no folder"])
def test_a_broken_memory_does_no_harm(own_cache: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ddpm")
    if content == "no folder":
        own_cache.parent.write_text("a file")
    else:
        own_cache.parent.mkdir()
        own_cache.mkdir() if content == "folder" else own_cache.write_text(content)
    assert cpu_threads.best([4, 8], {}, lambda threads: 1 / threads / 100) == 8
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert ("cannot be kept" in caplog.text) == ("folder" in content)


def test_who_shares_tries_nothing(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, others: Callable[..., Other]
) -> None:
    monkeypatch.setattr(hardware, "logical", lambda: 12)
    used: list[int] = []
    cpu_threads.take(0, "training", used.append)
    cpu_threads.tune({}, lambda threads: 1 / threads / 100)
    assert used == [6, 12]
    others()
    cpu_threads.look()
    assert used[-1] == 6, "half of the cores, with two threads each"
    cpu_threads.take(0, "training", used.append)
    cpu_threads.tune({}, lambda _: pytest.fail("others would be in the way"))
    assert used[-1] == 6
    cpu_threads.take(5, "training", used.append)
    cpu_threads.tune({}, lambda _: pytest.fail("five were asked for"))
    assert used[-1] == 5


def test_a_trial_leaves_the_training_as_it_was(tiny: Config, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = datasets.resolve(codec.replace(tiny, dict(dropout=0.3, class_cond=True, learn_sigma=True, small_size=4)))
    dataset = datasets.open_dataset(config.data, config.model)
    monkeypatch.setattr(hardware, "physical", lambda: 1)
    monkeypatch.setattr(hardware, "logical", lambda: 2)
    plain, tried = Trainer(config, dataset), []
    expected = list(plain.steps(2))
    before = torch.get_num_threads()
    distributed.set_num_threads(0, "training")
    trainer = Trainer(config, dataset)
    state, weights = trainer.state(), {n: w.clone() for n, w in trainer.weights()["model"].items()}
    monkeypatch.setattr(cpu_threads, "CLEARLY", 0.0)  # one thread stays the best
    monkeypatch.setattr(cpu_threads, "TRIAL_SECONDS", 60.0)  # a busy machine is no fault
    seconds = trial.seconds
    monkeypatch.setattr(trial, "seconds", lambda *rest: tried.append(seconds(*rest)) or tried[-1])
    trial.tune(trainer)
    assert len(tried) >= 2 * 2
    assert min(tried) > 0
    assert torch.get_num_threads() == 1
    assert all(p.grad is None for p in trainer.parameters)
    after = trainer.state()
    assert torch.equal(after.pop("torch_rng"), state.pop("torch_rng"))
    assert torch.equal(after.pop("rng"), state.pop("rng"))
    assert str(after) == str(state)
    assert all(torch.equal(weights[n], w) for n, w in trainer.weights()["model"].items())
    for a, b in zip(trainer.steps(2), expected, strict=True):
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
    torch.set_num_threads(before)
