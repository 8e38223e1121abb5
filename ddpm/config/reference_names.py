"""Settings that improved-diffusion names otherwise: its two switches for what the network predicts.

Its command lines, and files written with them, go on to be understood; everything else knows `prediction` alone.
"""

from collections.abc import Mapping
from typing import Any

from ddpm.errors import UserError
from ddpm.formatting import brief

SWITCHES = {"predict_xstart": "x_start", "predict_xprev": "x_prev"}  # its switch -> prediction


def to_own(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings without improved-diffusion's switches; both of them off is the prediction of the noise.

    Raises UserError where two of the settings contradict each other, and for a switch that is neither True nor False.
    """
    named = {name: value for name, value in values.items() if name in SWITCHES}
    own = {name: value for name, value in values.items() if name not in SWITCHES}
    for name, value in named.items():
        if not isinstance(value, bool):
            raise UserError(f"{name} is {brief(value)}: set it to True or False.", code="bad-value")
    if not isinstance(own.get("prediction", ""), str):
        raise UserError(f"prediction is {brief(own['prediction'])}: name one.", code="bad-value")
    wanted = {SWITCHES[name] for name, value in named.items() if value}
    if len(wanted | ({own["prediction"]} if "prediction" in own else set())) > 1:
        said = ", ".join(f"{name} {value}" for name, value in values.items() if name in (*SWITCHES, "prediction"))
        raise UserError(
            f"{said} contradict each other, as a network predicts only one thing: leave out all but one.",
            code="conflicting-settings",
        )
    if wanted or named:
        own.setdefault("prediction", next(iter(wanted), "eps"))
    return own


def switches(prediction: str) -> dict[str, bool]:
    """improved-diffusion's switches for a prediction that it knows: eps, x_start or x_prev."""
    return {name: prediction == value for name, value in SWITCHES.items()}
