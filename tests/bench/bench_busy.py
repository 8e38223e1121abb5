"""A training step beside other work: with one busy process, then two.  Prints; asserts nothing.

python tests/bench/bench_busy.py [steps]

With T threads on C cores beside B busy processes, a training that gets its share of the processor takes
max(1, (T + B) / C) times as long as alone.  What it takes beyond that is lost where threads wait for each other.
"""

import multiprocessing
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddpm.bench.processes import SPINNING, BenchmarkProcess
from ddpm.bench.speed import cpu_preset
from ddpm.config import codec
from ddpm.host import hardware

BUSY = (0, 1, 2)  # processes
TURNS = 3


def burn() -> None:
    while True:
        pass


def main(steps: int = 6) -> None:
    cores = hardware.physical()
    config = codec.replace(cpu_preset(), {"threads": cores})
    environment = dict(zip(SPINNING, ("10000", "1"), strict=True))  # as the command line sets them
    times: dict[int, list[float]] = {busy: [] for busy in BUSY}
    with BenchmarkProcess(config, environment=environment) as training:
        training.request("time_steps", 3)
        for _ in range(TURNS):
            for busy in BUSY:
                others = [multiprocessing.Process(target=burn, daemon=True) for _ in range(busy)]
                for other in others:
                    other.start()
                times[busy] += training.request("time_steps", steps)
                for other in others:
                    other.kill()
                    other.join()
    alone = statistics.median(times[0])
    print(f"{cores} threads on {os.cpu_count()} cores, alone {1000 * alone:.0f} ms a step")
    for busy in BUSY[1:]:
        slower, share = statistics.median(times[busy]) / alone, max(1.0, (cores + busy) / (os.cpu_count() or 1))
        print(f"beside {busy} busy: {slower:.2f} times as long, {slower / share:.2f} of what the shares say")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
