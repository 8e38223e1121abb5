"""What test_restarts.py starts with torchrun: a training that goes on, and the same one resumed, in every process.

python -m torch.distributed.run ... three_processes.py OUT
"""

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from two_processes import PLAIN

from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.training.trainer import Trainer

BEFORE, AFTER = 2, 3  # steps up to the checkpoint, and after it
TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "microbatches": dict(microbatch=3, dropout=0.3, schedule_sampler="loss-second-moment", learn_sigma=True),
    "compressed": dict(grad_compression="bf16", precision="bf16", dropout=0.3),
}


def trainer(name: str) -> Trainer:
    config = datasets.resolve(codec.replace(Config(), {**PLAIN, **TRAININGS[name]}))
    return Trainer(config, datasets.open_dataset(config.data, config.model))


def after(training: Trainer) -> dict[str, Any]:
    """The gradient of each later step, and the weights and state at the end."""
    gradients = []
    for _ in training.steps(BEFORE + AFTER):
        gradients.append({n: p.grad.clone() for n, p in training.model.named_parameters() if p.grad is not None})
    return {"gradients": gradients, "weights": training.weights(), "state": training.state()}


def train(name: str) -> dict[str, Any]:
    straight = trainer(name)
    images = []
    for _ in range(BEFORE):
        batch = straight.next_batch()
        images.append(batch.x_start)
        straight.update(batch)
    saved = copy.deepcopy((straight.weights(), straight.optimizer.state_dict(), straight.state()))
    found = {"images": images, "saved": saved, "straight": after(straight)}
    resumed = trainer(name)
    resumed.load(*saved)
    return {**found, "resumed": after(resumed)}


if __name__ == "__main__":
    distributed.BUCKET_MB = 0.05  # several buckets of the small network
    with distributed.process_group():
        torch.set_num_threads(1)
        rank, found = distributed.rank(), {name: train(name) for name in TRAININGS}
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    torch.save({**found, "threads": threads}, Path(sys.argv[1]) / f"{rank}.pt")
