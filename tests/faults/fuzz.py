"""Fuzzes what reads files of strangers: `python tests/faults/fuzz.py READER --seconds 3600`, or `all`.

Guided by coverage, with atheris, which is not among the requirements: make an environment of its own for it, as in
`python -m venv fuzz && fuzz/bin/pip install atheris`, install this program there, and run this with its Python.
Whatever is neither a result nor a UserError, takes more than SECONDS or MEGABYTES is written to --found, and counted.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
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
        os.environ["DDPM_CACHE"] = str(folder / "cache")
        os.chdir(folder)

    def read(self, content: bytes) -> Outcome:
        from ddpm.errors import UserError

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


def serve(name: str) -> None:
    """Reads the files named on standard input, and prints what became of each; on another process's behalf."""
    with tempfile.TemporaryDirectory() as folder:
        measured = Measured(name, Path(folder))
        for seed in measured.reader.seeds():  # what is loaded on first use is no growth
            measured.read(seed)
        for line in sys.stdin:
            print(json.dumps(measured.read(bytes.fromhex(line))), flush=True)


class Child:
    """A process that reads files, and whose end by a signal is noticed."""

    def __init__(self, name: str):
        self.name = name
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, __file__, self.name, "--serve"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, content: bytes) -> Outcome:
        """Has a file of this content read."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(content.hex(), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if line:
            return Outcome(*json.loads(line))
        code = self.process.wait()
        self.process = self._start()
        return Outcome("", 0.0, 0.0, f"the process ended with {code}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


# --- guided by coverage


def fuzz(name: str, seconds: float, found: Path) -> None:
    """Fuzzes one reader; prints what was tried, and what was found."""
    start, runs, failures = time.monotonic(), 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        found.mkdir(parents=True, exist_ok=True)
        while (left := seconds - (time.monotonic() - start)) > 1:
            log = Path(folder) / "log"
            command = [
                sys.executable,
                __file__,
                name,
                "--worker",
                str(corpus),
                "--seconds",
                str(int(left)),
                "--found",
                str(found),
            ]
            with open(log, "wb") as output:
                code = subprocess.run(command, stdout=output, stderr=output).returncode
            lines = log.read_text(errors="replace").splitlines()
            numbers = [
                int(line[1:].split()[0]) for line in lines if line.startswith("#") and line[1:].split()[0].isdigit()
            ]
            runs += max(numbers, default=0)
            failures.update(line.removeprefix("FOUND ") for line in lines if line.startswith("FOUND "))
            if code and not any(line.startswith("FOUND ") for line in lines):
                failures[f"ended with {code}"] += 1
                found.mkdir(parents=True, exist_ok=True)
                (found / f"{name}-{time.time_ns()}.log").write_text("\n".join(lines[-60:]))
        kept = len(list(corpus.iterdir()))
    print(f"{name}: {runs:,} files in {time.monotonic() - start:.0f} s, {kept:,} kept, {sum(failures.values())} found")
    for failure, count in failures.most_common():
        print(f"    {count} x {failure}")


def worker(name: str, corpus: Path, seconds: int, found: Path) -> None:
    """Fuzzes one reader in this process until something is found."""
    import atheris

    with atheris.instrument_imports(
        include=["ddpm", "PIL", "pickletools", "zipfile", "tarfile", "json", "csv", "numpy.lib"]
    ):
        import ddpm.data.sources
        import ddpm.storage.images  # noqa: F401
        from faults.readers import READERS, mended
    folder = Path(tempfile.mkdtemp(dir=corpus.parent))
    measured = Measured(name, folder)
    reader = READERS[name]
    seeds = reader.seeds()
    for number, seed in enumerate(seeds):
        (corpus / f"seed{number}").write_bytes(seed)
        measured.read(seed)

    def one(content: bytes) -> None:
        outcome = measured.read(content)
        if not outcome.is_good:
            found.mkdir(parents=True, exist_ok=True)
            stem = found / f"{name}-{time.time_ns()}"
            stem.with_suffix(".bin").write_bytes(content)
            stem.with_suffix(".txt").write_text(f"{outcome.seconds:.2f} s, {outcome.megabytes:.0f} MB\n{outcome.error}")
            last = (
                outcome.error.strip().splitlines()[-1][:200]
                if outcome.error
                else f"{outcome.seconds:.1f} s, {outcome.megabytes:.0f} MB"
            )
            print(f"FOUND {last}", flush=True)
            os._exit(1)

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        pick = random.Random(seed)
        changed = (
            atheris.Mutate(content, most)
            if pick.random() < 0.5
            else apply(content, random_edits(pick), pick.choice(seeds))
        )
        return (mended(changed, reader.inside) if pick.random() < 0.8 else changed)[:most]

    longest = max(2 * max(map(len, seeds)), 4096)
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={longest}",
        "-rss_limit_mb=4000",
        "-timeout=60",
        f"-artifact_prefix={found}/",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    """The command line."""
    from faults.readers import READERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=["all", *READERS])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.reader)
    elif chosen.worker:
        worker(chosen.reader, chosen.worker, chosen.seconds, chosen.found)
    else:
        for name in READERS if chosen.reader == "all" else [chosen.reader]:
            fuzz(name, chosen.seconds, chosen.found.absolute())


if __name__ == "__main__":
    main()
