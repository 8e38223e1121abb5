"""Which diffusion process a network was trained on, found out by letting it denoise a few pictures.

Weights do not tell the schedule, T, the scale of timesteps, what is predicted, or the number of heads.  A network
that is asked the wrong way denoises worse.  All ways get the same pictures with the same noise, at the same
noise levels, so that small differences count: what is compared is the logarithm of the error, picture by picture.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm import config as configs
from ddpm import diffusion, images, memory, schedules, validation
from ddpm.config import Config
from ddpm.data import Dataset, open_dataset
from ddpm.losses import mean_flat
from ddpm.unet import build

LEVELS = (0.98, 0.8, 0.5, 0.2, 0.05, 0.01)  # alphas_cumprod at which pictures are denoised
WORK = 250e6  # bytes of activations that the pictures may make together: large networks are shown fewer
LEAST, MOST = 2, 12  # pictures
CERTAIN = 3.0  # a difference of the mean counts from so many standard errors on
ALIKE = 1.005  # ... and where an error is more than so many times the other
FAR = 1.05  # from here on a way of asking is wrong, not only a little worse
BLIND = 0.9  # a network that explains less than the rest of what it is to predict cannot be told anything about
UNEXPLAINED = 0.1  # a network that predicts the previous x leaves no more of its variance, at any level

PROCESS = ("noise_schedule", "diffusion_steps", "rescale_timesteps", "predict_xstart", "predict_xprev")
NAMES = (*PROCESS, "num_heads")
PREDICTIONS = ((False, False), (True, False), (False, True))  # eps, x_start, previous x


class Fit(NamedTuple):
    """How well a network denoises when it is asked by these settings."""

    settings: dict[str, Any]  # NAMES -> value
    errors: np.ndarray  # [N] per picture, the mean over LEVELS of the logarithm of the error over a linear filter's

    @property
    def score(self) -> float:
        """The error as a multiple of that of a filter that knows nothing but the pictures' variance."""
        return math.exp(float(self.errors.mean()))

    def worse(self, other: "Fit") -> float:
        """How many times the error of `other` its own is; 1 where that is within the chance of these pictures."""
        difference = self.errors - other.errors
        spread = float(difference.std(ddof=1)) / len(difference) ** 0.5
        mean = float(difference.mean())
        return math.exp(mean) if abs(mean) > CERTAIN * spread else 1.0


class Verdict(NamedTuple):
    """Every way of asking, the best first."""

    fits: list[Fit]
    pictures: int
    blind: bool  # whether the network knows too little for anything to be told

    @property
    def best(self) -> Fit:
        return self.fits[0]

    def having(self, settings: Mapping[str, Any]) -> "Verdict":
        """Of those with these settings alone."""
        fits = [fit for fit in self.fits if all(fit.settings[name] == value for name, value in settings.items())]
        return Verdict(fits, self.pictures, self.blind)

    @property
    def alike(self) -> list[Fit]:
        """Those that cannot be told from the best."""
        return [fit for fit in self.fits if self.blind or fit.worse(self.best) <= ALIKE]

    def choice(self, preferred: Mapping[str, Any]) -> Fit:
        """Of those that cannot be told from the best, the one that has most of the preferred settings."""
        return max(self.alike, key=lambda fit: sum(fit.settings[name] == preferred[name] for name in NAMES))

    def sentences(self, chosen: Fit) -> Iterator[str]:
        """What came out, for people."""
        if self.blind:
            yield f"The network knows too little yet for a probe to tell what it was trained on: {described(chosen.settings)} is assumed."  # fmt: skip
            return
        yield f"The probe on {self.pictures} pictures: {described(chosen.settings)} fit best, with {chosen.score:.2f} of a linear filter's error."  # fmt: skip
        alike = {name: sorted({fit.settings[name] for fit in self.alike} - {chosen.settings[name]}) for name in NAMES}
        if others := [f"{name} {value}" for name, values in alike.items() for value in values]:
            yield f"It cannot tell them from {', '.join(others)}, which denoise as well."
        rest = next((fit for fit in self.fits if fit.worse(self.best) > ALIKE), None)
        if rest:
            changed = {name: value for name, value in rest.settings.items() if value != chosen.settings[name]}
            yield f"The next in line, {described(changed)}, has {rest.worse(chosen):.2f} times the error."


def described(settings: Mapping[str, Any]) -> str:
    """Settings as they are written as flags, without dashes; of the predictions only the one that is made."""
    shown = {k: v for k, v in settings.items() if v or not k.startswith("predict")}
    if not shown.keys() - {"num_heads"} or shown == settings:
        return ", ".join(f"{k} {v}" for k, v in (shown or settings).items())
    eps = not any(settings.get(name) for name in ("predict_xstart", "predict_xprev"))
    return ", ".join([*(f"{k} {v}" for k, v in shown.items()), *(["the noise predicted"] if eps else [])])


def pictures_for(config: Config) -> Dataset:
    """What is denoised: the run's own data, or the photographs that come with the program."""
    own = bool(config.data.data_dir)
    data = config.data if own else configs.DataConfig(data_dir="cifar10-mini", enlarge=True)
    return open_dataset(data, config.model)


@torch.no_grad()
def verdict(tensors: Mapping[str, Tensor], config: Config, dataset: Dataset, labels: Sequence[int] = ()) -> Verdict:
    """Try the usual ways of asking, and that of `config`, on weights that fit `config.model` up to its heads.

    `labels`: those that a class-conditional network knows, all of them if empty.  Heads and process are found in turn,
    each with the best of the other, until neither changes.
    """
    bench = _Bench(tensors, config, dataset, labels)
    heads, process = config.model.num_heads, bench.processes[0]
    while True:
        process = min(bench.processes, key=lambda p: bench.best(p, heads))
        found = min(bench.heads, key=lambda h: bench.best(process, h))
        if found == heads or bench.known(found):
            break
        heads = found
    return Verdict(sorted(bench.fits(), key=lambda fit: fit.score), len(bench.x_start), bench.unexplained > BLIND)


