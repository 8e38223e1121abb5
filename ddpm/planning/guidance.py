"""How far, and at which timesteps, a picture is drawn towards its class: classifier-free guidance.  No torch.

Ho & Salimans 2022; the interval is Kynkäänniemi et al. 2024.
"""

import re
from typing import NamedTuple

from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError


class Guidance(NamedTuple):
    """What a guided denoiser needs to know."""

    scale: float  # 0 ignores the class, 1 is the model as it is, more goes beyond it
    low: int  # first and last timestep of the full process that are guided
    high: int
    null: int  # the label that stands for no class

    def at(self, t: float) -> bool:
        """Whether timestep t, or a place between two, is guided."""
        return self.scale != 1 and self.low <= round(t, 6) <= self.high  # a place that was computed is a hair off


def resolve_guidance(config: Config, sample: SampleConfig) -> Guidance | None:
    """The guidance that the settings ask for; None where the model is asked as it is.

    Raises UserError for a model that cannot be guided, and for an interval outside its timesteps.
    """
    scale, model = sample.guidance_scale, config.model
    low, high = interval(sample.guidance_interval, config.diffusion.diffusion_steps)
    if scale == 1:
        return None
    if not model.class_cond:
        raise UserError(
            f"guidance_scale is {scale:g}, and this model has no classes to go towards: leave it at 1, or train one"
            " with --class_cond True --cond_drop_prob 0.1.",
            code="not-applicable",
        )
    if not model.cond_drop_prob:
        raise UserError(
            f"guidance_scale is {scale:g}, and this model has never drawn without a class, from which guidance leads"
            " away: leave it at 1, or train one with --cond_drop_prob 0.1 (a file without settings that was: give that"
            " flag).",
            code="not-applicable",
        )
    return Guidance(scale, low, high, model.num_classes)


def interval(text: str, T: int) -> tuple[int, int]:
    """The first and the last timestep of an interval such as 100-800; of an empty one, of all T."""
    if not text.strip():
        return 0, T - 1
    match = re.fullmatch(r"\s*([0-9]+)\s*-\s*([0-9]+)\s*", text)
    if not match:
        raise UserError(
            f"guidance_interval {text!r} is not two timesteps with a dash between: write one such as 0-{T - 1}.",
            code="bad-value",
        )
    low, high = int(match[1]), int(match[2])
    if max(low, high) >= T:
        raise UserError(
            f"guidance_interval {low}-{high} goes beyond the model's timesteps: stay between 0 and {T - 1}.",
            code="out-of-range",
        )
    if high < low:
        raise UserError(f"guidance_interval {low}-{high} runs backwards: write {high}-{low}.", code="bad-range")
    return low, high
