"""Image diffusion models on the computer at hand: train, watch, sample.  See README.md for a tour.

    import ddpm

    for report in ddpm.train("quick-start", total_steps=500, run="runs/mine"):
        print(report.step, report.losses["loss"].mean())
    model = ddpm.load("runs/mine")
    images = model.sample(16, steps=10, classes="star", seed=0)  # uint8 [16, 32, 32, 3]

Nothing is imported before it is used: `import ddpm` and the list of runs need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm.api.evaluation import evaluate
    from ddpm.api.model import load
    from ddpm.api.quality import evaluate_quality
    from ddpm.api.runs import list_runs, open_run
    from ddpm.api.training import train
    from ddpm.config.presets import PRESETS
    from ddpm.config.training import Config

__version__ = "0.1.0"
__all__ = ["PRESETS", "Config", "evaluate", "evaluate_quality", "list_runs", "load", "open_run", "train"]

_MODULES = {
    "PRESETS": "ddpm.config.presets",
    "Config": "ddpm.config.training",
    "evaluate": "ddpm.api.evaluation",
    "evaluate_quality": "ddpm.api.quality",
    "list_runs": "ddpm.api.runs",
    "load": "ddpm.api.model",
    "open_run": "ddpm.api.runs",
    "train": "ddpm.api.training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ddpm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
