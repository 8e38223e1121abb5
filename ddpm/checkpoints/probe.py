"""Infers the diffusion process of a network by letting it denoise a few images.

Weights do not determine the schedule, T, the scale of timesteps, what is predicted, or how attention is split into
heads.  A network that is evaluated with wrong settings denoises worse; but one that has learnt little denoises badly
with any, and then small differences mean nothing.  So a setting counts as found only where the network clearly beats a
filter that
knows nothing but the variance of pixels, and every other value of that setting is worse at all noise levels at which it
does, by more than chance and by enough to matter.  Of everything else the probe says that it cannot tell.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm import formatting
from ddpm.checkpoints.denoising_bench import ATTENTION, LEAST, LEVELS, MOST, DenoisingBench, Heads, Process
from ddpm.config.training import Config, DataConfig
from ddpm.data.datasets import Dataset, open_dataset

FIRST = 8  # images that all candidates are evaluated with; clearly worse ones are then dropped
ENOUGH = 16  # images, without which T of networks that predict x_prev, where it matters least, is not inferred

CERTAIN = 3.0  # a difference of means counts from so many standard errors on
CLEAR = 0.22  # ... and the network beats the filter where the logarithm of its error is less by so much
SEEN = 3  # noise levels at which it has to, before a schedule is inferred
MARGIN, HEADS_MARGIN = 0.05, 0.005  # by which other values of a setting have to be worse, in the logarithm of the error
CONTRARY = 0.5, 0.02  # a single level may say the opposite by this share of the whole margin, or by so little
FLAT = 1e-3  # images whose pixels vary less than this tell nothing: the filter knows them by their mean
LIKE, UNLIKE = 0.1, 0.7  # of a network's input, the share that its output leaves: it repeats it, or has little of it

PROCESS = ("noise_schedule", "diffusion_steps", "rescale_timesteps", "prediction")
NAMES = (*PROCESS, *ATTENTION)


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
    hidden = {"num_head_channels": -1, "use_new_attention_order": False}
    shown = {k: v for k, v in settings.items() if k not in hidden or v != hidden[k]}
    return ", ".join(f"{k} {v}" for k, v in (shown or settings).items())


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
    bench = DenoisingBench(tensors, config, dataset, labels)
    own = Heads(*(getattr(config.model, name) for name in ATTENTION))
    found: dict[str, Any] = {}
    worse: dict[tuple[str, Any], float] = {}
    score = math.nan
    prediction, levels, clear = _prediction(bench, own)
    if prediction:
        found["prediction"] = prediction
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


def _prediction(bench: DenoisingBench, heads: Heads) -> tuple[str, np.ndarray, bool]:
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
    bench: DenoisingBench,
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
