"""Classifier-free guidance: its scale, and the timesteps it applies to.  No torch.

Ho & Salimans 2022; the interval is Kynkäänniemi et al. 2024.
"""

import re
from typing import NamedTuple

from ddpm.config.model import ModelConfig
from ddpm.config.tasks import USUAL_GUIDANCE, SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError


class Guidance(NamedTuple):
    """Settings of a guided denoiser."""

    scale: float  # 0 ignores the class, 1 is the conditional model, more goes beyond it
    low: int  # first and last timestep of the full process that are guided
    high: int
    null: int  # label of no class

    def at(self, t: float) -> bool:
        """Returns whether timestep t, which may lie between two, is guided."""
        return self.scale != 1 and self.low <= round(t, 6) <= self.high  # computed timesteps have rounding errors


USUAL = USUAL_GUIDANCE


def is_supported(model: ModelConfig) -> bool:
    """Whether a network with these settings was trained with its classes and without them."""
    return model.class_cond and model.cond_drop_prob > 0


def usual_scale(model: ModelConfig) -> float:
    """Scale of previews, and of samples unless another is asked for; 1 where it is not supported."""
    return USUAL if is_supported(model) else 1.0


def scale_of(model: ModelConfig, sample: SampleConfig) -> float:
    """Scale of a request.  Only without guidance does an inversion go back the way it came."""
    if sample.guidance_scale is not None:
        return sample.guidance_scale
    return 1.0 if sample.task == "invert" else usual_scale(model)


def passes(model: ModelConfig, sample: SampleConfig) -> int:
    """How often the network runs in a model evaluation of a request: 2 with guidance, else 1."""
    return 1 if not model.class_cond or scale_of(model, sample) in (0, 1) else 2


def resolve_guidance(config: Config, sample: SampleConfig) -> Guidance | None:
    """Resolves the guidance of a request; None where the conditional model is used as it is.

    Raises UserError for a model that cannot be guided, and for an interval outside its timesteps.
    """
    scale, model = scale_of(config.model, sample), config.model
    low, high = interval(sample.guidance_interval, config.diffusion.diffusion_steps)
    if scale == 1:
        return None
    if is_supported(model):
        return Guidance(scale, low, high, model.num_classes)
    if not model.class_cond:
        raise UserError(
            f"guidance_scale is {scale:g}, and this model has no classes to go towards: leave it at 1, or train one"
            " with --class_cond True --cond_drop_prob 0.1.",
            code="not-applicable",
        )
    raise UserError(
        f"guidance_scale is {scale:g}, and this model was never trained without its classes, as guidance needs: leave"
        " it at 1, or train one with --cond_drop_prob 0.1 (a file without settings that was: give that flag).",
        code="not-applicable",
    )


def interval(text: str, T: int) -> tuple[int, int]:
    """Parses an interval such as 100-800 into its first and last timestep; an empty text is all T."""
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
