"""Comparison of a network with tensors that are to be loaded into it."""

from collections.abc import Mapping

from torch import Tensor, nn

from ddpm.checkpoints import infer_config
from ddpm.config.model import ModelConfig
from ddpm.errors import UserError
from ddpm.formatting import plural


def fit(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Loads `tensors` (name -> [...]) into `model`.  Raises UserError naming what differs, and flags that fit."""
    compare(model, tensors, source)
    model.load_state_dict(tensors)


def compare(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raises UserError as `fit` does, without loading `tensors` (name -> [...]); `model` may be on the meta device."""
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != found:
        differ = list(dict.fromkeys(n for n in [*wanted, *found] if wanted.get(n) != found.get(n)))
        name, settings = differ[0], getattr(model, "config", None)
        flags = infer_config.fitting_flags(found, settings) if isinstance(settings, ModelConfig) else []
        missing, extra = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
        if not flags and len(differ) == len(missing) + len(extra):
            raise UserError(_more_or_fewer(source, missing, extra), code="wrong-weights")
        others = f" (also {', '.join(differ[1:4])}{', ...' if len(differ) > 4 else ''})" if len(differ) > 1 else ""
        raise UserError(
            f"{source} does not fit these settings: {plural(len(differ), 'tensor differs', 'tensors differ')}, first"
            f" {name}, which is {found.get(name, 'missing')} in the file and {wanted.get(name, 'not expected')}"
            f" here{others}; use {' '.join(flags) or 'the flags that it was trained with'}.",
            code="wrong-weights",
        )


def _more_or_fewer(source: str, missing: list[str], extra: list[str]) -> str:
    """Writes the sentence for shapes that fit and names that do not."""

    def named(names: list[str]) -> str:
        few = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        return f"the tensor {few}" if len(names) == 1 else f"{len(names)} tensors ({few})"

    lacks = f"lacks {named(missing)} of the network that its other tensors describe" if missing else ""
    has = f"holds {named(extra)} that improved-diffusion's U-Net does not have" if extra else ""
    remedy = (
        "take a whole copy"
        if missing
        else (
            "take a file of such a network, or save the tensors without it"
            if len(extra) == 1
            else "take a file of such a network"
        )
    )
    return f"{source} {' and '.join(filter(None, (lacks, has)))}: {remedy}."
