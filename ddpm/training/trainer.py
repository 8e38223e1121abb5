"""Training as a generator of reports: the caller logs, samples, saves and stops.

trainer = Trainer(config, dataset)
for report in trainer.steps(1000):
    print(report.step, report.losses["loss"].mean())
"""

import contextlib
import copy
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm import schedules
from ddpm.compute import distributed, precision
from ddpm.compute.precision import LossScale
from ddpm.config import learning_rate
from ddpm.config.training import Config, TrainConfig
from ddpm.data import augment
from ddpm.data.datasets import Dataset
from ddpm.data.stream import Stream
from ddpm.diffusion.losses import Batch, Losses, training_losses
from ddpm.diffusion.timestep_samplers import SAMPLERS, TimestepSampler
from ddpm.formatting import plural
from ddpm.models import backend, unet
from ddpm.models.unet import UNet
from ddpm.storage import images
from ddpm.training.optimizer import Ema, Optimizer

log = logging.getLogger("ddpm")


class Report(NamedTuple):
    """Report of one training step, of all processes together."""

    step: int  # steps done so far, this one included
    losses: Losses  # name -> [N] float64
    t: Tensor  # int64 [N], index of the timestep of each image
    grad_norm: float  # of the whole gradient, before clipping
    lr: float
    seconds: float
    applied: bool  # False when the gradient was not finite: the weights were left as they were
    lg_loss_scale: float | None = None  # after the step, with fp16
    held_out: Mapping[str, float] = MappingProxyType({})  # after the step, by column, where it was measured then

    @property
    def diverged(self) -> bool:
        """True if training has diverged and must stop: no loss scale makes the gradient finite."""
        return not self.applied and (self.lg_loss_scale is None or self.lg_loss_scale < precision.LEAST_LG_SCALE)


