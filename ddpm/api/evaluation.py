"""Evaluation of a model in bits per dimension."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm.api.model import Model, load
from ddpm.api.settings import check_not_loading, parse_section, progress_bar
from ddpm.config.tasks import EvalConfig
from ddpm.runs.runs import Run


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts images: the variational bound on their likelihood."""

    bits_per_dim: float
    """Mean over the images of the bound in bits per dimension (Ho et al. 2020, Eq. 5)."""
    ci95: float | None
    """Half-width of the 95 % confidence interval of the mean; None for a single image."""
    prior: float
    """Share of the prior term, L_T."""
    num_samples: int
    """Images that were evaluated."""
    terms: dict[str, np.ndarray]
    """vb, mse and xstart_mse: means over the images at each timestep, float64 [T], t = 0 first."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of bits_per_dim."""
        return None if self.ci95 is None else (self.bits_per_dim - self.ci95, self.bits_per_dim + self.ci95)


def evaluate(
    model: "str | os.PathLike[str] | Run | Model",
    data: str | os.PathLike[str] = "",
    num_samples: int = 1000,
    *,
    progress: bool = False,
    **settings: Any,
) -> Evaluation:
    """Evaluates a model in bits per dimension.

    Arguments:
        model: a `Model`, or what `load` loads.
        data: a folder of images, an .npz file or a data set by name; "": the data that it was trained on.
        num_samples: images to evaluate.
        progress: show a progress bar on stderr.
        settings: others, by the names that `ddpm nll --help` lists, such as timestep_respacing="250" or split="test".

    Raises UserError for data that cannot be read or does not fit the model.

        found = ddpm.evaluate("runs/quick-start", "shapes", num_samples=100)
        print(f"{found.bits_per_dim:.3f} +- {found.ci95:.3f} bits/dim")
    """
    request = parse_section(EvalConfig, {"data_dir": str(data), "num_samples": num_samples, **settings})
    if isinstance(model, Model):
        check_not_loading(settings)
    else:
        model = load(model, weights=request.weights, step=request.step)
    import torch

    from ddpm.analysis import likelihood
    from ddpm.checkpoints import checkpoint_files, evaluated_images
    from ddpm.data import lineage
    from ddpm.models import backend
    from ddpm.planning import resolve

    seen = train_ids = None  # what the model was trained on, to know whether `data` is that
    if opened := model.opened:
        seen = lineage.from_json(opened.weights.data)
        train_ids = checkpoint_files.train_ids_at_step(opened.path, opened.weights.step) if seen else None
    if request.threads:
        torch.set_num_threads(request.threads)
    dataset = evaluated_images.open_images(model.config, request, None, seen, train_ids).dataset
    compute = backend.resolve_backend(request.kernels, "fp32", model.device)
    resolved = resolve.resolve_evaluation(model.config, dataclasses.replace(request, kernels=compute.kernels))
    resolved = dataclasses.replace(resolved, analytic_mse=model.analytic_mse(resolved.variance))
    with progress_bar(progress) as show:
        for measured in likelihood.measure(compute.prepared(model.network), resolved, dataset, model.device):
            show(measured.done, measured.total)
    so_far = measured.so_far
    return Evaluation(so_far.mean, so_far.ci95, so_far.prior, so_far.count, so_far.terms())
