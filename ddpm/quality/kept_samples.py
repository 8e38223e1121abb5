"""Samples that an evaluation which ended early has left: whether another one may go on with them."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from ddpm.checkpoints.loading import OpenedModel
from ddpm.config import codec
from ddpm.config.quality import QualityConfig
from ddpm.errors import UserError
from ddpm.models.backend import ComputeMode
from ddpm.runs.results import QualityJob

# Settings that make no other samples: those of a folder may go on with others.
NOT_SAMPLED = {
    "num_samples",
    "samples",
    "reference",
    "split",
    "half",
    "enlarge",
    "skip_broken",
    "batch_size",
    "threads",
    "copies",
    "inception",
}


def made_with(
    settings: QualityConfig, opened: OpenedModel, compute: ComputeMode, class_counts: list[int]
) -> dict[str, Any]:
    """All that decides what the samples are, but for their number."""
    found = {name: value for name, value in dataclasses.asdict(settings).items() if name not in NOT_SAMPLED}
    network = [*codec.to_flags(opened.config.model), *codec.to_flags(opened.config.diffusion)]
    how = {"precision": compute.precision, "kernels": compute.kernels}
    return {**found, "class_counts": class_counts, "sha256": opened.sha256, "network": shlex.join(network), **how}


def check_same(job: QualityJob, wanted: Mapping[str, Any]) -> None:
    """Raises UserError where a folder holds samples that this evaluation would not make."""
    if not job.batch_paths():
        return
    before = job.settings
    if not (known := before.get("sampled_with")):  # an earlier version's, which recorded less
        asked = {name: value for name, value in dataclasses.asdict(job.config).items() if name in wanted}
        here = {name: wanted[name] for name in ("precision", "kernels")}
        known = {**asked, **here, "sha256": before.get("checkpoint", {}).get("sha256")}
    differ = [name for name, value in wanted.items() if name in known and known[name] != value]
    if not differ:
        return
    if set(differ) <= {"precision", "kernels"}:
        was, now = (f"in {of.get('precision')} by {of.get('kernels')} kernels" for of in (known, wanted))
        raise UserError(
            f"The samples in {job.folder} were computed {was}, and others would be {now}: start a new evaluation.",
            code="already-exists",
        )
    raise UserError(
        f"{job.folder} holds samples of another evaluation ({', '.join(differ)}): choose another --out, or remove it.",
        code="already-exists",
    )
