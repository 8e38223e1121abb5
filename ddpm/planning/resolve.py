"""Resolves a request: what its settings come to on a model, worked out once into a record.  No torch.

Later code reads the record and asks the settings no second time.  `resolve_process` needs the model's config alone, so
that a page can call it at once; `resolve_sampling` adds what depends on input images and on this machine, both of which
`ddpm.sampling.request` finds out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ddpm.config.tasks import EvalConfig, FromCheckpoint, SampleConfig
from ddpm.config.training import Config
from ddpm.planning import classes, guidance, timesteps, variances
from ddpm.planning.guidance import Guidance
from ddpm.planning.inputs import InputImages
from ddpm.planning.source_images import SourceImages


@dataclass(frozen=True)
class ResolvedProcess:
    """The denoising process of a request on a model."""

    config: Config
    """Settings of the model, as trained."""
    solver: str
    """Row of SOLVERS; empty for an evaluation, which takes no denoising steps."""
    timesteps: tuple[float, ...]
    """Timesteps of the full process that are visited, increasing; int where all are whole."""
    nfe: int
    """Model evaluations an image takes; one with guidance counts once, although the network runs twice in it."""
    variance: str
    """Variance of an ancestral step: fixed_small, fixed_large, learned_range or analytic."""
    guidance: Guidance | None
    """Classifier-free guidance; None where the model is used as it is."""


@dataclass(frozen=True, eq=False)
class ResolvedSampling(ResolvedProcess):
    """Everything that decides the samples of a request, and how they are computed on this machine."""

    request: SampleConfig
    """The request as it is recorded, with absolute paths, and precision and kernels as resolved.  Settings that need no
    resolving (task, seed, eta, ...) are read from here."""
    labels: np.ndarray | None
    """Class of each sample, int64 [num_samples]; None for a model without classes."""
    low_res: SourceImages | None
    """Small images that a super-resolution model enlarges, in turn."""
    inputs: InputImages | None
    """Images, and the mask, that the task begins with, in turn."""
    batch_size: int
    """Samples that are computed at once."""
    precision: str
    """Numbers that the network computes with: fp32, bf16 or fp16."""
    kernels: str
    """What computes the network: native, torch or compile."""
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    """Where the weights come from, as recorded: path, step, weights, sha256.  Empty for weights in memory."""
    analytic_mse: tuple[float, ...] | None = None
    """Mean squared error of the predicted eps at each timestep, [T]: for the variance analytic alone."""

    @property
    def source_images(self) -> SourceImages | None:
        """Images that samples are shown next to: inputs of the task, or the small images that are enlarged."""
        return self.inputs.images if self.inputs else self.low_res


@dataclass(frozen=True, eq=False)
class ResolvedEvaluation(ResolvedProcess):
    """Everything that decides an evaluation, and how it is computed on this machine."""

    request: EvalConfig
    """The request as it is recorded, with kernels as resolved."""
    kernels: str
    """What computes the network, in fp32: native, torch or compile."""
    analytic_mse: tuple[float, ...] | None = None
    """Mean squared error of the predicted eps at each timestep, [T]: for the variance analytic alone."""


def resolve_process(config: Config, wanted: FromCheckpoint) -> ResolvedProcess:
    """Resolves timesteps, solver, variance and guidance.

    Raises UserError for what this model cannot do, and for settings that contradict each other.
    """
    sample = wanted if isinstance(wanted, SampleConfig) else None
    visited = timesteps.timesteps(config, wanted)
    return ResolvedProcess(
        config=config,
        solver=timesteps.solver(sample) if sample else "",
        timesteps=tuple(visited),
        nfe=timesteps.model_evaluations(len(visited), wanted),
        guidance=guidance.resolve_guidance(config, sample) if sample else None,
        variance=variances.resolve_variance(config, wanted),
    )


def resolve_sampling(
    process: ResolvedProcess,
    request: SampleConfig,
    low_res: SourceImages | None,
    inputs: InputImages | None,
    batch_size: int,
    checkpoint: Mapping[str, Any] | None = None,
    analytic_mse: tuple[float, ...] | None = None,
) -> ResolvedSampling:
    """Adds to a process the labels, and what was found out from images and from this machine.

    request: with precision and kernels already resolved.  Raises UserError for classes that the model does not have.
    """
    images = inputs.images if inputs else low_res
    return ResolvedSampling(
        **vars(process),
        request=request,
        labels=resolve_labels(process.config, request, images),
        low_res=low_res,
        inputs=inputs,
        batch_size=batch_size,
        precision=request.precision,
        kernels=request.kernels,
        checkpoint=checkpoint or {},
        analytic_mse=analytic_mse,
    )


def resolve_labels(config: Config, sample: SampleConfig, images: SourceImages | None = None) -> np.ndarray | None:
    """Resolves the class of each sample, int64 [num_samples]; None for a model without classes.

    These are the classes of the request in turn, or else those that `images` came with, or else all.  An interpolation
    stays with the first class.  Raises UserError for a class that the model does not have.
    """
    if images is not None and images.labels is not None and not sample.classes:
        labels = images.labels
    else:
        labels = np.array(classes.parse_classes(config, sample.classes))
        labels = labels[:1] if sample.task == "interpolate" else labels
    return np.resize(labels, sample.num_samples).astype(np.int64) if config.model.class_cond else None


def resolve_evaluation(config: Config, request: EvalConfig) -> ResolvedEvaluation:
    """Resolves an evaluation.  request: with kernels already resolved.  Raises UserError as `resolve_process` does."""
    return ResolvedEvaluation(**vars(resolve_process(config, request)), request=request, kernels=request.kernels)
