"""Averages of the weights of any width, made after the training from the power averages in its checkpoints.

See `ddpm.checkpoints.power_profiles`.  What is made becomes a part of the checkpoint, beside the averages that were
tracked: it is chosen, sampled from, evaluated, copied and removed as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.checkpoints import checkpoint_files
from ddpm.checkpoints.power_profiles import Combination, Profile, combine, gamma_of
from ddpm.config import ema_rates
from ddpm.errors import UserError
from ddpm.runs import manifests
from ddpm.runs.exclusive import guard
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.storage import files

MOST_ERROR = 0.1  # of a profile, above which an average is not the one that was asked for
WIDTHS = np.arange(0.01, ema_rates.WIDEST, 0.005)  # that a sentence on possible widths tries

Progress = Callable[[int, int], None]  # (averages read, averages in all)


class Made(NamedTuple):
    """An average that is there now."""

    checkpoint: Checkpoint
    weights: str  # its name: "ema_power0.07"
    error: float | None  # distance of its profile from that of the width, as a share of its size; None: it was there
    read: int  # averages that it was made of


def make(run: Run, width: float, step: int = 0, progress: Progress | None = None) -> Made:
    """Makes the average of a width for the checkpoint of `step`, 0: the newest, and saves it as a part of that.

    Raises UserError for a width that no average has, for a run without power averages, where those in its checkpoints
    do not tell that width, and for damaged files; files.DiskFull.
    """
    rate = f"{ema_rates.POWER}{float(width)}"
    if not ema_rates.is_valid(rate):
        raise UserError(
            f"--width is {width:g}, and an average's is from {ema_rates.NARROWEST} to {ema_rates.WIDEST}: 0.05 to 0.15"
            " are usual.",
            code="out-of-range",
        )
    target, kind = run.checkpoint(step), f"{ema_rates.PREFIX}{rate}"
    if kind in target.weights:
        return Made(target, kind, None, 0)
    sources = _sources(run, target)
    combination = _combination(run, sources, Profile(gamma_of(width), target.step), width)
    tensors, data = _add_up(sources, combination.factors, progress)
    content = checkpoint_files.described(tensors, run.config, target.step, kind, data)
    return Made(_save(run, target, kind, content), kind, combination.error, len(sources))


class _Source(NamedTuple):
    """An average in a checkpoint."""

    checkpoint: Checkpoint
    weights: str
    profile: Profile


def _sources(run: Run, target: Checkpoint) -> list[_Source]:
    """The power averages that the run tracked, in its checkpoints up to `target`."""
    tracked = {f"{ema_rates.PREFIX}{rate}": ema_rates.width_of(rate) for rate in run.config.train.ema_rates}
    found = [
        _Source(checkpoint, kind, Profile(gamma_of(width), checkpoint.step))
        for checkpoint in run.checkpoints()
        if checkpoint.step <= target.step
        for kind, width in tracked.items()
        if width is not None and kind in checkpoint.weights
    ]
    if not found:
        raise UserError(
            f"{run.name} has no power averages, of which others can be made: train with --ema_rate power0.05,power0.1.",
            code="missing-weights",
        )
    return found


def _combination(run: Run, sources: list[_Source], wanted: Profile, width: float) -> Combination:
    """Factors of the averages.  Raises UserError where their sum is not close to the profile that is wanted."""
    known = [source.profile for source in sources]
    found = combine(known, wanted)
    if found.error > MOST_ERROR:
        possible = [w for w in WIDTHS if combine(known, Profile(gamma_of(w), wanted.updates)).error <= MOST_ERROR]
        raise UserError(
            f"The averages in the checkpoints of {run.name} do not tell one of width {width:g}: choose from"
            f" {min(possible):.3g} to {max(possible):.3g}, or save checkpoints more often."
            if possible
            else f"The averages in the checkpoints of {run.name} do not tell others: save checkpoints more often.",
            code="out-of-range",
        )
    return found


def _add_up(
    sources: list[_Source], factors: np.ndarray, progress: Progress | None
) -> tuple[dict[str, Tensor], dict | None]:
    """The sum of factor times average, name -> float32 [...], and the digest of the data of the newest."""
    total: dict[str, Tensor] = {}
    for number, ((checkpoint, kind, _), factor) in enumerate(zip(sources, factors.tolist(), strict=True)):
        path = checkpoint.path(kind)

        def check(sha256: str, size: int, checkpoint: Checkpoint = checkpoint, name: str = path.name) -> None:
            if wrong := checkpoint_files.mismatch(checkpoint, name, size, sha256):
                raise UserError(
                    f"{wrong} Remove the checkpoint of step {checkpoint.step} to do without.", code="damaged-checkpoint"
                )

        weights = checkpoint_files.load_checkpoint(path, check).weights
        for name, tensor in weights.tensors.items():  # in float64, as factors of both signs cancel digits
            part = tensor.double() * factor
            total[name] = total[name].add_(part) if name in total else part
        if progress:
            progress(number + 1, len(sources))
    return {name: tensor.float() for name, tensor in total.items()}, weights.data


def _save(run: Run, target: Checkpoint, kind: str, content: dict[str, Tensor]) -> Checkpoint:
    """Writes the file, and then the manifest in which it is one of the checkpoint's."""
    path = target.path(kind)
    with guard(run.folder.parent):
        removed = UserError(
            f"The checkpoint of step {target.step} of {run.name} was removed meanwhile: choose another, with --step.",
            code="changed-file",
        )
        now = next((c for c in run.checkpoints() if c.step == target.step), None)
        if now is None:
            raise removed
        written = files.write(path, lambda file: torch.save(content, file))
        if not now.manifest_path.exists():  # by a training, which keeps the newest checkpoints
            files.remove(path)
            raise removed
        found = now._replace(files={**now.files, path.name: written._asdict()})
        manifests.commit(found)
    return found
