"""`ddpm example`: the small trained model that comes with the program."""

import argparse
from typing import Any

from ddpm.cli import shared
from ddpm.runs import example
from ddpm.runs.runs import Run


def add(commands: Any) -> None:
    parser = shared.command(commands, "example", _example, "Make a run of the small trained model that comes with the program.")  # fmt: skip
    parser.add_argument("--pack", type=shared.path, metavar="RUN", help="instead, have the program come with this finished run, a folder")  # fmt: skip


def _example(options: argparse.Namespace) -> None:
    if options.pack:
        from ddpm import packing

        packed = packing.pack(Run(options.pack), example.ASSET)
        size = sum(path.stat().st_size for path in example.ASSET.rglob("*") if path.is_file())
        print(f"{example.ASSET}: step {packed.step:,}, {size / 1e6:.2f} MB")
        return
    run = example.provide(options.runs_dir)
    print(run.folder)
    print(
        f"Draw from it: {run.shell('sample', '--run', more=['--steps', '10', '--num_samples', '16', '--out', 'drawn'])}"
    )
