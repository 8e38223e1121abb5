"""Infers the diffusion process of a network by letting it denoise a few images.

Weights do not determine the schedule, T, the scale of timesteps, what is predicted, or how attention is split into
heads.  A network that is evaluated with wrong settings denoises worse; but one that has learnt little denoises badly
with any, and then small differences mean nothing.  So a setting counts as found only where the network clearly beats a
filter that knows
nothing but the variance of pixels, and every other value of that setting is worse at all noise levels at which it does,
by more than chance and by enough to matter.  Of everything else the probe says that it cannot tell.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm import formatting, schedules
from ddpm.config import codec, validation
from ddpm.config.training import Config, DataConfig
from ddpm.data.datasets import Dataset, open_dataset
from ddpm.diffusion import denoiser
from ddpm.diffusion.process import at, q_posterior_mean, q_sample, x_start_from_eps
from ddpm.models import backend
from ddpm.models.unet import build
from ddpm.planning import architecture, memory
from ddpm.storage import images

LEVELS = (0.98, 0.9, 0.75, 0.5, 0.25, 0.12, 0.05, 0.0001)  # alphas_cumprod at which images are denoised
WORK = 500e6  # bytes of activations that the images may make together: large networks are shown fewer
LEAST, MOST = 3, 32  # images
FIRST = 8  # images that all candidates are evaluated with; clearly worse ones are then dropped
FEW = 8  # a network for which memory allows no more images is large: only the usual settings are tried
ENOUGH = 16  # images, without which T of networks that predict x_prev, where it matters least, is not inferred
USUAL_STEPS, OTHER_STEPS = (1000, 4000), (250, 100, 50)  # T that are tried
HEADS, HEAD_CHANNELS = (1, 2, 4, 8, 16, 32, 64), (16, 32, 64, 128)  # num_heads and num_head_channels that are tried

CERTAIN = 3.0  # a difference of means counts from so many standard errors on
CLEAR = 0.22  # ... and the network beats the filter where the logarithm of its error is less by so much
SEEN = 3  # noise levels at which it has to, before a schedule is inferred
MARGIN, HEADS_MARGIN = 0.05, 0.005  # by which other values of a setting have to be worse, in the logarithm of the error
CONTRARY = 0.5, 0.02  # a single level may say the opposite by this share of the whole margin, or by so little
FLAT = 1e-3  # images whose pixels vary less than this tell nothing: the filter knows them by their mean
LIKE, UNLIKE = 0.1, 0.7  # of a network's input, the share that its output leaves: it repeats it, or has little of it

PREDICTIONS = {
    "eps": (False, False),
    "x_start": (True, False),
    "x_prev": (False, True),
}  # predict_xstart, predict_xprev
PROCESS = ("noise_schedule", "diffusion_steps", "rescale_timesteps", "predict_xstart", "predict_xprev")
ATTENTION = ("num_heads", "num_head_channels", "use_new_attention_order")
NAMES = (*PROCESS, *ATTENTION)


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


class Verdict(NamedTuple):
    """Result of a probe.  Settings that are not in `found` could not be inferred."""

    found: dict[str, Any]  # NAMES -> value
    score: float  # the error as a multiple of the filter's, at the noise levels that tell something; nan where none do
    worse: dict[
        tuple[str, Any], float
    ]  # (name, value) -> how many times the least error it has, where that can be computed
    images: int
    tried: dict[str, list[Any]]  # name -> values

    def against(self, chosen: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Of what is given, that which the probe found to be otherwise:
        with T = 1000, both scales are that of 0 to 1000.
        """
        same = chosen["diffusion_steps"] == 1000 and self.found.get("rescale_timesteps")
        compared = self.found.keys() - ({"rescale_timesteps"} if same else set())
        return {name: value for name, value in given.items() if name in compared and value != self.found[name]}


def images_for(config: Config) -> Dataset:
    """Opens the images to denoise: the run's own data, or the photographs that come with the program."""
    own = bool(config.data.data_dir)
    data = config.data if own else DataConfig(data_dir="cifar10-mini", enlarge=True)
    return open_dataset(data, config.model)


def described(settings: Mapping[str, Any]) -> str:
    """Settings as they are written as flags, without dashes; what is not used, or False, only where it stands alone."""
    hidden = {
        "predict_xstart": False,
        "predict_xprev": False,
        "num_head_channels": -1,
        "use_new_attention_order": False,
    }
    shown = {k: v for k, v in settings.items() if k not in hidden or v != hidden[k]}
    eps = "predict_xstart" in settings and not any(k.startswith("predict") for k in shown)
    parts = [*(f"{k} {v}" for k, v in shown.items()), *(["the noise predicted"] if eps else [])]
    return ", ".join(parts or (f"{k} {v}" for k, v in settings.items()))


