"""The loss on held-out images while a model trains: always the same images, timesteps and noise.

Nothing of it comes from the random generators of the training, so that the training is the same with it and without.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.compute import distributed
from ddpm.config.training import Config
from ddpm.data import datasets, sources
from ddpm.data.datasets import Dataset
from ddpm.data.decoded import Progress
from ddpm.data.stream import Order, Stream
from ddpm.diffusion.denoiser import Network
from ddpm.diffusion.losses import Batch, eps_errors
from ddpm.errors import UserError
from ddpm.planning import held_out, memory
from ddpm.runs import progress_log
from ddpm.storage import images
from ddpm.training.trainer import Trainer

log = logging.getLogger("ddpm")

LEAST, MOST = 8, 32  # images at a time, between which a request to stop is answered


@sources.opened_once()
def open_part(config: Config, progress: Progress | None = None) -> Dataset | None:
    """Opens the held-out images of a training: the data's own test split, or what `hold_out` keeps out.

    None where there are none, or where their loss is not to be measured.  Raises UserError where the settings ask for
    it, and there are none, too few, or of classes that the model does not learn.
    """
    train, data = config.train, config.data
    if not held_out.is_wanted(train):
        return None
    asked = bool(train.eval_interval)
    if datasets.part_of(data, "auto") != "test":
        if asked:
            raise UserError(
                f"eval_interval is {train.eval_interval}, but {data.data_dir} has no test split and no held-out images:"
                " set hold_out to 0.1, or eval_interval to 0.",
                code="no-test-part",
            )
        return None
    part = datasets.open_dataset(data, config.model, progress, split="test", seed=train.seed)
    try:
        datasets.class_numbers(config, part.class_names)
    except UserError as error:
        if asked:
            raise
        log.warning("The loss on held-out images is not measured. %s", error)
        return None
    held_out.images(train, len(part))
    return part


class _Chosen(NamedTuple):
    """Images, and the labels that the network knows them by."""

    pixels: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray | None  # int64 [N]


class HeldOutLoss:
    """Measures the mean squared error of the noise on N held-out and N training images, by raw weights and averages.

    N (image, t, noise) triples: the seed decides which images, t is spread over all timesteps, one in each N-th, and
    the training images have the same t and noise.  The network computes in fp32, without dropout.  Several processes
    share the images; `measure` is a collective call.
    """

    def __init__(self, trainer: Trainer, part: Dataset):
        config, T = trainer.config, len(trainer.schedule)
        self.trainer = trainer
        count = held_out.images(config.train, len(part))
        numbers = datasets.class_numbers(config, part.class_names)
        order = trainer.stream.order
        self._held_out = _chosen(part, count, config, numbers, order)
        self._training = _chosen(trainer.stream.dataset, count, config, None, order)
        random = np.random.PCG64(np.random.SeedSequence((config.train.seed, count))).random_raw(count) / 2.0**64
        self.t = torch.from_numpy(((np.arange(count) + random) * T / count).astype(np.int64).clip(max=T - 1))
        exact = 1.0 if trainer.compute.precision == "fp32" else held_out.EXACT
        interval = held_out.interval(config.train, count, distributed.world_size(), exact)
        self.interval = distributed.broadcast_object(interval)  # other machines may compute in another precision
        self.columns = progress_log.held_out_columns([kind for kind in trainer.weights() if kind != "model"])

    def __len__(self) -> int:
        return len(self.t)

    def is_due(self, step: int) -> bool:
        """Whether it is measured after that training step."""
        return step % self.interval == 0 or step == self.trainer.config.train.total_steps

    def measure(self, cancelled: Callable[[], bool] | None = None) -> dict[str, float]:
        """The loss now, by column of progress.csv; nothing if it was cancelled.

        cancelled: asked in the main process every few images.
        """
        network = self.trainer.network("model")
        compute = self.trainer.compute
        exact = compute._replace(precision="fp32", kernels="torch" if compute.library is None else "native")
        forward, averages = exact.prepared(network), self.trainer.weights()
        del averages["model"]
        errors, training = (self._errors(forward, chosen, cancelled) for chosen in (self._held_out, self._training))
        if errors is None or training is None:
            return {}
        found = {"eval_mse": float(errors.mean()), "eval_train_mse": float(training.mean())}
        found["eval_gap"] = found["eval_mse"] - found["eval_train_mse"]
        quarters = 4 * self.t // len(self.trainer.schedule)
        found |= {f"eval_mse_q{k}": float(errors[quarters == k].mean()) for k in quarters.unique().tolist()}
        for kind, weights in averages.items():
            network.load_state_dict(weights)
            if (errors := self._errors(forward, self._held_out, cancelled)) is None:
                return {}
            found[f"eval_{kind}_mse"] = float(errors.mean())
        return found

    def _errors(self, network: Network, chosen: _Chosen, cancelled: Callable[[], bool] | None) -> Tensor | None:
        """The error of each triple, float64 [N]; None if it was cancelled."""
        count, size = len(chosen.pixels), distributed.world_size()
        each = -(-count // size)  # images of one process; some are measured twice, so that all do as many
        own = (torch.arange(each) * size + distributed.rank()) % count
        at_once = min(max(self.trainer.config.train.micro, LEAST), MOST)
        if self.trainer.device.type == "cpu":
            at_once = memory.images_at_once(self.trainer.config.model, at_once)
        at_once = distributed.broadcast_object(at_once)  # each part is a question to the main process
        parts = []
        for numbers in own.split(at_once):
            if distributed.broadcast_object(cancelled is not None and cancelled()):
                return None
            batch = self._batch(chosen, numbers)
            parts.append(eps_errors(network, self.trainer.schedule, self.trainer.config.diffusion, batch).cpu())
        found = distributed.all_gather(torch.stack([own.double(), torch.cat(parts)]))
        errors = torch.empty(count, dtype=torch.float64)
        errors[found[0].long()] = found[1]
        return errors

    def _batch(self, chosen: _Chosen, numbers: Tensor) -> Batch:
        """The triples of these numbers, int64 [n], on the device of the training."""
        config, rows = self.trainer.config, numbers.numpy()
        x_start = torch.from_numpy(images.to_float(chosen.pixels[rows]))
        noise = torch.stack([_noise(config.train.seed, int(k), x_start.shape[1:]) for k in rows])
        y = None if chosen.labels is None else torch.from_numpy(chosen.labels[rows])
        small = config.model.small_size
        low_res = F.interpolate(x_start, (small, small), mode="area") if small else None
        batch = Batch(x_start, self.t[numbers], noise, y, low_res)
        return Batch(*(None if part is None else part.to(self.trainer.device) for part in batch))  # type: ignore[arg-type]


def begin(trainer: Trainer, part: Dataset | None) -> HeldOutLoss | None:
    """What measures the loss on the held-out images `part` during this training; None if it is never measured."""
    loss = None if part is None else HeldOutLoss(trainer, part)
    return loss if loss and loss.interval else None


def _chosen(dataset: Dataset, count: int, config: Config, numbers: np.ndarray | None, order: Order) -> _Chosen:
    """`count` images of the data in an order that the seed decides, some of them again where there are fewer.

    numbers: the network's number of each class of the data, int64 [C]; None: the same.
    """
    middle = dataclasses.replace(dataset, scaled=None)  # of training images too: as the held-out ones are cropped
    pixels, labels = Stream(middle, config.train.seed, order=order).next(count)
    if labels is None or not config.model.class_cond:
        return _Chosen(pixels, None)
    return _Chosen(pixels, labels if numbers is None else numbers[labels])


def _noise(seed: int, number: int, shape: torch.Size) -> Tensor:
    """Noise of the triple of that number, float32 `shape`: the same whatever is measured with it."""
    (state,) = np.random.SeedSequence((seed, number, 1)).generate_state(1, np.uint64)
    return torch.randn(shape, generator=torch.Generator().manual_seed(int(state >> np.uint64(1))))
