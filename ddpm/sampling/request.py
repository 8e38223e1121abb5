"""Resolves a request for samples on this machine: reads its images, and agrees with other processes on the batch
size.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ddpm.compute import distributed
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.models.backend import ComputeMode
from ddpm.planning import guidance, inputs, low_res, memory, resolve
from ddpm.planning.resolve import ResolvedSampling
from ddpm.planning.source_images import Progress, SourceImages


def resolve_request(
    config: Config,
    request: SampleConfig,
    compute: ComputeMode | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    images: SourceImages | None = None,
    analytic_mse: tuple[float, ...] | None = None,
    batch_size: int = 0,
    progress: Progress | None = None,
) -> ResolvedSampling:
    """Works out everything that a request for samples comes to, into one record.

    compute: how the network is computed, which settles precision and kernels.  checkpoint: where its weights come from,
    for the record.  images: the small images of a super-resolution model, where they are not those that the request
    names.  analytic_mse: [T], what the variance analytic needs.  batch_size: in place of the request's, where it is not
    0; never more than fit in memory.  Raises UserError for what the model cannot do, and for images that cannot be
    read.
    """
    if guidance.is_supported(config.model):  # for the record; there is nothing to say where it is not
        request = dataclasses.replace(request, guidance_scale=guidance.scale_of(config.model, request))
    process = resolve.resolve_process(config, request)  # before anything is read
    if compute:
        request = dataclasses.replace(request, precision=compute.precision, kernels=compute.kernels)
    small = images or distributed.run_on_all_ranks(lambda: low_res.read(config, request, progress))
    given = distributed.run_on_all_ranks(lambda: inputs.read(config, request, progress))
    limited = dataclasses.replace(request, batch_size=batch_size or request.batch_size)
    size = distributed.run_on_main(lambda: memory.batch_size(config, limited))
    return resolve.resolve_sampling(process, request, small, given, size, checkpoint, analytic_mse)