def sentences(verdict: Verdict, chosen: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Describes the result in sentences.  chosen: the settings that are used, by NAMES; given: by flags."""
    on = f"The probe on {formatting.plural(verdict.images, 'image')}"
    agreed = {name: value for name, value in verdict.found.items() if chosen[name] == value}
    if agreed:
        better = (
            f"denoises with {verdict.score:.2f} of a linear filter's error"
            if math.isfinite(verdict.score)
            else "repeats what it sees but for a step's noise"
        )
        yield f"{on} finds {described(agreed)}: at its best, the network {better}."
    for name, value in verdict.against(chosen, given).items():
        times = verdict.worse.get((name, value), math.nan)
        how = f", with {times:.2f} times the error" if math.isfinite(times) else ""
        yield (
            f"{on} finds {name} {verdict.found[name]}, and {name} {value} is used, as it was given{how}: if only noise"
            f" comes out, give --{name} {verdict.found[name]}."
        )
    untold = {name: value for name, value in chosen.items() if name not in verdict.found}
    assumed = {name: value for name, value in untold.items() if name not in given}
    unchecked = {name: value for name, value in untold.items() if name in given}
    taken = ", and ".join(
        [
            *([f"assumed is {described(assumed)}, unless flags say otherwise"] if assumed else []),
            *([f"used is {described(unchecked)}, as set"] if unchecked else []),
        ]
    )
    if not verdict.found:
        yield f"{on} cannot tell what the network was trained on, which knows too little of them: {taken}."
    elif untold:
        yield f"It cannot tell {', '.join(untold)}: {taken}."
    if tried := [f"{n} {', '.join(map(str, verdict.tried[n]))}" for n in untold if len(verdict.tried.get(n, ())) > 1]:
        yield f"Tried were {'; '.join(tried)}, and nothing else."


@torch.no_grad()
def verdict(tensors: Mapping[str, Tensor], config: Config, dataset: Dataset, labels: Sequence[int] = ()) -> Verdict:
    """Probes weights that fit `config.model`, up to its heads, with the usual settings and those of `config`.

    tensors: name -> [...].  labels: those that a class-conditional network knows; all of them if empty.
    """
    bench = _Bench(tensors, config, dataset, labels)
    own = Heads(*(getattr(config.model, name) for name in ATTENTION))
    found: dict[str, Any] = {}
    worse: dict[tuple[str, Any], float] = {}
    score = math.nan
    prediction, levels, clear = _prediction(bench, own)
    if prediction:
        found |= dict(zip(("predict_xstart", "predict_xprev"), PREDICTIONS[prediction], strict=True))
        counts = (FIRST, MOST) if clear else (FIRST,)  # where too little is clear, more images are of no use
        asked = _compared(bench, [(process, own) for process in bench.tried], prediction, levels, MARGIN, counts)
        process, errors_of = asked.best[0], {candidate[0]: errors for candidate, errors in asked.errors.items()}
        if clear:
            found |= _agreed_settings(errors_of, process, {candidate[0] for candidate in asked.alike})
            if prediction == "x_prev" and len(bench.x_start) < ENOUGH:
                found = {k: v for k, v in found.items() if k not in ("diffusion_steps", "rescale_timesteps")}
        for name in PROCESS[:3]:
            for value in {getattr(p, name) for p in errors_of}:
                least = min(
                    _more(e, errors_of[process], levels) for p, e in errors_of.items() if getattr(p, name) == value
                )
                worse[name, value] = math.exp(least)
        if prediction != "x_prev":
            score = math.exp(float(errors_of[process][levels].mean()))
        candidates = [(process, heads) for heads in (bench.heads if clear else [own])]
        split = _compared(bench, candidates, prediction, levels, HEADS_MARGIN, counts, single=True)
        if clear and len(split.alike) == 1:
            found |= split.best[1]._asdict()
        for (_, heads), errors in split.errors.items():
            key = "num_heads", heads.num_heads
            worse[key] = min(worse.get(key, math.inf), math.exp(_more(errors, split.errors[split.best], levels)))
    tried: dict[str, list[Any]] = {name: sorted({getattr(p, name) for p in bench.tried}) for name in PROCESS[:3]}
    tried |= {name: sorted({getattr(h, name) for h in bench.heads}) for name in ATTENTION}
    return Verdict(found, score, worse, len(bench.x_start), tried)


def _prediction(bench: "_Bench", heads: Heads) -> tuple[str, np.ndarray, bool]:
    """Infers what is predicted ("" where unclear), the informative noise levels, and whether they allow more."""
    nothing = "", np.zeros(len(LEVELS), bool), False
    if len(bench.x_start.unique(dim=0)) < LEAST or bench.variance < FLAT:
        return nothing
    errors_of = {process: bench.errors(process, heads, FIRST) for process in bench.processes}

    def surely(name: str) -> np.ndarray:
        """[levels]: the logarithm of the least error, and a margin for chance."""
        return np.min([e[name].mean(axis=1) + CERTAIN * _error(e[name]) for e in errors_of.values()], axis=0)

    for prediction, other in (("eps", "x_start"), ("x_start", "eps")):
        if not (surely(prediction).min() <= -CLEAR and surely(other).min() >= -CLEAR / 2):  # so that NaN is no yes
            continue
        least = np.min([e[prediction].mean(axis=1) for e in errors_of.values()], axis=0)
        left = min(errors_of.values(), key=lambda e: float(e[prediction][least < -CLEAR / 4].mean()))["left"].mean(
            axis=1
        )
        # Noise has nothing of a clean image, and a clean image nothing of noise: what the network repeats gives it
        # away.
        if (left[0] > UNLIKE > left[-1]) if prediction == "eps" else (left[-1] > UNLIKE > left[0]):
            return prediction, least < -CLEAR / 4, bool((surely(prediction) < -CLEAR).sum() >= SEEN)
    if min(float(e["left"].mean(axis=1).max()) for e in errors_of.values()) < LIKE:
        bench.try_all()
        return "x_prev", np.ones(len(LEVELS), bool), True
    return nothing


Candidate = tuple[Process, Heads]


class _Compared(NamedTuple):
    """Candidate settings with their errors."""

    best: Candidate
    errors: dict[Candidate, np.ndarray]  # [levels, N]
    alike: list[Candidate]  # the best, and all that are not clearly worse


def _compared(
    bench: "_Bench",
    candidates: list[Candidate],
    prediction: str,
    levels: np.ndarray,
    margin: float,
    counts: Sequence[int],
    single: bool = False,
) -> _Compared:
    """Evaluates all candidates with the first of `counts` images, and those not clearly worse then with more.

    single: only one that stands out from all others is of use.
    """
    errors: dict[Candidate, np.ndarray] = {}
    alike = candidates
    for count in counts:
        errors |= {candidate: bench.errors(*candidate, count)[prediction] for candidate in alike}
        best = min(alike, key=lambda candidate: float(errors[candidate][levels].mean()))
        alike = [
            candidate
            for candidate in alike
            if candidate == best or not _beats(errors[best], errors[candidate], levels, margin)
        ]
        close = [candidate for candidate in alike if _more(errors[candidate], errors[best], levels) < margin / 2]
        if single and len(close) > 1:
            break
    return _Compared(best, errors, alike)


def _agreed_settings(errors_of: Mapping[Process, np.ndarray], best: Process, rest: set[Process]) -> dict[str, Any]:
    """The settings of a process in which `rest`, the best and those that may be as good, agree."""
    found: dict[str, Any] = {}
    if len({p.noise_schedule for p in rest}) == 1:
        found["noise_schedule"] = best.noise_schedule
    if len({p.scale for p in rest}) == 1:
        found["rescale_timesteps"] = best.scale == 1000
        if best.scale != 1000:
            found["diffusion_steps"] = best.scale
    if (
        len({p.diffusion_steps for p in rest}) == 1
        and len({p.diffusion_steps for p in errors_of if p.scale == 1000}) > 1
    ):
        found["diffusion_steps"] = best.diffusion_steps
    return found


def _beats(errors: np.ndarray, other: np.ndarray, levels: np.ndarray, margin: float) -> bool:
    """Whether the errors [levels, N] are clearly less than the other's, and nowhere more."""
    count = min(errors.shape[1], other.shape[1])
    difference = (other[:, :count] - errors[:, :count])[levels]
    each, whole = difference.mean(axis=1), float(difference.mean())
    share, little = CONTRARY
    certain = whole > CERTAIN * float(_error(difference.mean(axis=0)))
    return whole > margin and certain and bool(each.min() > -max(share * whole, min(little, margin)))


def _more(errors: np.ndarray, best: np.ndarray, levels: np.ndarray) -> float:
    """The mean of what the logarithm of the errors is above the best's."""
    count = min(errors.shape[1], best.shape[1])
    return float((errors[:, :count] - best[:, :count])[levels].mean())


def _error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over images, the last axis."""
    return np.asarray(values.std(axis=-1, ddof=1) / values.shape[-1] ** 0.5)


class _Bench:
    """Images and noise, the same for everyone, and the errors measured so far."""

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
            for schedule in schedules.BETAS
            for T, rescale in ((1000, True), *((T, False) for T in self.steps if T != 1000))
            if schedules.possible(schedule, T)
        ]
        self.tried = list(self.processes)
        self.heads = list(_heads(config))
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
        """From now on, T count that make no other scale."""
        more = [
            Process(s, T, True) for s in schedules.BETAS for T in self.steps if T != 1000 and schedules.possible(s, T)
        ]
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


def _heads(config: Config) -> Iterator[Heads]:
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
        layers = architecture.plan(changed.model, changed.model.in_channels).layers
        counts = tuple(layer.heads for layer in layers if isinstance(layer, architecture.Attention))
        key = counts, candidate.use_new_attention_order and max(counts) > 1
        if key not in seen:
            seen.add(key)
            yield candidate
