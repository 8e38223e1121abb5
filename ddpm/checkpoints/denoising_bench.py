"""Denoising errors of a network under candidate settings, on the same images with the same noise."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm import schedules
from ddpm.config import codec, validation
from ddpm.config.training import Config
from ddpm.data.datasets import Dataset
from ddpm.diffusion import denoiser
from ddpm.diffusion.process import at, q_posterior_mean, q_sample, x_start_from_eps
from ddpm.models import backend
from ddpm.models.unet import build
from ddpm.planning import architecture, memory
from ddpm.storage import images

LEVELS = (0.98, 0.9, 0.75, 0.5, 0.25, 0.12, 0.05, 0.0001)  # alphas_cumprod at which images are denoised
SCHEDULES = ("linear", "cosine")  # that are tried: those of improved-diffusion, whose files do not say theirs
WORK = 500e6  # bytes of activations that the images may make together: large networks are shown fewer
LEAST, MOST = 3, 32  # images
FEW = 8  # a network for which memory allows no more images is large: only the usual settings are tried
USUAL_STEPS, OTHER_STEPS = (1000, 4000), (250, 100, 50)  # T that are tried
HEADS, HEAD_CHANNELS = (1, 2, 4, 8, 16, 32, 64), (16, 32, 64, 128)  # num_heads and num_head_channels that are tried
ATTENTION = ("num_heads", "num_head_channels", "use_new_attention_order")


class Process(NamedTuple):
    """How timesteps are scaled: with T = 1000, rescale_timesteps makes no difference."""

    noise_schedule: str
    diffusion_steps: int
    rescale_timesteps: bool

    @property
    def scale(self) -> int:
        """Timesteps reach the network as numbers from 0 up to this."""
        return 1000 if self.rescale_timesteps else self.diffusion_steps


class Heads(NamedTuple):
    """How attention is split."""

    num_heads: int
    num_head_channels: int
    use_new_attention_order: bool


class DenoisingBench:
    """Images x_start, float32 [N, C, H, W] in [-1, 1], noise for each level, and the errors measured so far.

    tensors: name -> [...], the weights.  labels: those that a class-conditional network knows; all of them if empty.
    """

    def __init__(self, tensors: Mapping[str, Tensor], config: Config, dataset: Dataset, labels: Sequence[int]):
        self.tensors, self.config = dict(tensors), config
        settings, model = config.diffusion, config.model
        most = max(WORK / memory.activation_bytes(model, memory.TORCH), LEAST)
        count = int(min(most, MOST, len(dataset)))
        self.rows = max(1, int(4 * WORK / memory.activation_bytes(model, memory.TORCH)))  # through the network at once
        self.steps = list(
            dict.fromkeys((settings.diffusion_steps, *USUAL_STEPS, *(OTHER_STEPS if most >= FEW else ())))
        )
        # Other T on the scale of 0 to 1000 differ only in what a step back is.
        self.processes = [
            Process(schedule, T, rescale)
            for schedule in SCHEDULES
            for T, rescale in ((1000, True), *((T, False) for T in self.steps if T != 1000))
            if schedules.possible(schedule, T)
        ]
        self.tried = list(self.processes)
        self.heads = list(heads_to_try(config))
        chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
        pixels, labels_there = dataset.take(chosen)
        self.x_start = torch.from_numpy(images.to_float(pixels))
        self.mean, self.variance = float(self.x_start.mean()), float(self.x_start.var())
        rng = torch.Generator().manual_seed(0)
        self.noise = [torch.randn(self.x_start.shape, generator=rng) for _ in LEVELS]
        self.condition: dict[str, Tensor] = {}
        if model.class_cond:
            known = labels or range(model.num_classes)
            own = labels_there if config.data.data_dir else None
            y = [known[k % len(known)] for k in range(count)] if own is None else own.tolist()
            self.condition["y"] = torch.tensor(y).clamp(max=model.num_classes - 1)
        if model.small_size:
            self.condition["low_res"] = F.interpolate(self.x_start, (model.small_size, model.small_size), mode="area")
        self._errors: dict[tuple[Process, Heads], dict[str, np.ndarray]] = {}

    def try_all(self) -> None:
        """Also tries T that give the network the same timesteps, and differ only in a step back."""
        more = [Process(s, T, True) for s in SCHEDULES for T in self.steps if T != 1000 and schedules.possible(s, T)]
        self.tried = [*self.processes, *more]

    def errors(self, process: Process, heads: Heads, count: int) -> dict[str, np.ndarray]:
        """With `count` images, for each of PREDICTIONS the logarithm of the error [levels, N]: over the filter's, but
        for x_prev.

        "left" is the share of its input that the network's output leaves.
        """
        known = self._errors.setdefault((process, heads), {})
        done, whole = known["left"].shape[1] if known else 0, min(count, len(self.x_start))
        if done < whole:
            more = self._measure(process, heads, slice(done, whole))
            known |= {name: np.concatenate([known[name], e], axis=1) if known else e for name, e in more.items()}
        return {name: e[:, :whole] for name, e in known.items()}

    def _measure(self, process: Process, heads: Heads, images: slice) -> dict[str, np.ndarray]:
        network = build(codec.replace(self.config, heads._asdict()).model)
        network.load_state_dict(self.tensors)
        backend.resolve_backend("auto", "fp32", torch.device("cpu")).prepared(network.eval())
        full = schedules.named(process.noise_schedule, process.diffusion_steps)
        scale = codec.replace(self.config, {"rescale_timesteps": process.rescale_timesteps}).diffusion
        times = [int(np.abs(full.alphas_cumprod - level).argmin()) for level in LEVELS]
        x_start = self.x_start[images].repeat(len(LEVELS), 1, 1, 1)
        t = torch.tensor(times).repeat_interleave(len(x_start) // len(LEVELS))
        noise = torch.cat([noise[images] for noise in self.noise])
        x_t = q_sample(full, x_start, t, noise)
        outputs = [
            network(
                x_t[rows],
                denoiser.network_time(scale, full.T, t[rows]),
                **{k: v[images].repeat(len(LEVELS), *[1] * (v.ndim - 1))[rows] for k, v in self.condition.items()},
            )
            for rows in torch.arange(len(t)).split(self.rows)
        ]
        output = torch.cat(outputs)[:, : x_t.shape[1]]
        signal = at(full.alphas_cumprod**0.5, t, x_t)
        gain = signal * self.variance / (signal**2 * self.variance + 1 - signal**2)
        linear = _mse(self.mean + gain * (x_t - signal * self.mean), x_start)
        found = {
            "eps": (_mse(x_start_from_eps(full, x_t, t, output), x_start) / linear).log(),
            "x_start": (_mse(output, x_start) / linear).log(),
            "x_prev": _mse(output, q_posterior_mean(full, x_start, x_t, t)).log(),
            "left": _mse(output, x_t) / _mse(x_t, torch.zeros(())),
        }
        return {name: values.reshape(len(LEVELS), -1).numpy() for name, values in found.items()}


def _mse(a: Tensor, b: Tensor) -> Tensor:
    """[N]: the mean squared difference of each image."""
    return (a - b).double().square().flatten(1).mean(dim=1)


def heads_to_try(config: Config) -> Iterator[Heads]:
    """Yields the distinct splits of attention into heads for this network, that of `config` first."""
    model = config.model
    own = Heads(*(getattr(model, name) for name in ATTENTION))
    usual = [Heads(n, -1, False) for n in HEADS]
    seen = set()
    by_width = [Heads(model.num_heads, n, False) for n in HEAD_CHANNELS]
    for heads, other in itertools.product((own, *usual, *by_width), (False, True)):
        candidate = heads._replace(use_new_attention_order=heads.use_new_attention_order != other)
        changed = codec.replace(config, candidate._asdict())
        if list(validation.network_problems(changed)):
            continue
        layers = architecture.plan(changed.model).layers
        counts = tuple(layer.heads for layer in layers if isinstance(layer, architecture.Attention))
        key = counts, candidate.use_new_attention_order and max(counts) > 1
        if key not in seen:
            seen.add(key)
            yield candidate
