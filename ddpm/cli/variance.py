"""`ddpm analytic`: estimates the optimal variance of the denoising steps of a checkpoint on given data."""

import argparse
import dataclasses
import sys
from typing import Any

from ddpm.cli import shared
from ddpm.cli.output import Output
from ddpm.config.tasks import AnalyticConfig
from ddpm.errors import UserError
from ddpm.planning import variances


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    parser = shared.add_command(
        commands,
        "analytic",
        _analytic,
        "Estimate the optimal variance of ancestral steps (Bao et al. 2022), for --variance analytic; it is saved in"
        " the folder of the weights.",
    )
    shared.add_source(
        parser, AnalyticConfig, "estimating", "", leave_out={"timestep_respacing", "variance", "clip_denoised"}
    )


def _analytic(options: argparse.Namespace) -> Output:
    settings, source, flags = shared.read_source(options, AnalyticConfig)
    from tqdm import tqdm

    from ddpm.checkpoints import loading, variance_file
    from ddpm.checkpoints.variance_file import PredictionErrors
    from ddpm.compute import distributed
    from ddpm.data import datasets
    from ddpm.models import backend
    from ddpm.sampling import analytic_variance

    distributed.set_num_threads(settings.threads)
    opened = loading.open_model(source, settings, flags, options.base, options.probe)
    config, path = opened.config, opened.path
    variances.resolve_variance(config, dataclasses.replace(settings, variance="analytic"))
    data = dataclasses.replace(config.data, data_dir=settings.data_dir or config.data.data_dir)
    data = datasets.adjusted(data, settings)
    if not data.data_dir:
        raise UserError(
            f"{path.name} does not record its training data: name images with --data_dir.",
            code="no-data-named",
        )
    dataset = datasets.open_dataset(data, config.model, seed=config.train.seed)
    device = distributed.device()
    compute = backend.resolve_and_report(settings.kernels, "fp32", device, None)
    network = compute.prepared(opened.network(device))
    with tqdm(unit="evaluation", dynamic_ncols=True, leave=False, disable=not sys.stderr.isatty()) as line:
        for now in analytic_variance.estimate(network, config, dataset, settings.num_samples, settings.seed, device):
            line.total = now.total
            line.update(now.done - line.n)
    assert now.mse is not None
    process = variance_file.process_of(config.diffusion)
    about = {"data": data.data_dir, "pictures": settings.num_samples, "seed": settings.seed, "process": process}
    try:
        variance_file.write(path, opened.sha256, PredictionErrors(now.mse.tolist(), about))
    except OSError as error:
        raise UserError(
            f"{variance_file.path_for(path)} cannot be written ({error.strerror or error}): make its folder"
            " writable, or copy the weights to another.",
            code="not-writable",
        ) from error
    written = variance_file.path_for(path)
    return Output({"path": written, "mse": now.mse, **about}, str(written))
