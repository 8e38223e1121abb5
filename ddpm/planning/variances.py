"""Which variance an ancestral step has, by name.  No torch."""

from ddpm.config.model import DiffusionConfig
from ddpm.config.tasks import FromCheckpoint, SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import timesteps
from ddpm.solvers import SOLVERS


def trained_variance(config: DiffusionConfig, learn_sigma: bool) -> str:
    """Name of the variance (a row of process.VARIANCES) that a model with these settings was trained for."""
    if learn_sigma:
        return "learned_range"
    return "fixed_small" if config.sigma_small else "fixed_large"


def resolve_variance(config: Config, wanted: FromCheckpoint) -> str:
    """Resolves the settings to fixed_small, fixed_large, learned_range or analytic; auto is the variance of training.

    Raises UserError where the settings contradict each other, the model, or the sampler.
    """
    sigma_small = wanted.sigma_small if isinstance(wanted, SampleConfig) else None
    named = {None: "auto", True: "fixed_small", False: "fixed_large"}[sigma_small]
    if wanted.variance == "auto":
        return (
            trained_variance(config.diffusion, config.model.learn_sigma)
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
            f"variance {wanted.variance} was given to a model that has learnt its own: leave it at auto.",
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
