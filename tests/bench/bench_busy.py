"""A training step beside other work: with one busy process, then two.  Prints; asserts nothing.

python tests/bench/bench_busy.py [steps]

The training has the niceness of a job that the dashboard starts.  What a training takes beyond its share of the cores
is lost where its threads wait for each other.
"""

import multiprocessing
import os
import signal
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddpm.bench.processes import BenchmarkProcess
from ddpm.bench.speed import cpu_preset
from ddpm.config import codec
from ddpm.host import hardware, openmp
from ddpm.runs.launch import NICE

BUSY = (0, 1, 2)  # processes
TURNS = 3
WEIGHT = 1.25  # of a process in Linux's scheduler, by which it grows from a niceness to the next lower one


def burn() -> None:
    while True:
        pass


def share(threads: int, busy: int, cores: int) -> float:
    """The cores that `threads` with niceness NICE get beside `busy` processes with niceness 0."""
    weight = WEIGHT**NICE
    each = min(1.0, cores * weight / (busy * weight + threads))
    return min(threads, cores - busy * each)


def main(steps: int = 6) -> None:
    cores = hardware.physical()
    config = codec.replace(cpu_preset(), {"threads": cores})
    times: dict[int, list[float]] = {busy: [] for busy in BUSY}
    others = [multiprocessing.Process(target=burn, daemon=True) for _ in range(max(BUSY))]
    for other in others:
        other.start()
        os.kill(other.pid or 0, signal.SIGSTOP)
    os.nice(NICE)  # of what starts from here on
    with BenchmarkProcess(config, environment=openmp.variables()) as training:
        training.request("time_steps", 3)
        for _ in range(TURNS):
            for busy in BUSY:
                for other in others[:busy]:
                    os.kill(other.pid or 0, signal.SIGCONT)
                times[busy] += training.request("time_steps", steps)
                for other in others[:busy]:
                    os.kill(other.pid or 0, signal.SIGSTOP)
    for other in others:
        other.kill()
    alone = statistics.median(times[0])
    print(f"{cores} threads on {os.cpu_count()} cores, alone {1000 * alone:.0f} ms a step")
    for busy in BUSY[1:]:
        slower, fair = statistics.median(times[busy]) / alone, cores / share(cores, busy, cores)
        print(f"beside {busy} busy: {slower:.2f} times as long, {slower / fair:.2f} of the {fair:.2f} that shares say")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
