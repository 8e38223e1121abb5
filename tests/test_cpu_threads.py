"""Threads of a job: the cores counted, and divided once by the jobs that compute when it starts."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import TINY
from waiting import PATIENCE, until

from ddpm.host import control_groups, cpu_threads, hardware, memory
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import locks

ROOT = Path(cpu_threads.__file__).parents[2]


@pytest.fixture(autouse=True)
def shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of this test's for jobs that compute, six cores, and no request in the environment."""
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DDPM_SHARES", str(tmp_path / "shares"))
    monkeypatch.setattr(hardware, "physical", lambda: 6)
    monkeypatch.setattr(hardware, "logical", lambda: 6)
    yield tmp_path / "shares"
    cpu_threads.release()


# --- what there is


@pytest.mark.skipif(len(hardware.allowed() or ()) < 2, reason="nothing to bind apart")
def test_a_process_bound_to_other_cores_takes_none_of_these() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    one = cpu_threads.Peer(f"1-{other.pid}-0-job", other.pid, 0)
    try:
        assert not cpu_threads.uses_other_cores(one)
        os.sched_setaffinity(other.pid, allowed[1:])
        assert not cpu_threads.uses_other_cores(one), "this process may use these as well"
        os.sched_setaffinity(0, allowed[:1])
        assert cpu_threads.uses_other_cores(one)
    finally:
        os.sched_setaffinity(0, allowed)
        other.communicate(b"\n")
    assert not cpu_threads.uses_other_cores(one), "gone"


def test_bound_to_some_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    monkeypatch.setattr(control_groups, "quota", lambda: None)
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
        monkeypatch.setattr(control_groups, "quota", lambda limit=limit: limit)
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


def member_of(tmp_path: Path, member: str, files: dict[str, str]) -> Path:
    """Control groups with these files; returns the file that says which ones a process is a member of."""
    own = tmp_path / "cgroup"
    own.write_text(member + "\n")
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    return own


@pytest.mark.parametrize(
    ("member", "files", "limit"),
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
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "50000"}, None),
        ("4:cpu,cpuacct:/docker/7\n0::/", {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 2.5),
        (
            "4:cpu,cpuacct:/docker/7",
            {"cpu/docker/7/cpu.cfs_quota_us": "-1", "cpu/docker/7/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("4:cpuset:/docker/7", {"cpu/docker/7/cpu.cfs_quota_us": "1", "cpu/docker/7/cpu.cfs_period_us": "1"}, None),
    ],
)
def test_quota(tmp_path: Path, member: str, files: dict[str, str], limit: float | None) -> None:
    own = member_of(tmp_path, member, files)
    assert control_groups.quota(tmp_path / "groups", own) == limit
    assert control_groups.quota(tmp_path / "groups", tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("member", "files", "found"),
    [
        ("0::/", {}, None),
        ("0::/a", {"a/memory.max": "max", "a/memory.current": "5"}, None),
        ("0::/a", {"a/memory.max": "4000", "a/memory.current": "3000"}, (4000, 1000)),
        (
            "0::/a",
            {
                "a/memory.max": "4000",
                "a/memory.current": "3000",
                "a/memory.stat": "anon 9\ninactive_file 500\nactive_file 30",
            },
            (4000, 1530),
        ),
        (
            "0::/a/b",
            {
                "a/b/memory.max": "9000",
                "a/b/memory.current": "1000",
                "a/memory.max": "10000",
                "a/memory.current": "9900",
            },
            (9000, 100),
        ),
        (
            "7:memory:/docker/3\n4:cpu:/docker/3",
            {
                "memory/docker/3/memory.limit_in_bytes": "4000",
                "memory/docker/3/memory.usage_in_bytes": "4500",
                "memory/docker/3/memory.stat": "total_inactive_file 700",
            },
            (4000, 200),
        ),
    ],
)
def test_memory_of_control_groups(
    tmp_path: Path, member: str, files: dict[str, str], found: tuple[int, int] | None
) -> None:
    own = member_of(tmp_path, member, files)
    assert control_groups.memory(tmp_path / "groups", own) == found
    assert control_groups.memory(tmp_path / "groups", tmp_path / "nowhere") is None


def test_the_smaller_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 600, "total": 1000}))
    for limit, found in ((None, (600, 1000)), ((800, 700), (600, 800)), ((5000, 10), (10, 1000))):
        monkeypatch.setattr(control_groups, "memory", lambda limit=limit: limit)
        assert (memory.available(), memory.total()) == found


