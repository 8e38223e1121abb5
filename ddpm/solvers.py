"""Samplers, as data: what each is good for, which settings it takes, and the function that computes it.

To add one: a generator function like those in `sampling/samplers.py`, and a row here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Solver(NamedTuple):
    """Description of a sampler for forms, flags and tables."""

    label: str
    source: str  # the paper, and where in it
    words: str  # when to choose it
    function: str | Callable[..., Any]  # its name in sampling/samplers.py, "module:name", or the function itself
    order: int  # of convergence to the image of infinitely many steps; 0 for a stochastic sampler, which has none
    spacing: str = "uniform"  # the row of spacings.SPACINGS that suits it best
    calls: int = 1  # model evaluations a step; the last step, to the clean image, needs one
    warm_up: int = 0  # more model evaluations in the first step
    takes: tuple[str, ...] = ()  # settings of this sampler alone, and are passed to the function
    options: Mapping[str, Any] = MappingProxyType({})  # what else is passed to it

    @property
    def exact(self) -> bool:
        """True if the initial noise alone decides the image, so that more steps converge to one image."""
        return self.order > 0


LOGSNR = "logsnr"  # the best, or nearly, for all that follow the ODE, from 8 calls on: docs/samplers.md
SOLVERS = {
    "ddpm": Solver("DDPM", "Ho et al. 2020, Algorithm 2", "Adds fresh noise at every step, as in training; best with hundreds of steps.", "ddpm", 0, takes=("variance", "sigma_small")),
    "ddim": Solver("DDIM", "Song et al. 2021, Eq. 12", "Simple and robust; good from about 50 steps.", "ddim", 1, LOGSNR, takes=("eta",)),
    "plms": Solver("PLMS", "Liu et al. 2022, Eq. 12", "Linear multistep over four model outputs; the first step takes two evaluations.", "ipndm", 2, LOGSNR, warm_up=1, options=dict(twice=True)),
    "ipndm": Solver("iPNDM", "Zhang and Chen 2023", "Linear multistep over four model outputs, without an extra evaluation for the first step.", "ipndm", 2, LOGSNR),
    "dpm++2m": Solver("DPM-Solver++ 2M", "Lu et al. 2022b, Algorithm 2", "Second-order multistep: good images in 10 to 20 steps.", "dpm_solver_pp", 2, LOGSNR, options=dict(order=2)),
    "dpm++3m": Solver("DPM-Solver++ 3M", "Lu et al. 2022b, Section 5", "Third-order multistep: closer to the converged image than 2M from about 10 steps.", "dpm_solver_pp", 3, LOGSNR, options=dict(order=3)),
    "dpm++2m-sde": Solver("DPM-Solver++ 2M SDE", "Lu et al. 2022b, Section 5.2", "Adds fresh noise at every step, and is still good in 20 steps.", "sde_dpm_solver_pp", 0, LOGSNR),
    "unipc-1": Solver("UniPC-1", "Zhao et al. 2023, Algorithm 5", "Predictor-corrector of second order.", "unipc", 2, LOGSNR, options=dict(order=1)),
    "unipc-2": Solver("UniPC-2", "Zhao et al. 2023, Algorithm 5", "A predictor of second order whose corrector makes it one of third: usually needs the fewest model evaluations.", "unipc", 3, LOGSNR, options=dict(order=2)),
    "unipc-3": Solver("UniPC-3", "Zhao et al. 2023, Algorithm 5", "Predictor-corrector of fourth order: the most accurate from about 20 model evaluations.", "unipc", 4, LOGSNR, options=dict(order=3)),
    "heun": Solver("Heun", "Karras et al. 2022, Algorithms 1 and 2", "Two model evaluations per step; with churn, adds fresh noise as well.", "heun", 2, LOGSNR, calls=2, takes=("churn",)),
}  # fmt: skip