class _Process(NamedTuple):
    """How a network is asked: rescale_timesteps makes no difference at T = 1000."""

    schedule: str
    T: int
    rescale: bool


class _Bench:
    """Pictures and noise, the same for everyone, and the errors measured so far."""

    def __init__(self, tensors: Mapping[str, Tensor], config: Config, dataset: Dataset, labels: Sequence[int]):
        self.tensors, self.config = dict(tensors), config
        settings, model = config.diffusion, config.model
        steps = sorted({1000, 4000, settings.diffusion_steps}, key=lambda T: settings.diffusion_steps != T)
        self.processes = [
            _Process(schedule, T, rescale)
            for schedule, T, rescale in itertools.product(schedules.BETAS, steps, (True, False))
            if (T != 1000 or rescale) and schedules.possible(schedule, T)
        ]
        self.heads = [h for h in sorted({1, 2, 4, model.num_heads}) if not list(validation.network_problems(_with_heads(config, h)))]  # fmt: skip
        count = int(min(max(WORK / memory.activation_bytes(model, memory.TORCH), LEAST), MOST, len(dataset)))
        chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
        self.x_start = torch.from_numpy(images.to_float(dataset.images[chosen]))
        self.variance = float(self.x_start.var())
        rng = torch.Generator().manual_seed(0)
        self.noise = [torch.randn(self.x_start.shape, generator=rng) for _ in LEVELS]
        self.condition: dict[str, Tensor] = {}
        if model.class_cond:
            known = labels or range(model.num_classes)
            own = dataset.labels if config.data.data_dir else None
            y = [known[k % len(known)] for k in range(count)] if own is None else own[chosen].tolist()
            self.condition["y"] = torch.tensor(y).clamp(max=model.num_classes - 1)
        if model.small_size:
            self.condition["low_res"] = F.interpolate(self.x_start, (model.small_size, model.small_size), mode="area")
        self.unexplained = math.inf  # the least share of what is to be predicted that a network's output leaves
        self._errors: dict[tuple[_Process, int], list[np.ndarray]] = {}

    def best(self, process: _Process, heads: int) -> float:
        """The error with the prediction that fits best."""
        return min(float(errors.mean()) for errors in self.errors(process, heads))

    def known(self, heads: int) -> bool:
        """Whether all processes were tried with so many heads."""
        return all((process, heads) in self._errors for process in self.processes)

    def fits(self) -> Iterator[Fit]:
        """All that was tried."""
        for (process, heads), errors in self._errors.items():
            for (xstart, xprev), values in zip(PREDICTIONS, errors, strict=True):
                for rescale in (True, False) if process.T == 1000 else (process.rescale,):
                    settings = (process.schedule, process.T, rescale, xstart, xprev, heads)
                    yield Fit(dict(zip(NAMES, settings, strict=True)), values)

    def errors(self, process: _Process, heads: int) -> list[np.ndarray]:
        """For each of PREDICTIONS: [N] as in Fit."""
        if (process, heads) not in self._errors:
            self._errors[process, heads] = self._measure(process, heads)
        return self._errors[process, heads]

    def _measure(self, process: _Process, heads: int) -> list[np.ndarray]:
        network = build(_with_heads(self.config, heads).model)
        network.load_state_dict(self.tensors)
        network.eval()
        full = schedules.named(process.schedule, process.T)
        scale = configs.replace(self.config, {"rescale_timesteps": process.rescale}).diffusion
        relative: list[list[Tensor]] = [[] for _ in PREDICTIONS]
        missed: list[list[float]] = [[] for _ in PREDICTIONS]  # share of what is to be predicted
        for level, noise in zip(LEVELS, self.noise, strict=True):
            t = torch.full((len(noise),), int(np.abs(full.alphas_cumprod - level).argmin()))
            x_t = diffusion.q_sample(full, self.x_start, t, noise)
            output = network(x_t, diffusion.network_time(scale, full.T, t), **self.condition)
            abar = float(full.alphas_cumprod[t[0]])
            linear = abar * self.variance / (abar * self.variance + 1 - abar)  # a linear filter's error in the noise
            targets = (noise, self.x_start, diffusion.q_posterior_mean(full, self.x_start, x_t, t))
            for k, ((xstart, xprev), target) in enumerate(zip(PREDICTIONS, targets, strict=True)):
                settings = configs.replace(self.config, dict(predict_xstart=xstart, predict_xprev=xprev)).diffusion
                predicted = diffusion.interpret(output, x_t, t, full, settings, clip=False)
                eps = diffusion.eps_from_x_start(full, x_t, t, predicted.x_start)
                relative[k].append(mean_flat((eps - noise).square()) / linear)
                missed[k].append(float((output[:, : x_t.shape[1]] - target).square().mean() / target.square().mean()))
        self.unexplained = min(self.unexplained, *(math.exp(np.log(shares).mean()) for shares in missed))
        as_eps, as_start, previous = (torch.stack(found).double().log().mean(dim=0).numpy() for found in relative)
        # The clean picture is such a small part of the previous x that even a good prediction of it says little about
        # the former.  What gives such a network away is that it hardly changes what it sees, whatever the noise.
        if max(missed[2]) < UNEXPLAINED:
            previous = np.minimum(previous, np.minimum(as_eps, as_start) - 1)
        return [as_eps, as_start, previous]


def _with_heads(config: Config, heads: int) -> Config:
    return configs.replace(config, {"num_heads": heads})
