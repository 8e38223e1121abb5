"""`ddpm sample` and `ddpm super-res-sample`: draw pictures from a run or from a checkpoint file."""

import argparse
from typing import Any

from ddpm.commands import options as shared
from ddpm.commands import together
from ddpm.config import SampleConfig


def add(commands: Any) -> None:
    draw = shared.command(commands, "sample", _sample, "Draw pictures from a run or a checkpoint file.")
    shared.add_source(draw, SampleConfig, "drawing", "samples")
    enlarge = shared.command(commands, "super-res-sample", _sample, "Enlarge small pictures with a super-resolution run or checkpoint file.")  # fmt: skip
    shared.add_source(enlarge, SampleConfig, "drawing", "samples", shared.SUPER_RES, shared.SUPER_RES_NAMES)


def _sample(options: argparse.Namespace) -> None:
    settings, source, flags = shared.read_source(options, SampleConfig)
    folder = shared.result_folder(options.out, source, "samples")
    with shared.working_in(folder) as worker:
        worker.beat(message="Loading the network")
        from ddpm import drawing

        drawing.draw_source(folder, worker, source, settings, flags, options.base, options.probe)
    if together.is_main():
        shared.hand_over(options.out, folder)
        print(folder)
