"""`ddpm nll`: bits per dimension of a run's or a file's model."""

import argparse
import sys
from typing import Any

from ddpm import formatting
from ddpm.cli import output, shared, torchrun
from ddpm.cli.output import Output
from ddpm.config.tasks import EvalConfig
from ddpm.formatting import plural
from ddpm.runs import results


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    nll = shared.add_command(commands, "nll", _nll, "Evaluate a model on images, in bits per dimension.")
    shared.add_source(nll, EvalConfig, "measuring", "evaluations")


def _nll(options: argparse.Namespace) -> Output | None:
    settings, source, flags = shared.read_source(options, EvalConfig)
    folder = shared.result_folder(options.out, source, "evaluations")
    with shared.job_worker(folder, made=options.out is None) as worker:
        worker.beat(message="Loading the network")
        from tqdm import tqdm

        from ddpm.analysis import likelihood

        with tqdm(
            unit="call", dynamic_ncols=True, leave=False, disable=not (torchrun.is_main() and sys.stderr.isatty())
        ) as line:
            for measured in likelihood.evaluate_source(
                folder, worker if torchrun.is_main() else None, source, settings, flags, options.probe
            ):
                line.total, so_far = measured.total, measured.so_far
                line.set_description_str(plural(so_far.count, "image"), refresh=False)
                if so_far.count:
                    line.set_postfix_str(f"{results.bits(so_far.mean, so_far.ci95)} bits/dim", refresh=False)
                line.update(measured.done - line.n)
    if not torchrun.is_main():
        return None
    shared.copy_arrays_to_log_folder(options.out, folder)
    job = results.EvaluationJob(folder)
    result, lines = job.result, []
    if result:
        quarters = " + ".join(formatting.number(value) for value in result["vb_quarters"])
        prior = formatting.number(result["prior"])
        terms = f"prior {prior}, then by quarter of the timesteps, least noisy first: {quarters}"
        lines = [job.summary, terms]
    return Output({**output.of_job(job), **result}, "\n".join([*lines, str(folder)]))
