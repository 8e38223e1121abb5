"""Each system call of a short training, a sampling and a page fails in turn, and what comes of it is looked at.

    PYTHONPATH=.:tests python -m faults.harness [SCENARIO ...]    every call with every error: a table; takes a while

A process that has loaded everything forks for each case, so that a case takes a fraction of a second.  Its files lie
in one folder, and shim.c makes the k-th call of a kind on one of them fail, or the k-th that changes something.
"""

import argparse
import contextlib
import ctypes
import errno
import importlib
import io
import json
import math
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from faults import verdicts

ROOT = Path(__file__).resolve().parents[2]
SHIM = Path(__file__).with_name("shim.c")
ERRORS = ("EACCES", "EIO", "ENOSPC", "ENOLCK", "EINVAL", "ENOTSUP", "EROFS", "EMFILE")
PATIENCE = 120.0  # seconds until a case counts as hanging

TINY = """
    --image_size 8 --num_channels 32 --num_res_blocks 1 --channel_mult 1 --attention_resolutions 4 --num_heads 1
    --diffusion_steps 20 --noise_schedule cosine --batch_size 2 --ema_rate 0.9 --log_interval 1 --save_interval 2
    --sample_interval 2 --preview_samples 1 --preview_steps 2 --threads 1 --kernels torch
"""


class Case(NamedTuple):
    """The k-th call of a kind on a file of that role, as "write runs/r/status.json", ends with an error."""

    scenario: str
    call: str
    k: int
    error: str


class Outcome(NamedTuple):
    """How a case ended: "well", "sentence", "box" (on a page), "traceback", "hang" or "lost"; and what was said."""

    kind: str
    said: str
    fired: bool  # whether there was such a call


