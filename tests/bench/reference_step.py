"""A training step the plain way, timed: what `ddpm bench` measures every speed against.  Prints; asserts nothing.

python tests/bench/reference_step.py [steps]
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddpm.bench import worker
from ddpm.bench.baseline import PlainTrainer
from ddpm.config import codec
from ddpm.config.presets import PRESETS


def main(steps: int = 12) -> None:
    """The CPU preset's network, with its batch in one piece."""
    config = codec.replace(PRESETS["cifar10-cpu"].config, {"microbatch": -1})
    plain, batch, seconds = PlainTrainer(config), worker.random_batch(config), []
    for _ in range(steps + 2):
        began = time.perf_counter()
        plain.update(batch)
        seconds.append(time.perf_counter() - began)
    print(f"plain training step: {1000 * statistics.median(seconds[2:]):.0f} ms, the median of {steps}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
