"""What logging, status and the loader cost a training.  Prints ratios of interleaved blocks; asserts nothing.

python tests/bench/bench_training.py [blocks]
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddpm import config as configs
from ddpm import data, runs
from ddpm.jobs import Worker
from ddpm.presets import PRESETS
from ddpm.session import Session

STEPS = 10  # in a block: one log line each


def main(blocks: int = 8) -> None:
    """The CPU preset's network, once bare and once as a session writes about it, in turn."""
    settings = dict(data_dir="cifar10-mini", total_steps=10**6, sample_interval=0, log_interval=10, save_interval=10**6)
    config = data.resolve(configs.replace(PRESETS["cifar10-cpu"].config, settings))
    with tempfile.TemporaryDirectory() as folder:
        run = runs.create(Path(folder), "bench", config)
        with Worker(run.folder, config.train.total_steps) as worker:
            session = Session(run, worker)
            trainer, reports = session.trainer, session.train()
            for _ in range(3):
                next(reports)
            bare, logged, loader = [], [], []
            for _ in range(blocks):
                began = time.perf_counter()
                for _ in range(STEPS):
                    trainer.update(trainer.draw())
                middle = time.perf_counter()
                for _ in range(STEPS):
                    next(reports)
                bare.append((middle - began) / STEPS)
                logged.append((time.perf_counter() - middle) / STEPS)
                began = time.perf_counter()
                for _ in range(50):
                    trainer.stream.next(config.train.batch_size)
                loader.append((time.perf_counter() - began) / 50)
            step = statistics.median(bare)
            ratio = statistics.median(b / a for a, b in zip(bare, logged, strict=True))
            print(f"training step, bare:            {1000 * step:8.1f} ms")
            print(f"with log, status and requests:  {ratio - 1:+8.1%}   (goal: at most +2 %)")
            print(f"waiting for data:               {statistics.median(loader) / step:8.2%}   (goal: under 2 %)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
