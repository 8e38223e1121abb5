"""`ddpm sample` and `ddpm super-res-sample`: draw pictures from a run or from a checkpoint file."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm import runs
from ddpm.commands import options as shared
from ddpm.config import Config, SampleConfig


def add(commands: Any) -> None:
    _add(commands, "sample", "Draw pictures from a run or a checkpoint file.", Config(), {})
    _add(commands, "super-res-sample", "Enlarge small pictures with a super-resolution run or checkpoint file.", shared.SUPER_RES, shared.SUPER_RES_NAMES)  # fmt: skip


def _add(commands: Any, name: str, help: str, base: Config, names: Mapping[str, str]) -> None:
    """A command that draws; `base` and `names` are for files without settings of their own."""
    draw = shared.command(commands, name, _sample, help)
    draw.set_defaults(base=base)
    shared.add_source(draw, SampleConfig, "drawing", "samples", base, names)


def _sample(options: argparse.Namespace) -> None:
    settings, source, flags = shared.read_source(options, SampleConfig)
    folder = options.out or (source.new_sample_folder() if isinstance(source, runs.Run) else runs.timed(Path("samples")))  # fmt: skip
    with shared.working_in(folder) as worker:
        worker.beat(message="Loading the network")
        from ddpm import sample

        sample.draw_source(folder, worker, source, settings, flags, options.base)
    print(folder)
