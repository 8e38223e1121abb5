"""A request for samples in one normal form, and described in a line."""

import dataclasses

from ddpm import formatting
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import resolve, timesteps
from ddpm.solvers import SOLVERS


def normal_form(sample: SampleConfig) -> SampleConfig:
    """Rewrite a request in this program's own settings: sampler in place of use_ddim, variance in place of sigma_small."""
    try:
        name = timesteps.solver(sample)
    except UserError:  # of a file that was written by hand
        name = sample.sampler if sample.sampler in SOLVERS else "ddim"
    variance = sample.variance
    if sample.sigma_small is not None and variance == "auto":
        variance = "fixed_small" if sample.sigma_small else "fixed_large"
    return dataclasses.replace(sample, sampler=name, use_ddim=False, variance=variance, sigma_small=None)


def describe(config: Config, sample: SampleConfig) -> str:
    """16 pictures · DDIM, 50 steps · seed 0."""
    try:
        steps = resolve.resolve_process(config, sample).nfe
    except UserError:
        steps = 0
    said = normal_form(sample)
    how = f"{SOLVERS[said.sampler].label}, {formatting.plural(steps, 'step')}"
    how += f", eta {sample.eta:g}" if said.sampler == "ddim" and sample.eta else ""
    how += f", guidance {sample.guidance_scale:g}" if sample.guidance_scale != 1 else ""
    seed = f"seed {sample.seed}" + (f" to {sample.to_seed}" if sample.task == "interpolate" else "")
    parts = [
        "" if sample.task == "draw" else sample.task.capitalize(),
        formatting.plural(sample.num_samples, "picture"),
        how,
        "" if sample.task == "invert" else seed,
        sample.classes.replace(",", ", "),
    ]
    return " · ".join(part for part in parts if part)
