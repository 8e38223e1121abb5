"""What test_parallel.py starts with torchrun: trainings and exchanges whose outcome each process saves.

python -m torch.distributed.run ... two_processes.py OUT
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ddpm.checkpoints import evaluated_images
from ddpm.checkpoints.checkpoint_files import Weights
from ddpm.checkpoints.loading import OpenedModel
from ddpm.checkpoints.weights import FileState
from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.tasks import EvalConfig, SampleConfig
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.errors import UserError
from ddpm.runs.worker import Helper, Stopped
from ddpm.sampling import engine, job
from ddpm.sampling.request import resolve_request
from ddpm.training.held_out import HeldOutLoss
from ddpm.training.trainer import Trainer

STEPS = 14
PLAIN = dict(
    data_dir="shapes",
    image_size=8,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1",
    num_heads=1,
    attention_resolutions="8",
    diffusion_steps=4,
    noise_schedule="cosine",
    ema_rate="0.9",
    batch_size=4,
    lr=1e-3,
    threads=1,
    random_flip=True,
    class_cond=True,
)
TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "importance": dict(schedule_sampler="loss-second-moment", microbatch=3, learn_sigma=True, grad_clip=0.5),
    "bf16": dict(precision="bf16"),
    "compressed": dict(grad_compression="bf16", microbatch=2),
}


def train(name: str, processes: int) -> dict[str, Any]:
    """Each step's numbers, the first gradient and the last weights, of this process, where there are so many."""
    settings = {**PLAIN, **TRAININGS[name]}
    settings["batch_size"] *= 2 // processes
    config = datasets.resolve(codec.replace(Config(), {**settings, "eval_interval": 1, "eval_images": 13}))
    dataset = datasets.open_dataset(config.data, config.model)
    trainer = Trainer(config, dataset)
    reports, gradient = [], {}
    for report in trainer.steps(STEPS):
        gradient = gradient or {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
        reports.append({"t": report.t, "grad_norm": report.grad_norm, **report.losses})
    held_out = HeldOutLoss(trainer, dataset).measure()
    found = {"reports": reports, "gradient": gradient, "held_out": held_out}
    return {**found, "weights": trainer.weights(), "state": trainer.state()}


def exchanges() -> dict[str, Any]:
    """What becomes of values and exceptions."""
    rank = distributed.rank()

    def fail_in(which: int) -> str:
        if rank == which:
            raise UserError(f"Process {which} says so.", code="bad-value")
        return "well"

    def said(call: Any) -> str:
        try:
            return str(call())
        except UserError as error:
            return f"{type(error).__name__}: {error}"

    distributed.HEARTBEAT_SECONDS = 0.1  # so that the slow one is waited for in several pieces

    def slow() -> str:
        time.sleep(0.5)
        return f"slow {rank}"

    rounds = []

    def long() -> str:
        fail_in(0)
        for _ in range(600):
            time.sleep(0.05)
            rounds.append(1)
            distributed.raise_peer_error()
        return "worked on"

    return {
        "broadcast_object": distributed.broadcast_object({"rank": rank}),
        "all_gather_object": distributed.all_gather_object(rank),
        "all_gather": distributed.all_gather(torch.tensor([[rank, rank], [2 + rank, 2]])),
        "run_on_all_ranks": said(lambda: distributed.run_on_all_ranks(lambda: f"mine {rank}")),
        "one fails": said(lambda: distributed.run_on_all_ranks(lambda: fail_in(1))),
        "main fails": said(lambda: distributed.run_on_main(lambda: fail_in(0))),
        "main is slow": said(lambda: distributed.run_on_main(slow)),
        "working on": (said(lambda: distributed.run_on_all_ranks(long)), len(rounds)),
        "well again": said(lambda: distributed.run_on_all_ranks(lambda: "well")),
    }


class Asked(Helper):
    """Hears of a stop at once."""

    def poll_requests(self) -> set[str]:
        return {"stop"}


def reading(out: Path) -> dict[str, str]:
    """What becomes of data that are missing in one process, and of a stop that one hears of while it reads."""
    rank = distributed.rank()
    os.environ["DDPM_CACHE"] = str(out / f"cache{rank}")
    config = codec.replace(Config(), PLAIN)
    large = codec.replace(config, dict(small_size=4, class_cond=False))

    def said(call: Any) -> str:
        try:
            return f"went well: {call()}"
        except (UserError, Stopped) as error:
            return f"{type(error).__name__}: {error}"

    def measured(data_dir: str, worker: Helper | None = None) -> int:
        return len(evaluated_images.open_images(config, EvalConfig(data_dir=data_dir), worker)[0])

    def sampled(base_samples: str) -> int:
        asked = SampleConfig(num_samples=1, base_samples=base_samples)
        return next(engine.sample(lambda x, t, **condition: x, resolve_request(large, asked))).done

    def enlarged(worker: Helper) -> None:
        asked = SampleConfig(num_samples=1, base_samples="shapes")
        opened = OpenedModel(Weights({}, large, 1, "model"), large, out, "", FileState(0, 0, 0, 0))
        job.sample_into(out / "drawn", worker, opened, asked)

    mine = "nowhere" if rank == 1 else "shapes"
    listening = Asked(out) if rank == 0 else Helper(out)
    return {
        "measuring": said(lambda: measured(mine)),
        "drawing": said(lambda: sampled(mine)),
        "stopped measuring": said(lambda: measured("cifar10-mini", listening)),
        "stopped drawing": said(lambda: enlarged(listening)),
    }


if __name__ == "__main__":
    with distributed.process_group():
        torch.set_num_threads(1)
        found = {name: train(name, 2) for name in TRAININGS} | {"exchanges": exchanges()}
        found["reading"] = reading(Path(sys.argv[1]))
        torch.save(found, Path(sys.argv[1]) / f"{distributed.rank()}.pt")
