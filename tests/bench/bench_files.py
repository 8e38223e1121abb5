"""What writing and exporting a run's files costs:  python tests/bench/bench_files.py

A metrics line, a beat of the status, a look at a run's state, and results.xlsx at 10,000 and 100,000 lines.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddpm.config.training import Config
from ddpm.reports import xlsx
from ddpm.runs import progress_log, runs
from ddpm.runs.worker import Worker


def each(call: Callable[[], object], times: int) -> str:
    """How long one call takes on average."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return f"{(time.perf_counter() - start) / times * 1e6:.0f} microseconds"


def main() -> None:
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        run = runs.create_run(Path(folder), "bench", Config())
        row = {name: rng.random() for name in progress_log.COLUMNS}
        writer = progress_log.MetricWriter(run.progress_path)
        print(f"a metrics line: {each(lambda: writer.write(row), 2000)}; flushed to disk: {each(writer.sync, 20)}")
        writer.close()
        with Worker(run.folder) as worker:
            print(f"a beat: {each(worker.beat, 10_000)}; written: {each(lambda: worker.beat(now=True), 50)}")
            print(
                f"requests, none new: {each(worker.poll_requests, 2000)}; the state from outside:"
                f" {each(run.state, 500)}"
            )
        for lines in (10_000, 100_000):
            with open(run.progress_path, "w") as file:
                file.write(",".join(progress_log.COLUMNS) + "\n")
                for step in range(1, lines + 1):
                    row = {name: rng.random() for name in progress_log.COLUMNS} | {"step": step, "samples": step * 8}
                    file.write(",".join(map(repr, row.values())) + "\n")
            start, before = time.perf_counter(), psutil.Process().memory_info().rss
            size = len(xlsx.workbook(run))
            memory = (psutil.Process().memory_info().rss - before) / 1e6
            print(
                f"results.xlsx of {lines:,} lines: {time.perf_counter() - start:.1f} s, {size / 1e6:.1f} MB,"
                f" {memory:+.0f} MB of memory"
            )


if __name__ == "__main__":
    main()
