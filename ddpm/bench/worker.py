"""Measurements that one process makes of itself: seconds of training steps and model evaluations, and their parts.

`ddpm.bench.processes` starts such processes and lets them take turns.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm import schedules
from ddpm.bench import step_cost
from ddpm.bench.baseline import PlainTrainer
from ddpm.compute import machine, precision
from ddpm.config import codec
from ddpm.config.model import AUGMENTED
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.diffusion.denoiser import Network
from ddpm.diffusion.losses import Batch, training_losses
from ddpm.models.native import build
from ddpm.models.native.ops import NativeOps
from ddpm.runs import runs
from ddpm.runs.jobs import Job
from ddpm.runs.worker import Worker
from ddpm.storage import files
from ddpm.training.loop import TrainingLoop
from ddpm.training.trainer import Trainer

WARM_UP = 2  # steps or calls before any counts
SIDE = 2048  # of the matrices whose product measures the peak rate
PRODUCTS = 8  # products, or copies, of which the fastest counts
COPIED = 1 << 25  # numbers of a copy, more than caches hold


class ResolvedCompute(NamedTuple):
    """Precision and kernels of a training, once settings of "auto" are resolved."""

    precision: str  # fp32, bf16, fp16
    kernels: str  # native or torch
    why: str  # not native, where that was asked for: a clause


class BenchmarkWorker:
    """Times training steps and model evaluations with the given settings, or of the baseline (`plain`)."""

    def __init__(self, config: Config, plain: bool = False):
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        self.config, self.plain = config, plain

    @cached_property
    def _training(self) -> Trainer | PlainTrainer:
        return PlainTrainer(self.config) if self.plain else Trainer(self.config, step_cost.noise(self.config))

    @cached_property
    def _batches(self) -> Iterator[Batch]:
        return itertools.cycle([random_batch(self.config, seed=seed) for seed in range(4)])

    def time_step(self) -> float:
        """Seconds of one training step on random images."""
        training, batch = self._training, next(self._batches)
        if not training.model.training:  # which takes a hundredth of a step, and no training does in each
            training.model.train()
        began = time.perf_counter()
        training.update(batch)
        return time.perf_counter() - began

    def time_whole_step(self) -> float:
        """Seconds of one training step on random images, with all that prepares its batch."""
        training = self._training
        assert isinstance(training, Trainer), "the baseline has no data"
        began = time.perf_counter()
        training.update(training.next_batch())
        return time.perf_counter() - began

    def time_steps(self, count: int) -> list[float]:
        """Seconds of each of `count` training steps."""
        return [self.time_step() for _ in range(count)]

    def cpu_step(self) -> float:
        """CPU seconds of one training step on random images, of all threads together."""
        began = time.process_time()
        self.time_step()
        return time.process_time() - began

    def time_forward(self, num_images: int) -> float:
        """Seconds of one model evaluation without gradients on `num_images` images."""
        network, batch = self._network(), random_batch(self.config, num_images)
        with torch.no_grad():
            began = time.perf_counter()
            network(batch.noise, batch.t.float(), **batch.condition)
            return time.perf_counter() - began

    def _network(self) -> Network:
        training = self._training
        training.model.eval()
        return training.network if isinstance(training, PlainTrainer) else training.forward

    def step_cost(self, seconds: float) -> dict[str, float | None]:
        """What the Train page measures of these settings in about `seconds`."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            files.write_json(folder / "config.json", codec.to_json(self.config))
            step_cost.measure_into(folder, seconds)
            status = Job(folder).status()
            assert status is not None, "a measurement that ends has written its status"
            return status.metrics

    def peak_bytes(self) -> int:
        """Peak memory of this process in bytes."""
        return step_cost.peak_bytes()

    def machine(self) -> dict[str, Any]:
        """Describes this machine."""
        return machine.described()

    def compute_mode(self, config: Config) -> ResolvedCompute:
        """Precision and kernels of a training with these settings on this machine."""
        chosen = Trainer(config, step_cost.noise(config)).compute
        why = build.found().why if config.train.kernels == "native" else ""
        return ResolvedCompute(chosen.precision, chosen.kernels, why)

    def product_rate(self, kind: str) -> float:
        """Operations a second of a product of two large matrices in fp32 or bf16; the best of several."""
        dtype = precision.DTYPES.get(kind, torch.float32)
        a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        torch.mm(a, b, out=out)
        fastest = min(_seconds(lambda: torch.mm(a, b, out=out)) for _ in range(PRODUCTS))
        return 2.0 * SIDE**3 / fastest

    def copy_rate(self) -> float:
        """Bytes a second, read and written, of a copy of a large matrix; the best of several."""
        a = torch.randn(COPIED)
        out = torch.empty_like(a)
        fastest = min(_seconds(lambda: out.copy_(a)) for _ in range(PRODUCTS))
        return 2.0 * a.nbytes / fastest

    def kernel_calls(self, steps: int) -> list[tuple[tuple[Any, ...], int, float]]:
        """((kernel, its whole numbers in order), calls in a training step, median seconds of them together)."""
        training = self._training
        assert isinstance(training, Trainer), "the baseline has no kernels"
        ops = training.model.ops
        assert isinstance(ops, NativeOps), "torch alone computes"
        call, update = ops.call, training.optimizer.step
        seconds: dict[tuple[Any, ...], list[float]] = {}  # of each call of a step

        def timed(key: tuple[Any, ...], work: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            result = work()
            seconds.setdefault(key, []).append(time.perf_counter() - began)
            return result

        def timed_call(name: str, *arguments: Any, dtype: torch.dtype | None = None) -> None:
            sizes = itertools.takewhile(lambda argument: isinstance(argument, int), arguments)
            timed((name, *sizes), lambda: call(name, *arguments, dtype=dtype))

        def timed_update(lr: float) -> tuple[float, bool]:
            key = "update", sum(p.numel() for p in training.parameters), len(self.config.train.ema_rates)
            done: tuple[float, bool] = timed(key, lambda: update(lr))
            return done

        ops.call, training.optimizer.step = timed_call, timed_update  # type: ignore[method-assign]
        found = []
        try:
            for _ in range(steps):
                seconds.clear()
                self.time_step()
                found.append({key: sum(times) for key, times in seconds.items()})
        finally:
            ops.call, training.optimizer.step = call, update  # type: ignore[method-assign]
        return [(key, len(times), statistics.median(step[key] for step in found)) for key, times in seconds.items()]

    def deviation(self, config: Config) -> dict[str, float]:
        """Deviation of a network with these settings from the baseline on one batch; no layer's weights are 0.

        output and gradient: relative distance.  output_most: the largest of the output's deviations, as a share of its
        largest value.  cosine: of the whole gradients.
        """
        trainer, plain = Trainer(config, step_cost.noise(config)), PlainTrainer(config)
        weights = _with_random_zeros(dict(plain.model.state_dict()))
        plain.model.load_state_dict(weights)
        trainer.load({"model": weights}, None, trainer.state())
        batch = random_batch(config)
        outputs, gradients = [], []
        for network, parameters in ((trainer.forward, trainer.parameters), (plain.network, plain.parameters)):
            with torch.no_grad():
                outputs.append(network(batch.noise, batch.t.float(), **batch.condition).double())
            training_losses(network, plain.schedule, plain.full, config, batch)["loss"].mean().backward()
            gradients.append(torch.cat([p.grad.flatten().double() for p in parameters if p.grad is not None]))
        return {
            "output": _relative_distance(*outputs),
            "output_most": float((outputs[0] - outputs[1]).abs().max() / outputs[1].abs().max()),
            "gradient": _relative_distance(*gradients),
            "cosine": float(F.cosine_similarity(gradients[0], gradients[1], dim=0)),
        }

    def step_parts(self, steps: int) -> dict[str, float]:
        """Mean seconds of the parts of a step in a whole training, with real images, log and status.

        draw: the next images, their noise and timesteps.  network: forward and backward.  update: the rest of the
        step, which is optimiser, averages and gradient norm.  log: metrics, status, requests.
        """
        wanted = dict(
            data_dir="cifar10-mini",
            enlarge=True,
            total_steps=WARM_UP + steps + 1,
            sample_interval=0,
            save_interval=10**9,
            log_interval=10,
        )
        config = datasets.resolve(codec.replace(self.config, {**wanted, "num_classes": 0}))
        with tempfile.TemporaryDirectory() as folder:
            run = runs.create_run(Path(folder), "parts", config)
            with Worker(run.folder, config.train.total_steps) as worker:
                loop = TrainingLoop(run, worker)
                watch = _Stopwatch(loop.trainer)
                training = loop.train()
                for _ in range(WARM_UP):
                    next(training)
                watch.reset()
                began = time.perf_counter()
                for _ in range(steps):  # one less than there are: the last one would save a checkpoint
                    next(training)
                whole = (time.perf_counter() - began) / steps
                measured = dict(watch.seconds)
                training.close()
        draw, network, update = (measured[name] / steps for name in ("draw", "network", "update"))
        return {"draw": draw, "network": network, "update": update - network, "log": whole - draw - update}


class _Stopwatch:
    """Where a trainer's time goes.  Forward and backward last from the network's call to its last weight's gradient."""

    def __init__(self, trainer: Trainer):
        self.seconds: dict[str, float] = {}
        self.reset()
        self._began = self._last = 0.0
        trainer.next_batch = self._timed("draw", trainer.next_batch)  # type: ignore[method-assign]
        trainer.update = self._timed("update", trainer.update)  # type: ignore[method-assign]
        forward = trainer.forward

        def begin(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            self._end()
            self._began = time.perf_counter()
            return forward(x, t, **condition)

        def on_gradient(parameter: Tensor) -> None:
            self._last = time.perf_counter()

        trainer.forward = begin
        for parameter in trainer.parameters:
            parameter.register_post_accumulate_grad_hook(on_gradient)

    def reset(self) -> None:
        self.seconds |= {"draw": 0.0, "update": 0.0, "network": 0.0}

    def _end(self) -> None:
        """Of forward and backward of a microbatch, if one has begun."""
        if self._began:
            self.seconds["network"] += self._last - self._began
        self._began = 0.0

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = call(*arguments)
            self.seconds[name] += time.perf_counter() - began
            self._end()
            return result

        return timed


def random_batch(config: Config, num_images: int = 0, seed: int = 0) -> Batch:
    """Random batch of num_images, or of the batch size.

    x_start, noise: float32 [N, C, H, W], x_start in [-1, 1].  t, y: int64 [N].  low_res: float32 [N, C, h, w].
    """
    model, count = config.model, num_images or config.train.batch_size
    rng = torch.Generator().manual_seed(seed)
    shape = (count, model.image_channels, model.image_size, model.image_size)
    steps = len(schedules.space_timesteps(config.diffusion.diffusion_steps, config.diffusion.timestep_respacing))
    x_start = torch.rand(shape, generator=rng) * 2 - 1
    y = torch.randint(max(1, model.num_classes), (count,), generator=rng) if model.class_cond else None
    low_res = F.interpolate(x_start, (model.small_size, model.small_size), mode="area") if model.super_res else None
    t, noise = torch.randint(steps, (count,), generator=rng), torch.randn(shape, generator=rng)
    augmented = torch.zeros(count, AUGMENTED) if model.augment else None
    return Batch(x_start, t, noise, y, low_res, augmented=augmented)


def _with_random_zeros(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with random ones of usual size in the layers that are initialised to zeros."""
    rng = torch.Generator().manual_seed(0)
    return {
        name: (
            weight
            if weight.any() or weight.dim() < 2
            else torch.randn(weight.shape, generator=rng) * weight[0].numel() ** -0.5
        )
        for name, weight in weights.items()
    }


def _relative_distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
