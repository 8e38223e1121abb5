"""Fuzzes what reads files of strangers, guided by coverage; `make fuzz` installs what it needs and runs it.

    python tests/faults/guided.py [READER ...] [--seconds S] [--folder F]

Whatever is neither a result nor a UserError, or takes more than fuzz.SECONDS or MEGABYTES, is a fault, and its file is
kept.  S: for each reader, in turns of ROUND, so that each had about as much whenever it is interrupted.  F: keeps the
files that reach something new, and the counts; a later call goes on with them.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults import fuzz  # noqa: E402

ROUND = 120  # seconds
INSTRUMENTED = ["ddpm", "PIL", "pickletools", "zipfile", "tarfile", "gzip", "json", "csv", "numpy.lib"]
MEMORY = 2000  # MB at which a process is ended
PATIENCE = 60  # seconds after which it hangs
COUNTED = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+)")
HEAD = "| Reader | Files tried | Coverage points | Seconds | Faults |\n|---|---|---|---|---|"


class Kept:
    """What is known of one reader."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder / name
        self.corpus, self.found = self.folder / "corpus", self.folder / "found"
        for place in (self.corpus, self.found):
            place.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "counts.json"
        counts = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.files: int = counts.get("files", 0)
        self.points: int = counts.get("points", 0)
        self.seconds: float = counts.get("seconds", 0.0)
        self.faults: list[str] = counts.get("faults", [])

    def save(self) -> None:
        self.path.write_text(
            json.dumps({"files": self.files, "points": self.points, "seconds": self.seconds, "faults": self.faults})
        )

    def line(self) -> str:
        """A row of the table."""
        return f"| {self.name} | {self.files:,} | {self.points:,} | {self.seconds:.0f} | {len(self.faults)} |"

    def play(self, seconds: float) -> None:
        """Tries files for one round: in a process of its own, and in another where that ends at a fault."""
        end = time.monotonic() + seconds
        while (left := int(end - time.monotonic())) >= 1:
            began = time.monotonic()
            command = [sys.executable, __file__, self.name, "--worker", str(self.folder), "--seconds", str(left)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            output = done.stdout.decode(errors="replace")
            counted = [(int(files), int(points)) for files, points in COUNTED.findall(output)]
            self.files += max((files for files, _ in counted), default=0)
            self.points = max([self.points, *(points for _, points in counted)])
            self.seconds += time.monotonic() - began
            if done.returncode or not counted:
                faults = [line.removeprefix("FAULT ") for line in output.splitlines() if line.startswith("FAULT ")]
                self.faults += faults or [f"the process ended with {done.returncode}"]
                (self.found / f"{time.time_ns()}.log").write_text("\n".join(output.splitlines()[-60:]))
                print(f"{self.name}: {self.faults[-1]}", file=sys.stderr, flush=True)
            self.save()


def work(name: str, folder: Path, seconds: int) -> None:
    """Tries files in this process until one is a fault."""
    import atheris

    place = Path(tempfile.mkdtemp())
    with atheris.instrument_imports(include=INSTRUMENTED):  # only what is imported in here gives points
        from PIL import Image

        from faults.readers import READERS, mended

        Image.init()
        reader = READERS[name]
        seeds = reader.seeds()
        measured = fuzz.Measured(name, place)
        for number, seed in enumerate(seeds):
            (folder / "corpus" / f"seed{number}").write_bytes(seed)
            measured.read(seed)

    def one(content: bytes) -> None:
        outcome = measured.read(content)
        if not outcome.is_good:
            took = f"{outcome.seconds:.1f} s, {outcome.megabytes:.0f} MB"
            stem = folder / "found" / f"{time.time_ns()}"
            stem.with_suffix(".bin").write_bytes(content)
            stem.with_suffix(".txt").write_text(f"{took}\n{outcome.error}")
            print(f"FAULT {outcome.error.strip().splitlines()[-1][:200] if outcome.error else took}", flush=True)
            os._exit(1)

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        pick = random.Random(seed)
        if pick.random() < 0.5:
            changed = atheris.Mutate(content, most)
        else:
            changed = fuzz.apply(content, fuzz.random_edits(pick), pick.choice(seeds))
        return (mended(changed, reader.inside) if pick.random() < 0.8 else changed)[:most]

    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={max(2 * max(map(len, seeds)), 4096)}",
        f"-rss_limit_mb={MEMORY}",
        f"-timeout={PATIENCE}",
        f"-artifact_prefix={folder}/found/",
    ]
    atheris.Setup([sys.argv[0], *flags, str(folder / "corpus")], one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    """The command line; returns 1 where there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.readers[0], options.worker, options.seconds)
        return 0
    from faults.readers import READERS

    if unknown := set(options.readers) - {*READERS}:
        parser.error(f"there is no reader {min(unknown)}: choose among {', '.join(READERS)}")
    kept = [Kept(name, options.folder.absolute()) for name in options.readers or READERS]
    before = sum(len(one.faults) for one in kept)
    left = options.seconds
    while left > 0:
        for number, one in enumerate(kept, 1):
            print(f"{one.name} ({number} of {len(kept)}), {left} s of each left", file=sys.stderr, flush=True)
            one.play(min(left, ROUND))
        left -= ROUND
    print(HEAD)
    for one in kept:
        print(one.line())
    return int(sum(len(one.faults) for one in kept) > before)


if __name__ == "__main__":
    sys.exit(main())