def shim(folder: Path) -> Path | None:
    """The compiled shim; None where that is not possible."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or not compiler:
        return None
    path = folder / "shim.so"
    done = subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", path, SHIM, "-ldl"], capture_output=True)
    return path if done.returncode == 0 else None


HOW = {"kill": 1, "cut": 2, "once": 3, "lasting": 4, "short": 5, "full": 6}  # as shim.c numbers them
RAW = re.compile(r"enforce fail|inline_container|PytorchStream|iostream error")  # torch's own words about files


class Point(NamedTuple):
    """What becomes of the k-th call of a training that changes something."""

    how: str  # a key of HOW: the process is killed before it or half way through a write; it fails, or it and all later
    # ones do; it writes a part; the disk is full from then on
    k: int
    error: str = "EIO"


class Server:
    """The process that forks for each case, and the folder in which the cases play."""

    def __init__(self, library: Path, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("DDPM_", "OPENAI_"))}
        environment |= dict(
            LD_PRELOAD=str(library),
            OMP_NUM_THREADS="1",
            PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            PYTHONDONTWRITEBYTECODE="1",
            HOME=str(folder),
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.harness", "--serve", str(folder)],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(folder / "server.log", "w"),
            start_new_session=True,  # Ctrl-C is for who asks
        )
        self.folder = folder

    def _ask(self, *question: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError((self.folder / "server.log").read_text())
        return json.loads(answer)

    def calls(self, scenario: str) -> Counter[str]:
        """The calls of a scenario in which nothing fails, and how many there are of each."""
        return Counter(self._ask("calls", scenario))

    def run(self, case: Case) -> Outcome:
        """What comes of a case."""
        return Outcome(*self._ask("run", *case))

    def changes(self) -> int:
        """How many calls of a whole training change something."""
        return int(self._ask("changes"))

    def point(self, point: Point) -> str:
        """What a training that is resumed afterwards has lost by it, against an undisturbed one; empty if nothing."""
        return str(self._ask("point", *point))

    def damage(self, name: str, offset: int, bit: int) -> str:
        """What comes of a bit of a file of a stopped run that is another; bit < 0: the file ends there.

        Empty where it is noticed, and nothing is lost.
        """
        return str(self._ask("damage", name, offset, bit))

    def sizes(self) -> dict[str, int]:
        """The files of that run, and their sizes."""
        return dict(self._ask("sizes"))

    @property
    def stopped(self) -> Path:
        """That run."""
        return self.folder / "stopped" / "runs" / "new"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, after what it is at."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)


# --- in the server


def command(*arguments: str) -> Callable[[Path], tuple[str, str]]:
    """A scenario: a command of the command line; {} is the folder."""

    def play(folder: Path) -> tuple[str, str]:
        from ddpm.cli import main as cli

        code = cli.main([argument.replace("{}", str(folder)) for argument in arguments])
        return {0: "well", 2: "sentence"}.get(code, f"code {code}"), ""

    return play


def page(script: str) -> Callable[[Path], tuple[str, str]]:
    """A scenario: a page is opened, and run again."""

    def play(folder: Path) -> tuple[str, str]:
        from streamlit.testing.v1 import AppTest

        at = AppTest.from_file(str(ROOT / "home.py"), default_timeout=60)
        at.query_params["run"] = "r"
        if script != "home.py":
            at.switch_page(script)
        at.run()
        if at.exception:
            return "traceback", "\n".join(str(e.stack_trace or e.message) for e in at.exception)
        return "box" if at.error else "well", " ".join(e.value for e in at.error)

    return play


RUNS = ("--runs_dir", "{}/runs")
SCENARIOS: dict[str, Callable[[Path], tuple[str, str]]] = {
    "train": command("train", "--data_dir", "{}/data", *TINY.split(), "--total_steps", "2", "--run", "new", *RUNS),
    "resume": command("train", "--resume", "r", *RUNS),
    "sample": command(
        "sample", "--run", "r", *RUNS, "--num_samples", "1", "--steps", "2", "--threads", "1", "--kernels", "torch"
    ),
    "export": command("export", "r", *RUNS),
    "runs": command("runs", *RUNS),
    "Home": page("home.py"),
    "Monitor": page("pages/monitor.py"),
    "Train": page("pages/train.py"),
    "Sample": page("pages/sample.py"),
    "Evaluate": page("pages/evaluate.py"),
    "Explore": page("pages/explore.py"),
}


LONG = ("train", "--data_dir", "{}/data", *TINY.split(), "--total_steps", "6", "--run", "new", *RUNS)
WHOLE = command(*LONG, "--keep_checkpoints", "2")
EVERY = command(*LONG, "--keep_checkpoints", "0")


def STOPPED(folder: Path) -> tuple[str, str]:
    """A training that is stopped after four of six steps."""
    from ddpm.runs.worker import Worker

    poll_requests = Worker.poll_requests
    Worker.poll_requests = lambda self: {  # type: ignore[method-assign]
        *poll_requests(self),
        *(["stop"] if self.status.step == 4 else []),
    }
    return WHOLE(folder)


def without_waiting() -> None:
    """No second passes between two tries."""
    from ddpm.storage import ballast
    from ddpm.training import saving

    ballast.WAITS = (0.0, 0.01, 0.02)
    saving.MUST_WAITS = (0.01, 0.02)


GOES_ON = {"train": "new", "resume": "r"}  # the run that is resumed after it, if there is one


class Stage:
    """The folder, its files as they are before each case, and the forks."""

    def __init__(self, folder: Path):
        self.template, self.folder, self.log = folder / "template", folder / "stage", folder / "said.txt"
        self.shim = ctypes.CDLL(None)
        self.shim.calls.restype = ctypes.c_char_p
        self.shim.changed.restype = ctypes.c_long
        for name in ("CACHE", "SHARES", "RUNS"):
            os.environ[f"DDPM_{name}"] = str(self.folder / name.lower())
        os.environ["TMPDIR"] = str(self.folder / "tmp")
        self.template.mkdir()
        self._prepare()

    def _prepare(self) -> None:
        """A run that was stopped after two of four steps, and what it was trained on."""
        import numpy as np
        from PIL import Image

        for name in ("runs", "cache", "shares", "data", "tmp"):
            (self.template / name).mkdir()
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.template / "data" / f"{number}.png")

        def begin(folder: Path) -> tuple[str, str]:
            from ddpm.runs.worker import Worker

            poll_requests = Worker.poll_requests
            Worker.poll_requests = lambda self: {
                *poll_requests(self),
                *(["stop"] if self.status.step == 2 else []),
            }  # type: ignore[method-assign]
            return command("train", "--data_dir", "{}/data", *TINY.split(), "--total_steps", "4", "--run", "r", *RUNS)(
                folder
            )

        self._set()
        kind, said, *_ = self._fork(begin, None)
        assert kind == "well", said
        shutil.rmtree(self.template)
        shutil.copytree(self.folder, self.template)

    def _set(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.template, self.folder)

    def _fork(
        self, play: Callable[[Path], tuple[str, str]], case: Case | Point | None
    ) -> tuple[str, str, int, list[str]]:
        """Play in a process of its own: how it ended, what was said, whether the fault came about, the calls."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            os.setsid()
            self._played(play, case, writing)
        os.close(writing)
        try:
            return self._answer(reading)
        finally:
            os.close(reading)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _answer(self, reading: int) -> tuple[str, str, int, list[str]]:
        deadline, answer = time.monotonic() + PATIENCE, b""
        while True:
            ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return "hang", "", True, []
            if not (more := os.read(reading, 65536)):
                break
            answer += more
        said = self.log.read_text(errors="replace")
        kind, words, fired, calls, modules = (
            json.loads(answer) if answer else ("traceback", "it ended without a word", True, [], [])
        )
        for name in modules:  # so that the next ones have them from the start
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        said = f"{words}\n{said}"
        return ("traceback" if "Traceback" in said else kind), said, fired, calls

    def _played(self, play: Callable[[Path], tuple[str, str]], case: Case | Point | None, writing: int) -> None:
        answer: tuple[str, str] = ("traceback", "")
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(log, number)
            sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
            sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
            if isinstance(case, Point):
                without_waiting()
                where, number = os.fsencode(self.folder), getattr(errno, case.error)
                self.shim.arm_change(where, HOW.get(case.how, 0), case.k, number)
            else:
                call = case.call if case else ""
                self.shim.arm(
                    os.fsencode(self.folder),
                    call.encode(),
                    case.k if case else 0,
                    getattr(errno, case.error) if case else 0,
                )
            answer = play(self.folder)
        except BaseException:
            answer = ("traceback", traceback.format_exc())
        modules = [] if case else sorted(sys.modules)
        fired = self.shim.changed() if isinstance(case, Point) else bool(self.shim.fired())
        calls = self.shim.calls().decode(errors="replace").splitlines()
        self.shim.arm(b"", b"", 0, 0)
        with open(writing, "w") as pipe:
            json.dump([*answer, fired, calls, modules], pipe)
        os._exit(0)

    def changes(self) -> int:
        """Trains undisturbed, which also makes what others are compared with."""
        self.every, _ = self._undisturbed(EVERY, "every")
        self.whole, count = self._undisturbed(WHOLE, "whole")
        return count

    def _undisturbed(self, play: Callable[[Path], tuple[str, str]], name: str) -> tuple[Path, int]:
        """A folder with the run of a training that nothing disturbs, and how many of its calls change something."""
        self._set()
        kind, said, count, _ = self._fork(play, Point("once", 0))
        assert kind == "well", said
        kept = self.folder.with_name(name)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.folder / "runs" / "new", kept)
        return kept, int(count)

    def point(self, how: str, k: int, error: str) -> str:
        self._set()
        kind, said, _, _ = self._fork(WHOLE, Point(how, k, error))
        run = self.folder / "runs" / "new"
        if (run / "log.txt").exists():
            said += (run / "log.txt").read_text(errors="replace")
        if how not in ("kill", "cut") and kind not in ("well", "sentence"):
            return f"{kind}: {said}"
        if RAW.search(said):
            return f"torch's own words: {said}"
        if not (run / "config.json").exists():
            return ""
        # What only the process that was disturbed could say: others read it from the folder.
        known = self._fork(lambda folder: verdicts.how_it_is_reported(run, how), None)
        if known[0] != "well":
            return f"{known[0]}: {known[1]}"
        again = self._fork(lambda folder: verdicts.as_if_nothing_had_been(run, self.whole, self.every, said, how), None)
        return "" if again[0] == "well" else f"{again[0]}: {again[1]}"

    def sizes(self) -> dict[str, int]:
        self.stopped = self.folder.with_name("stopped")
        if not self.stopped.exists():
            self._set()
            kind, said, *_ = self._fork(STOPPED, None)
            assert kind == "well", said
            shutil.copytree(self.folder, self.stopped)
        run = self.stopped / "runs" / "new"
        return {str(p.relative_to(run)): p.stat().st_size for p in sorted(run.rglob("*")) if p.is_file()}

    def damage(self, name: str, offset: int, bit: int) -> str:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.stopped, self.folder)
        path = self.folder / "runs" / "new" / name
        content = bytearray(path.read_bytes())
        if bit < 0:
            del content[offset:]
        else:
            content[offset] ^= 1 << bit
        path.write_bytes(content)
        kind, said, *_ = self._fork(
            lambda folder: verdicts.noticed(folder / "runs" / "new", self.whole, name, offset), None
        )
        return "" if kind == "well" else f"{kind}: {said}"

    def calls(self, scenario: str) -> list[str]:
        self._set()
        kind, said, _, calls = self._fork(SCENARIOS[scenario], None)
        assert kind == "well", said
        return calls

    def run(self, scenario: str, call: str, k: int, error: str) -> tuple[str, str, bool]:
        self._set()
        kind, said, fired, _ = self._fork(SCENARIOS[scenario], Case(scenario, call, k, error))
        for path in self.folder.glob("runs/*/log.txt"):
            if "Traceback" in (text := path.read_text(errors="replace")):
                kind, said = "traceback", f"{said}\n{text}"
        if kind not in ("traceback", "hang"):
            again, words, _, _ = self._fork(
                lambda folder: verdicts.nothing_is_lost(folder, GOES_ON.get(scenario, "")), None
            )
            if again != "well":
                kind, said = "lost", f"{said}\n{again}: {words}"
        return kind, said, fired