class Trainer:
    """A network in training, with its optimiser, averages, data stream and random state.

    Seeds torch's global generator, which gives the initial weights and dropout.  Of several processes each has a
    Trainer with the same weights, and takes its own `batch_size` images of the same stream: two processes do what one
    does with a batch twice as large.
    """

    def __init__(self, config: Config, dataset: Dataset, device: str | torch.device = "cpu"):
        self.config = config
        self.device = torch.device(device)
        self.full = config.diffusion.full_schedule()
        kept = schedules.space_timesteps(self.full.T, config.diffusion.timestep_respacing)
        self.schedule = schedules.respaced(self.full, kept)
        torch.manual_seed(config.train.seed)
        self.model = unet.build(config.model).to(self.device).train()
        self.parameters: list[torch.Tensor] = list(self.model.parameters())
        self.parallel = distributed.data_parallel(self.model, config.train.grad_compression)
        self._buckets_settled = not distributed.is_initialized()
        if distributed.rank():
            torch.manual_seed(config.train.seed + distributed.rank())  # for dropout
        self._compute_in(precision.for_training(config.train, self.device))
        self.scale = LossScale(config.train.fp16_scale_growth) if self.compute.precision == "fp16" else None
        self.ema = Ema(self.model, config.train.ema_rates, config.train.ema_warmup)
        self.optimizer = Optimizer(self.parameters, self.ema, config.train, self.compute.library)
        self.stream = Stream(dataset, config.train.seed, config.data.random_flip)
        self.rng = torch.Generator().manual_seed(config.train.seed)
        self.timesteps: TimestepSampler = SAMPLERS[config.train.schedule_sampler](len(self.schedule))
        self.step = self.warmed_from = 0
        self.began_with = 0  # steps of the file that training begins with now
        self.decided_for = ""  # the train_for for which total_steps is decided; empty before that

    def _compute_in(self, name: str) -> None:
        """Prepares the forward pass in that precision, by the kernels of the settings."""
        self.compute = backend.resolve_backend(self.config.train.kernels, name, self.device)
        self.forward = self.compute.prepared(self.parallel)

    def next_batch(self) -> Batch:
        """The next batch: images, timesteps, noise and dropped labels, sampled for all processes and then split.

        x_start, noise: float32 [N, C, H, W]; t, y: int64 [N]; N is the batch size of one process.
        """
        count = self.config.train.batch_size
        whole, own = (
            count * distributed.world_size(),
            slice(count * distributed.rank(), count * (distributed.rank() + 1)),
        )
        pixels, labels = self.stream.next(whole, own)
        model, augmented = self.config.model, None
        if model.augment:
            random = torch.rand((whole, augment.DRAWS), generator=self.rng, dtype=torch.float64)[own].numpy()
            augmented = augment.drawn(random, model.augment, model.image_size)
            pixels = augment.applied(pixels, augmented)
        x_start = torch.from_numpy(images.to_float(pixels))
        t, weight = self.timesteps.sample(whole, self.rng)
        noise = torch.randn((whole, *x_start.shape[1:]), generator=self.rng)[own]
        if offset := self.config.train.noise_offset:  # one number for each image and channel (Guttenberg 2023)
            noise = noise + offset * torch.randn((whole, x_start.shape[1], 1, 1), generator=self.rng)[own]
        t, weight = t[own], None if weight is None else weight[own]
        y = torch.from_numpy(labels) if model.class_cond and labels is not None else None
        if y is not None and model.cond_drop_prob:
            hidden = torch.rand(whole, generator=self.rng)[own] < model.cond_drop_prob
            y = y.masked_fill(hidden, model.num_classes)  # the label of no class (Ho & Salimans 2022, Algorithm 1)
        small = model.small_size
        low_res = F.interpolate(x_start, (small, small), mode="area") if small else None
        done = None if augmented is None else torch.from_numpy(augmented)
        batch = Batch(x_start, t, noise, y, low_res, weight, done)
        return Batch(*(None if part is None else part.to(self.device) for part in batch))  # type: ignore[arg-type]

    def update(self, batch: Batch) -> Report:
        """One training step.  The gradient is that of the mean loss over the batches of all processes."""
        began = time.perf_counter()
        count, parts, unweighted = len(batch.x_start), [], []
        if not self._buckets_settled:
            self._settle_buckets(batch.part(0, min(self.config.train.micro, count)))
        for parameter in self.parameters:
            parameter.grad = None
        factor = self.scale.factor if self.scale else 1.0
        for start in range(0, count, self.config.train.micro):
            part = batch.part(start, min(start + self.config.train.micro, count))
            last = start + self.config.train.micro >= count
            with contextlib.nullcontext() if last else distributed.local_gradients(self.parallel):
                losses = training_losses(self.forward, self.schedule, self.full, self.config, part)
                unweighted.append(losses["loss"].detach().double().cpu())
                if part.weight is not None:
                    losses = {name: values * part.weight for name, values in losses.items()}
                distributed.average_gradients(losses["loss"].sum() / count * factor)
            parts.append({name: values.detach().double().cpu() for name, values in losses.items()})
        names = list(parts[0])
        rows = [batch.t.cpu().double(), torch.cat(unweighted), *(torch.cat([part[n] for part in parts]) for n in names)]
        t, learnt, *joined = distributed.all_gather(torch.stack(rows))
        finite = learnt.isfinite()  # a history of losses that holds another is of no use
        self.timesteps.update(t[finite].long(), learnt[finite])
        if self.scale:  # what is not finite in one process is so in the mean: all leave the step out
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], 1 / factor)
        lr = learning_rate.learning_rate(self.config.train, self.step, self.warmed_from)
        grad_norm, applied = self.optimizer.step(lr)
        if self.scale:
            self.scale.update(overflowed=not applied)
        self.step += 1
        seconds, scale = time.perf_counter() - began, self.scale.lg if self.scale else None
        return Report(
            self.step, dict(zip(names, joined, strict=True)), t.long(), grad_norm, lr, seconds, applied, scale
        )

    def _settle_buckets(self, part: Batch) -> None:
        """A pass that leaves weights and random state as they were, in which torch orders its buckets of gradients.

        It orders them as gradients become ready in the first pass of all, and how a sum is rounded depends on it: a
        resumed training would else begin in another order than that in which one goes on that was never stopped.
        """
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            losses = training_losses(self.forward, self.schedule, self.full, self.config, part)
            distributed.average_gradients(losses["loss"].sum())
        self._buckets_settled = True

    def steps(self, total: int | None = None) -> Iterator[Report]:
        """Trains until `total` steps are done, or those of the settings, which may change meanwhile.

        Yields a report of each.
        """
        while self.step < (self.config.train.total_steps if total is None else total):
            yield self.update(self.next_batch())

    def set_length(self, train: TrainConfig, decided: bool = True) -> None:
        """Changes how many steps there are, and how the learning rate ends, by the settings `train`.

        decided: for good, whatever train_for would come to.
        """
        self.config = dataclasses.replace(self.config, train=train)
        self.decided_for = train.train_for if decided else ""

    def is_open(self) -> bool:
        """Whether the number of steps is still to be decided, by the time that train_for gives."""
        return bool(self.config.train.train_for) and self.decided_for != self.config.train.train_for

    def parameter_norm(self) -> float:
        """L2 norm of all weights together."""
        with torch.no_grad():
            return self.optimizer.norm(self.parameters)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Weights to sample with: "model" and an "ema_RATE" for each average -> name -> float32 [...]."""
        averages = {f"ema_{rate}": self.ema.weights(rate) for rate in self.ema.rates}
        return {"model": dict(self.model.state_dict()), **averages}

    def network(self, kind: str = "") -> UNet:
        """A copy to sample with: of "model", an "ema_RATE", or by default the first average, if there is one."""
        weights = self.weights()
        kind = kind or next((k for k in weights if k != "model"), "model")
        network = copy.deepcopy(self.model)
        network.load_state_dict(weights[kind])
        self.compute._replace(precision="fp32").prepared(network)  # whatever the training computes in
        return network.eval()

    def state(self) -> dict[str, Any]:
        """State for an exact resume beyond weights and optimiser; with several processes, a collective call."""
        state: dict[str, Any] = {
            "step": self.step,
            "warmed_from": self.warmed_from,
            "decided_for": self.decided_for,
            "lr_decay": learning_rate.decay(self.config.train, self.step),
            "position": self.stream.position,
            "order": self.stream.order,
            "ema_updates": self.ema.updates,
            "timesteps": self.timesteps.state(),
            "rng": self.rng.get_state(),
            "precision": self.compute.precision,
            "kernels": self.compute.kernels,
            **self._random_state(),
        }
        if self.scale:
            state["lg_loss_scale"] = self.scale.lg
        if distributed.is_initialized():
            state["ranks"] = distributed.all_gather_object(self._random_state())
        return state

    def _random_state(self) -> dict[str, Tensor]:
        """State of this process's own random generator, for dropout."""
        state = {"torch_rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def load(
        self, weights: Mapping[str, Mapping[str, Tensor]], optimizer: Mapping[str, Any] | None, state: Mapping[str, Any]
    ) -> None:
        """Restores `weights()`, the optimiser's state_dict and `state()` for an exact resume; weights are [...] each.

        Without an optimiser's state, that begins anew; an average that `weights` lacks begins as the weights.  With
        another number of processes the resume is not exact.
        """
        self.model.load_state_dict(weights["model"])
        for rate in self.ema.rates:
            self.ema.load(rate, dict(weights.get(f"ema_{rate}", weights["model"])))
        if optimizer is not None:
            own = {"fused": True, "weight_decay": self.config.train.weight_decay}  # whatever the file's were
            groups = [{**group, **own} for group in optimizer["param_groups"]]
            self.optimizer.load_state_dict({**optimizer, "param_groups": groups})
        self.step = state["step"]
        self.began_with = self.step if state.get("fresh") else 0
        # For the time that is given now alone: one that was decided before another length is open again.
        decided_for, wanted = state.get("decided_for", ""), self.config.train.train_for
        self.decided_for = decided_for if decided_for == wanted else ""
        self._resume_learning_rate(state)
        self.stream.position = state["position"]
        if not state.get("fresh"):
            self.stream.order = state.get("order", "sorted")  # earlier versions sorted, however many images there were
        self.ema.updates = state["ema_updates"]
        if "timesteps" in state:  # runs of version 0.1.0 drew all timesteps alike, and other programs keep no history
            self.timesteps.load(state["timesteps"])
        self.rng.set_state(state["rng"])
        if not state.get("fresh"):
            self._resume_compute_mode(
                state.get("precision", "fp32"), state.get("kernels", "torch")
            )  # as version 0.1.0 did
        if self.scale:
            self.scale.lg = state.get("lg_loss_scale", self.scale.lg)
        ranks = state.get("ranks", [state])
        if len(ranks) != distributed.world_size() and not state.get("fresh"):
            log.warning(
                "Saved with %s and resumed with %d: training goes on, but not bit by bit as it would have.",
                plural(len(ranks), "process", "processes"),
                distributed.world_size(),
            )
        if distributed.rank() < len(ranks):
            own = ranks[distributed.rank()]
            torch.set_rng_state(own["torch_rng"])
            if self.device.type == "cuda" and "cuda_rng" in own:
                torch.cuda.set_rng_state(own["cuda_rng"], self.device)

    def _resume_learning_rate(self, state: Mapping[str, Any]) -> None:
        """Repeats the warm-up where the learning rate had begun to fall, and is higher again, as there are more steps.

        Under lr_anneal_steps it goes on along the new line at once, as in improved-diffusion.
        """
        train, self.warmed_from = self.config.train, state.get("warmed_from", 0)
        if train.lr_anneal_steps or state.get("lr_decay", 1.0) >= learning_rate.decay(train, self.step):
            return
        self.warmed_from = self.step
        log.info("The learning rate had begun to fall: it rises again over %s", plural(train.lr_warmup_steps, "step"))

    def _resume_compute_mode(self, name: str, kernels: str) -> None:
        """Uses the precision of the saved training where the settings leave it open; warns where the mode differs."""
        if precision.for_training(self.config.train, self.device) == "auto" and name in ("fp32", "bf16"):
            self._compute_in(name)
        if (name, kernels) != (self.compute.precision, self.compute.kernels):
            log.warning(
                "Saved in %s by %s kernels and resumed in %s by %s: training goes on, but not bit by bit as it would"
                " have.",
                name,
                kernels,
                self.compute.precision,
                self.compute.kernels,
            )


class Means:
    """Running means for a row of progress.csv: each loss, over all images and per quarter of the timesteps."""

    def __init__(self, timesteps: int):
        self._timesteps = timesteps
        self._sums: dict[str, list[float]] = {}  # name -> [sum, count]

    def add(self, report: Report) -> None:
        if report.applied or report.diverged:  # a step that the loss scale left out has no finite gradient
            self._add("grad_norm", report.grad_norm, 1)
        quarters = 4 * report.t // self._timesteps
        for name, values in report.losses.items():
            self._add(name, float(values.sum()), len(values))
            for quarter in quarters.unique().tolist():
                chosen = values[quarters == quarter]
                self._add(f"{name}_q{quarter}", float(chosen.sum()), len(chosen))
        self._add("step_seconds", report.seconds, 1)

    def _add(self, name: str, total: float, count: int) -> None:
        entry = self._sums.setdefault(name, [0.0, 0])
        entry[0] += total
        entry[1] += count

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means

    def state(self) -> dict[str, list[float]]:
        return {name: list(entry) for name, entry in self._sums.items()}

    def load(self, state: Mapping[str, list[float]]) -> None:
        self._sums = {name: list(entry) for name, entry in state.items()}
