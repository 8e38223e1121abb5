"""Two processes with a thread each against one with two threads, at the same batch in all.  Prints; asserts nothing.

python tests/bench/bench_parallel.py [steps]
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddpm.runs.metrics import MetricReader

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def steps_per_second(folder: Path, name: str, steps: int, *settings: str, launcher: tuple[str, ...] = ()) -> float:
    """The median over the log lines of a short training of the CPU preset's network."""
    subprocess.run(
        [
            sys.executable,
            *launcher,
            "-m",
            "ddpm",
            "train",
            "--preset",
            "cifar10-cpu",
            "--data_dir",
            "cifar10-mini",
            "--microbatch",
            "-1",
            "--total_steps",
            str(steps),
            "--log_interval",
            "2",
            "--sample_interval",
            "0",
            "--name",
            name,
            *settings,
        ],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    rows = MetricReader(folder / "runs" / name / "progress.csv").read()
    return statistics.median(rows["steps_per_second"].to_list()[1:])


def main(steps: int = 20) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one = steps_per_second(folder, "one", steps, "--batch_size", "8", "--threads", "2")
        two = steps_per_second(folder, "two", steps, "--batch_size", "4", "--threads", "1", launcher=tuple(TORCHRUN))
    print(f"one process with 2 threads: {one:6.2f} steps a second")
    print(f"2 processes with a thread:  {two:6.2f} steps a second, {two / one:.2f} times as fast")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