@pytest.mark.parametrize(("said", "asked"), [("", 0), ("4", 4), ("1", 1), ("4,2", 4), ("many", 0), ("-3", 0), ("0", 0)])
def test_the_environment_may_ask(monkeypatch: pytest.MonkeyPatch, said: str, asked: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert hardware.requested_by_environment() == asked
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # torchrun, which sets 1 by itself
    assert hardware.requested_by_environment() == (0 if said == "1" else asked)


# --- dividing


@given(st.integers(1, 40), st.lists(st.sampled_from([0, 0, 0, 1, 2, 5]), max_size=12), st.integers(1, 5))
def test_divide(cores: int, others: list[int], together: int) -> None:
    found = [cpu_threads.divide(cores, others, together, rank) for rank in range(together)]
    left, jobs = max(0, cores - sum(others)), others.count(0) + together
    assert min(found) >= 1
    assert max(found) - min(found) <= 1
    assert max(found) <= max(1, -(-left // jobs)), "no more than a share of what others have not asked for"
    if not others and together <= cores:
        assert sum(found) == cores, "no core is idle, and none has two"


def test_before_a_job_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_threads.before_start() == 6
    for processes, threads in ((1, [6]), (2, [3, 3]), (4, [2, 2, 1, 1]), (8, [1] * 8)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        found = []
        for rank in range(processes):
            monkeypatch.setenv("LOCAL_RANK", str(rank))
            found.append(cpu_threads.before_start())
        assert found == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert cpu_threads.before_start() == 5


# --- with others

WORK = """
import sys, time
from ddpm.host import cpu_threads, hardware
hardware.physical = hardware.logical = lambda: 6
print(cpu_threads.take(int(sys.argv[1])).threads, flush=True)
sys.stdin.readline()
"""


class Other:
    """A process that has started a job; `threads` is what it took."""

    def __init__(self, asked: int = 0, **environment: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORK, str(asked)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.threads = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate("\n")


@pytest.fixture
def start(shares: Path) -> Iterator[Callable[..., Other]]:
    started: list[Other] = []

    def one(*arguments: Any, **environment: str) -> Other:
        started.append(Other(*arguments, **environment))
        return started[-1]

    yield one
    for other in started:
        other.kill()


@pytest.mark.slow
def test_a_job_takes_its_share_of_those_that_run(shares: Path, start: Callable[..., Other]) -> None:
    a, b, c = start(), start(), start()
    assert [one.threads for one in (a, b, c)] == [6, 3, 2]
    b.kill()  # a killed one does not count, and its file is removed
    d = start()
    assert d.threads == 2
    assert len(os.listdir(shares)) == 3
    c.end()
    assert len(os.listdir(shares)) == 2, "one that ends removes its own"
    a.kill()
    d.end()
    assert start().threads == 6
    assert len(os.listdir(shares)) == 1


@pytest.mark.slow
def test_more_jobs_than_cores_have_one_thread_each(start: Callable[..., Other]) -> None:
    assert [start().threads for _ in range(8)] == [6, 3, 2, 1, 1, 1, 1, 1]


@pytest.mark.slow
def test_what_a_job_asks_for_it_gets(start: Callable[..., Other]) -> None:
    assert start(4).threads == 4
    assert start().threads == 2, "the rest"
    assert start(6).threads == 6, "even where others have them"
    assert start().threads == 1
    assert start(0, OMP_NUM_THREADS="3").threads == 3


def test_a_job_keeps_its_threads_and_its_sentence(
    shares: Path, start: Callable[..., Other], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ddpm")
    assert cpu_threads.take(0) == cpu_threads.current() == cpu_threads.Share(6, "", "")
    other = start()
    assert (other.threads, cpu_threads.current().threads, caplog.messages) == (3, 6, [])
    start(2)
    sentence = "3 jobs share 6 cores: this one computes with 2 threads."
    assert cpu_threads.take(0) == cpu_threads.current() == cpu_threads.Share(2, sentence, "")
    assert caplog.messages == [sentence]
    other.kill()
    assert cpu_threads.current().sentence == sentence
    cpu_threads.release()
    assert cpu_threads.current() == cpu_threads.Share(0, "", "")
    assert len(os.listdir(shares)) == 2, "that of the killed one is removed by the next job"


def test_the_status_of_a_job_says_how_cores_are_shared(tmp_path: Path, start: Callable[..., Other]) -> None:
    start()
    with Worker(tmp_path / "job") as worker:
        worker.beat(now=True)
        assert worker.status.sharing == ""
        cpu_threads.take(0)
        worker.beat(now=True)
        status = worker.job.status()
        assert status
        assert status.sharing == "2 jobs share 6 cores: this one computes with 3 threads."
    assert cpu_threads.current().threads == 0, "the worker's end is the job's"


def test_a_heartbeat_looks_at_no_file_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Worker(tmp_path / "job") as worker:
        cpu_threads.take(0)
        own = worker.job.folder  # by its path, or by a handle
        look = os.listdir

        def listdir(place: Any = ".") -> list[str]:
            assert isinstance(place, int) or own in Path(place).parents, "it looked"
            return look(place)

        monkeypatch.setattr(os, "listdir", listdir)
        monkeypatch.setattr(cpu_threads.locks, "held", lambda *_: pytest.fail("it looked"))
        worker.beat(now=True)
        monkeypatch.undo()


def test_torchruns_processes_divide_one_jobs_share(
    monkeypatch: pytest.MonkeyPatch, start: Callable[..., Other]
) -> None:
    """However many of them are there already."""
    start()  # a job of its own, which counts: torchrun's processes have another parent
    monkeypatch.setattr(cpu_threads, "_same_job", lambda one: one.asked == 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    expected = (2, "3 processes share 6 cores: this one computes with 2 threads.")
    assert cpu_threads.take(0)[:2] == expected
    start(5, LOCAL_WORLD_SIZE="2", LOCAL_RANK="0")
    assert cpu_threads.take(0)[:2] == expected


def test_processes_of_one_parent_are_one_job_under_torchrun(start: Callable[..., Other]) -> None:
    several = {"LOCAL_WORLD_SIZE": "2"}
    assert [start(0, LOCAL_RANK=rank, **several).threads for rank in "01"] == [3, 3]
    assert start().threads == 2, "to others each of them counts"


def test_files_that_are_none_of_a_job_stay(shares: Path) -> None:
    shares.mkdir()
    (shares / "a note of mine").touch()
    (shares / "00001-999999999-0-job").touch()
    assert cpu_threads.take(0).threads == 6
    assert sorted(os.listdir(shares))[-1] == "a note of mine"
    assert len(os.listdir(shares)) == 2


def test_a_folder_that_cannot_be_written(shares: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ddpm")
    shares.write_text("not a folder")
    assert cpu_threads.take(0) == cpu_threads.Share(6, "", "")
    assert len(caplog.messages) == 1
    assert "jobs of other processes are not seen, and this one uses all cores" in caplog.text


def test_a_disk_without_locks(shares: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ddpm")

    def none(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        raise locks.NoLocks(37, "No locks available")

    monkeypatch.setattr(locks, "hold", none)
    assert cpu_threads.take(0).threads == 6
    assert "No locks available" in caplog.text
    assert os.listdir(shares) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_child_of_a_fork_does_not_keep_the_share() -> None:
    code = """
import os, time
from ddpm.host import cpu_threads
cpu_threads.take(0)
if os.fork() == 0:
    assert cpu_threads.current().threads == 0
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    assert len(cpu_threads.live_peers()) == 1
    parent.kill()
    parent.wait()
    assert child.is_running()
    assert cpu_threads.live_peers() == []
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
    share = cpu_threads.take(16)
    assert (share.threads, share.warning) == (min(16, threads), sentence)


FAKED = """
import sys
from ddpm.cli import main
from ddpm.host import hardware
hardware.physical = hardware.logical = lambda: 6
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
def test_a_second_training_takes_its_share_and_the_first_keeps_its_threads(tmp_path: Path) -> None:
    processes, found = {}, {}
    for name in ("one", "two"):
        processes[name] = training(tmp_path, name, "--total_steps", "1000000")
        found[name] = Run(tmp_path / "runs" / name)
        until(lambda run=found[name]: (status := run.status()) and status.step)
    sentence = "2 jobs share 6 cores: this one computes with 3 threads."
    assert [run.status().sharing for run in found.values()] == ["", sentence]  # type: ignore[union-attr]
    said = {}
    for name, run in found.items():
        run.request("stop")
        said[name], _ = processes[name].communicate(timeout=PATIENCE)
    assert "threads in the end: 6" in said["one"]
    assert sentence in said["two"]
    assert "threads in the end: 3" in said["two"]