def serve(folder: Path) -> None:
    """Answer questions, a line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch
    from streamlit.testing.v1 import AppTest

    from ddpm.training import loop  # noqa: F401

    torch.set_num_threads(1)
    assert AppTest
    os.chdir(folder)
    stage = Stage(folder)
    for line in sys.stdin:
        question, *rest = json.loads(line)
        try:
            answer = getattr(stage, question)(*rest)
        except Exception:
            traceback.print_exc()
            raise
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


# --- which cases


def first_of_each(calls: Counter[str], scenario: str, without: tuple[str, ...] = ()) -> Iterator[Case]:
    """One case for each kind of call on each role of file, the errors in turn."""
    for number, call in enumerate(sorted(call for call in calls if not call.startswith(without))):
        yield Case(scenario, call, 1, ERRORS[number % len(ERRORS)])


def every(calls: Counter[str], scenario: str, most: int) -> Iterator[Case]:
    """Every call with every error, of calls that are alike only a few; each once before any a second time."""
    for k in range(1, most + 1):
        alike = [call for call, count in sorted(calls.items()) if count >= k]
        for turn in range(len(ERRORS)):
            for number, call in enumerate(alike, turn):
                yield Case(scenario, call, k, ERRORS[number % len(ERRORS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--most", type=int, default=2, help="of the calls that are alike (default: 2)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="for each scenario, at most")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    with tempfile.TemporaryDirectory() as place:
        library = shim(Path(place))
        if library is None:
            sys.exit("The shim needs Linux and a C compiler.")
        server = Server(library, Path(place) / "server")
        for scenario in options.scenarios:
            sweep(server, scenario, options.most, options.seconds)
        server.close()


def sweep(server: Server, scenario: str, most: int, seconds: float) -> None:
    """Print the results of a scenario: a row a kind of call and error, and each that is not good in full."""
    calls, began = server.calls(scenario), time.monotonic()
    cases = list(every(calls, scenario, most))
    print(f"== {scenario}: {sum(calls.values())} calls, {len(calls)} kinds and roles, {len(cases)} cases", flush=True)
    table: dict[str, Counter[str]] = {}
    for case in cases:
        if time.monotonic() - began > seconds:
            break
        outcome = server.run(case)
        kind = outcome.kind if outcome.fired else "not met"
        table.setdefault(f"{case.call.split()[0]:9}{case.error}", Counter())[kind] += 1
        if outcome.kind not in ("well", "sentence", "box"):
            said = re.sub(r"\n\s*\n", "\n", outcome.said).strip()
            print(f"-- {case.call} {case.k} {case.error}: {outcome.kind}\n{said[-2500:]}", flush=True)
    for row, found in sorted(table.items()):
        print(f"{row:18}", ", ".join(f"{number} {kind}" for kind, number in sorted(found.items())))
    whole = sum(table.values(), Counter())
    print(
        f"{scenario:18}",
        ", ".join(f"{n} {kind}" for kind, n in sorted(whole.items())),
        f"in {time.monotonic() - began:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
