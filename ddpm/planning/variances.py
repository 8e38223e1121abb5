"""Which variance a step has, by name, and the file of the one that is estimated.  No torch."""

from pathlib import Path
from typing import Any, NamedTuple

from ddpm.config.model import DiffusionConfig
from ddpm.config.tasks import FromCheckpoint, SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import timesteps
from ddpm.solvers import SOLVERS
from ddpm.storage import files

FORMAT = 1  # of the file


def trained(config: DiffusionConfig, learn_sigma: bool) -> str:
    """The row of diffusion.VARIANCES that a model of these settings was made for."""
    if learn_sigma:
        return "learned_range"
    return "fixed_small" if config.sigma_small else "fixed_large"


def chosen(config: Config, wanted: FromCheckpoint) -> str:
    """fixed_small, fixed_large, learned_range or analytic: what the settings name, or as trained.

    Raises UserError where they contradict each other, the model, or the sampler.
    """
    sigma_small = wanted.sigma_small if isinstance(wanted, SampleConfig) else None
    named = {None: "auto", True: "fixed_small", False: "fixed_large"}[sigma_small]
    if wanted.variance == "auto":
        return (
            trained(config.diffusion, config.model.learn_sigma)
            if named == "auto" or config.model.learn_sigma
            else named
        )
    if named not in ("auto", wanted.variance):
        raise UserError(
            f"variance is {wanted.variance} and sigma_small is {sigma_small}, which contradict each other: leave one of"
            " them out.",
            code="conflicting-settings",
        )
    if config.model.learn_sigma:
        raise UserError(
            f"variance {wanted.variance} was asked of a model that has learnt its own: leave it at auto.",
            code="not-applicable",
        )
    if isinstance(wanted, SampleConfig) and "variance" not in SOLVERS[name := timesteps.solver(wanted)].takes:
        other = "" if wanted.use_ddim or wanted.task == "invert" else ", or use ddpm as sampler"
        raise UserError(
            f"variance {wanted.variance} is for ancestral sampling, and the sampler is {SOLVERS[name].label}: leave it"
            f" at auto{other}.",
            code="not-applicable",
        )
    return wanted.variance


class Errors(NamedTuple):
    """How far off a network's predictions are: what the analytic variance is made of."""

    mse: list[float]  # [T] mean squared error of the predicted eps, t = 0 first
    about: dict[str, Any]  # data, pictures, seed


def path_of(weights: Path) -> Path:
    """The file beside a file of weights that holds its errors."""
    return weights.with_name(f"analytic_{weights.stem}.json")


def read(weights: Path, sha256: str, T: int) -> Errors | None:
    """What was estimated for weights of this checksum over T timesteps; None where nothing was, or for others."""
    try:
        content = files.read_json(path_of(weights))
    except UserError:  # a damaged one is estimated again
        return None
    if not isinstance(content, dict) or (content.get("format"), content.get("sha256")) != (FORMAT, sha256):
        return None
    mse = content.get("mse")
    if not isinstance(mse, list) or len(mse) != T or not all(isinstance(value, float | int) for value in mse):
        return None
    return Errors(mse, content.get("about", {}))


def write(weights: Path, sha256: str, errors: Errors) -> None:
    """Put them beside the weights.  Raises files.DiskFull and OSError."""
    files.write_json(path_of(weights), {"format": FORMAT, "sha256": sha256, **errors._asdict()})
