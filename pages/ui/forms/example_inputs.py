"""What a task begins with, so that the first press shows what it can do: two earlier samples that differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import streamlit as st

from ddpm.config.training import Config
from ddpm.data import distances
from ddpm.errors import UserError
from ddpm.planning import classes, resolve
from ddpm.runs.results import SampleJob
from pages.ui.components import thumbnails

LOOKED_AT = 64  # images among which the two are looked for


class Pair(NamedTuple):
    """Seeds of two samples, and the name of their class; empty without classes."""

    first: int
    last: int
    name: str = ""


def two_seeds(config: Config, jobs: Sequence[SampleJob]) -> Pair | None:
    """Seeds of the two of the newest samples that differ most, of one class; None where there are none yet."""
    for job in jobs:
        sample = job.sample_config
        if sample is None or sample.task != "draw" or config.model.super_res or len(job.images) < 2:
            continue
        paths = tuple(map(str, job.images[:LOOKED_AT]))
        try:
            labels = resolve.resolve_labels(config, sample)
            found = distances.most_different(
                _pixels(job, paths, job.changed_at(job.images[0])), None if labels is None else labels[: len(paths)]
            )
        except (UserError, OSError):  # a damaged image, or settings of another model: the next ones may do
            continue
        if found:
            known = classes.names(config)
            name = "" if labels is None or labels[found[0]] >= len(known) else known[labels[found[0]]]
            return Pair(sample.seed + found[0], sample.seed + found[1], name)
    return None


@st.cache_data(max_entries=8, show_spinner=False)
def _pixels(_job: SampleJob, paths: tuple[str, ...], changed_at: int) -> np.ndarray:
    """Images uint8 [N, H, W, C].  Raises UserError for a damaged one."""
    loaded = [np.asarray(thumbnails.load(_job, path)) for path in map(Path, paths)]
    if len({image.shape for image in loaded}) > 1:
        raise UserError(f"The images in {_job.folder} differ in size: restore them from a copy.", code="wrong-size")
    pixels = np.stack(loaded)
    return pixels if pixels.ndim == 4 else pixels[..., None]
