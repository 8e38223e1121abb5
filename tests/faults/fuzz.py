"""Files of strangers, mutated, and read in a process whose memory and time are measured.

`test_fuzz.py` and `promise_foreign.py` try files that are mutated at random; `guided.py` is guided by coverage.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

SECONDS, MEGABYTES = 2.0, 300  # of processor time and memory that a file may take
INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f\xff",
    b"\x80\0",
    b"\xff\xff\xff\xff",
    b"\0\0\1\0",
    b"\x7f\xff\xff\xff",
    b"(" * 64,
    b"9" * 24,
)


class Outcome(NamedTuple):
    """What became of reading a file."""

    result: str  # "read", the code of a UserError, or "" for anything else
    seconds: float  # of processor time
    megabytes: float  # by which the process grew
    error: str = ""  # a traceback

    @property
    def is_good(self) -> bool:
        return bool(self.result) and self.seconds <= SECONDS and self.megabytes <= MEGABYTES


class Edit(NamedTuple):
    """A change to a file."""

    kind: str  # "flip", "set", "insert", "delete", "cut", "copy" or "splice"
    at: float  # where, as a share of its length
    value: bytes = b""
    length: int = 1  # of what is deleted or copied


def apply(content: bytes, edits: Sequence[Edit], other: bytes = b"") -> bytes:
    """`content` after these changes.  other: a file whose end a splice takes."""
    for edit in edits:
        at = min(int(edit.at * len(content)), max(len(content) - 1, 0))
        end = at + edit.length
        match edit.kind:
            case "flip" if content:
                content = content[:at] + bytes([content[at] ^ (1 << edit.length % 8)]) + content[at + 1 :]
            case "set":
                content = content[:at] + edit.value + content[at + len(edit.value) :]
            case "insert":
                content = content[:at] + edit.value + content[at:]
            case "delete":
                content = content[:at] + content[end:]
            case "cut":
                content = content[:at]
            case "copy":
                content = content[:end] + content[at:end] + content[end:]
            case "splice":
                content = content[:at] + other[min(at, len(other)) :]
    return content


def random_edits(random: random.Random) -> list[Edit]:
    """A few changes."""
    kinds = ("flip", "flip", "set", "set", "insert", "delete", "cut", "copy", "splice")
    return [
        Edit(
            random.choice(kinds),
            random.random() ** random.choice((1, 3)),
            random.choice(INTERESTING),
            random.randrange(1, 64),
        )
        for _ in range(random.randrange(1, 5))
    ]


class Measured:
    """Reads files in this process, and measures each."""

    def __init__(self, name: str, folder: Path):
        from faults.readers import READERS

        self.reader = READERS[name]
        self.path = folder / self.reader.name

    def read(self, content: bytes) -> Outcome:
        from ddpm.errors import UserError

        os.environ["DDPM_CACHE"] = str(self.path.parent / "cache")
        os.chdir(self.path.parent)
        self.path.write_bytes(content)
        before, start = _reset_peak(), time.process_time()
        result, error = "read", ""
        try:
            self.reader.read(self.path)
        except UserError as found:
            result = found.code
            if "\n" in str(found):
                result, error = "", f"a sentence of several lines: {found!r}"
        except (Exception, RecursionError):
            result, error = "", traceback.format_exc()
        return Outcome(result, time.process_time() - start, _peak() - before, error)


def _peak() -> float:
    """The most memory that this process had since `_reset_peak`, in MB; for ever, where the system knows no reset."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1e3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _reset_peak() -> float:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def serve() -> None:
    """Reads the files that standard input gives, and prints what became of each; on another process's behalf."""
    with tempfile.TemporaryDirectory() as folder:
        known: dict[str, Measured] = {}
        for line in sys.stdin:
            name, content = line.split(" ")
            if name not in known:
                (Path(folder) / name).mkdir()
                known[name] = Measured(name, Path(folder) / name)
                for seed in known[name].reader.seeds():  # what is loaded on first use is no growth
                    known[name].read(seed)
            print(json.dumps(known[name].read(bytes.fromhex(content))), flush=True)


class Child:
    """A process that reads files, and whose end by a signal is noticed."""

    def __init__(self) -> None:
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        command, quiet = [sys.executable, __file__], subprocess.DEVNULL  # libraries print what they think of a file
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, text=True)

    def read(self, name: str, content: bytes) -> Outcome:
        """Has a file of this content read by the reader of that name."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(name, content.hex(), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if line:
            return Outcome(*json.loads(line))
        code = self.process.wait()
        self.process = self._start()
        return Outcome("", 0.0, 0.0, f"the process ended with {code}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    serve()
