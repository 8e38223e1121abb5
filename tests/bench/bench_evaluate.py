"""What batching over images and timesteps brings `ddpm nll`, and what --rows does to its memory.  Asserts nothing.

python tests/bench/bench_evaluate.py [rounds]
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the command line has it
os.environ.setdefault("KMP_BLOCKTIME", "1")

import numpy as np
import torch

from ddpm.analysis import likelihood
from ddpm.bench import step_cost
from ddpm.config import codec
from ddpm.config.tasks import EvalConfig
from ddpm.config.training import Config
from ddpm.data.datasets import Dataset
from ddpm.models import unet
from ddpm.planning.resolve import resolve_evaluation

PICTURES = 1
ROWS = (16, 256)

CONFIG = codec.replace(
    Config(),
    dict(
        image_size=32,
        num_channels=32,
        num_res_blocks=1,
        channel_mult="1,2,2",
        num_heads=2,
        attention_resolutions="8",
        diffusion_steps=64,
        noise_schedule="cosine",
    ),
)


def seconds(rows: int, pictures: int = PICTURES) -> float:
    """To measure so many images, per image."""
    network = unet.build(CONFIG.model).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (pictures, 32, 32, 3), dtype=np.uint8)
    settings = EvalConfig(num_samples=pictures, rows=rows)
    began = time.perf_counter()
    for _ in likelihood.measure(network, resolve_evaluation(CONFIG, settings), Dataset(pixels, None, (), ())):
        pass
    return (time.perf_counter() - began) / pictures


def main(rounds: int = 7) -> None:
    """One image and one timestep a network call, and the default number of rows, in turn."""
    seconds(64, 1)
    found: dict[int, list[float]] = {1: [], 64: []}
    for _, rows in itertools.product(range(rounds), found):
        found[rows].append(seconds(rows))
    ratio = statistics.median(one / many for one, many in zip(found[1], found[64], strict=True))
    print(f"threads:                      {torch.get_num_threads():8}")
    for rows, times in found.items():
        print(f"a picture, {rows:3} rows at once:   {statistics.median(times):8.2f} s")
    print(f"ratio:                        {ratio:8.1f}     (goal: at least 2)")
    for rows in ROWS:
        done = subprocess.run(
            [sys.executable, __file__, "memory", str(rows)], capture_output=True, text=True, check=True
        )
        print(f"peak memory, {rows:3} rows:       {int(done.stdout) / 1e6:8.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        seconds(int(sys.argv[2]), 4)
        print(step_cost.peak_bytes())
    else:
        main(*map(int, sys.argv[1:]))
