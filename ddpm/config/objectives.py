"""The training objective that the settings amount to, in words.  No torch."""

from typing import NamedTuple

from ddpm.config.training import Config


class Objective(NamedTuple):
    """What is minimised: its name in the papers, and in plain words."""

    name: str
    words: str


def of(config: Config) -> Objective:
    """The training objective of these settings."""
    model, diffusion = config.model, config.diffusion
    predicted = "clean picture" if diffusion.predict_xstart else "previous x" if diffusion.predict_xprev else "noise"
    if diffusion.use_kl:
        variance = "mean and variance" if model.learn_sigma else "mean"
        return Objective(
            "L_vlb", f"The variational bound on the likelihood trains {variance}, by way of the {predicted}."
        )
    error = f"squared error of the predicted {predicted}"
    if not model.learn_sigma:
        return Objective("L_simple", f"The {error}.")
    if diffusion.rescale_learned_sigmas:
        return Objective("L_hybrid", f"The {error}, and a small share of the variational bound for the variance.")
    return Objective("L_simple + L_vlb", f"The {error}, and the whole variational bound for the variance.")
