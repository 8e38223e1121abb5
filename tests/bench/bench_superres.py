"""What super-resolution to 64 pixels costs at the tiny size:  python tests/bench/bench_superres.py

Trains a network from 16 to 64 pixels for a few steps and samples a few images, in this process alone.  Prints the
seconds of each and the most memory held (goal: within 4 GB); asserts nothing.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ddpm import formatting
from ddpm.bench.step_cost import noise, peak_bytes
from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.planning import low_res
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
from ddpm.training.trainer import Trainer

STEPS, PICTURES, DENOISING = 8, 4, 10


def main() -> None:
    settings = dict(
        data_dir="shapes",
        image_size=64,
        small_size=16,
        num_channels=32,
        num_res_blocks=1,
        batch_size=8,
        ema_rate="0.995",
        noise_schedule="cosine",
    )
    config = datasets.resolve(codec.replace(Config(), settings))
    trainer = Trainer(config, noise(config))
    count = sum(p.numel() for p in trainer.parameters)
    seconds = [report.seconds for report in trainer.steps(STEPS)][1:]  # the first one also allocates
    step = statistics.median(seconds)
    print(f"16 -> 64 pixels, {formatting.amount(count)} weights, batch {config.train.batch_size}: {step:.2f} s a step")
    drawing = SampleConfig(num_samples=PICTURES, use_ddim=True, timestep_respacing=str(DENOISING))
    small = low_res.of_dataset(trainer.stream.dataset, config, PICTURES)
    began = time.perf_counter()
    engine.sample_images(trainer.network(), resolve_request(config, drawing, trainer.compute, images=small))
    took = time.perf_counter() - began
    print(f"{PICTURES} pictures of {DENOISING} DDIM steps: {took:.2f} s, {took / DENOISING:.2f} s a step of all")
    print(f"peak memory: {formatting.memory(peak_bytes())}   (goal: at most 4 GB)")


if __name__ == "__main__":
    main()
