"""Training objectives: L_simple, L_vlb, L_hybrid (Nichol & Dhariwal 2021)."""

from typing import NamedTuple

from ddpm.config.training import Config

PREDICTED = {"eps": "noise", "x_start": "clean image", "v": "v", "x_prev": "previous image x_{t-1}"}


class Objective(NamedTuple):
    """A training objective: its name in the papers, and a description."""

    name: str
    description: str


def training_objective(config: Config) -> Objective:
    """The training objective that follows from the settings."""
    model, diffusion = config.model, config.diffusion
    predicted = PREDICTED[diffusion.prediction]
    if diffusion.use_kl:
        variance = "mean and variance" if model.learn_sigma else "mean"
        return Objective(
            "L_vlb",
            f"The variational bound on the log-likelihood trains the {variance}, through the predicted {predicted}.",
        )
    error = f"squared error of the predicted {predicted}"
    if not model.learn_sigma:
        return Objective("L_simple", f"The {error}.")
    if diffusion.rescale_learned_sigmas:
        return Objective("L_hybrid", f"The {error}, plus a thousandth of the variational bound for the variance.")
    return Objective("L_simple + L_vlb", f"The {error}, plus the mean term of the variational bound for the variance.")
