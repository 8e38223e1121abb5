"""`ddpm example`: a run of the small trained model that comes with the program."""

import argparse
from typing import Any

from ddpm.cli import output, shared
from ddpm.cli.output import Output
from ddpm.config import codec
from ddpm.runs import example


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    shared.add_command(
        commands, "example", _example, "Add the small trained model that comes with the program as a run."
    )


def _example(options: argparse.Namespace) -> Output:
    run = example.provide(options.runs_dir)
    command = run.shell("sample", "--run", more=[*codec.to_flags(example.SAMPLE), "--out", "samples"])
    return Output({**output.of_run(run), "command": command}, f"{run.folder}\nSample from it: {command}")
