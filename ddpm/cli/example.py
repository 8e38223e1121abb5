"""`ddpm example`: the small trained model that comes with the program."""

import argparse
from typing import Any

from ddpm.cli import shared
from ddpm.runs import example


def add(commands: Any) -> None:
    """Add the subcommand to the parser."""
    shared.add_command(
        commands, "example", _example, "Make a run of the small trained model that comes with the program."
    )


def _example(options: argparse.Namespace) -> None:
    run = example.provide(options.runs_dir)
    print(run.folder)
    print(
        f"Draw from it: {run.shell('sample', '--run', more=['--steps', '10', '--num_samples', '16', '--out', 'drawn'])}"
    )
