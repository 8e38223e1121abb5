"""The file with the estimated errors of a checkpoint's predictions, which the analytic variance needs.  No torch."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.config.model import DiffusionConfig
from ddpm.errors import UserError
from ddpm.runs.manifests import errors_path as path_for
from ddpm.storage import files
from ddpm.storage.untrusted import Folder

__all__ = ["PredictionErrors", "path_for", "read", "write"]

FORMAT = 1  # of the file
PROCESS = ("diffusion_steps", "noise_schedule", "zero_terminal_snr", "prediction", "rescale_timesteps")
MOST = 2**22  # bytes of it


class PredictionErrors(NamedTuple):
    """Errors of a network's predictions, from which the analytic variance is computed."""

    mse: list[float]  # [T] mean squared error of the predicted eps, t = 0 first
    about: dict[str, Any]  # data, number of images (key pictures), seed, process: what they were estimated on


def process_of(diffusion: DiffusionConfig) -> dict[str, Any]:
    """What of a process the errors depend on, besides the weights."""
    return {name: getattr(diffusion, name) for name in PROCESS}


def read(weights: Path, sha256: str, diffusion: DiffusionConfig) -> PredictionErrors | None:
    """Reads the errors estimated for weights with this checksum and this process.

    Returns None where there are none, or where they belong to other weights, or to another process.
    """
    try:
        folder = Folder(Path(os.path.realpath(weights.parent)))
        content = files.json_in(folder, path_for(weights).name, MOST)
    except UserError:  # a damaged one is estimated again
        return None
    if not isinstance(content, dict) or (content.get("format"), content.get("sha256")) != (FORMAT, sha256):
        return None
    mse = content.get("mse")
    if (
        not isinstance(mse, list)
        or len(mse) != diffusion.diffusion_steps
        or not all(isinstance(value, float | int) for value in mse)
    ):
        return None
    about = content["about"] if isinstance(content.get("about"), dict) else {}
    now = process_of(diffusion)
    return PredictionErrors(mse, about) if about.get("process", now) == now else None


def write(weights: Path, sha256: str, errors: PredictionErrors) -> None:
    """Writes the errors to the folder of the weights.  Raises files.DiskFull and OSError."""
    files.write_json(path_for(weights), {"format": FORMAT, "sha256": sha256, **errors._asdict()})
