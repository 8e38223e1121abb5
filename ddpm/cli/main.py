"""The command line.  Each subcommand imports what it needs when it runs, so that `ddpm runs` answers at once."""

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence

from ddpm.cli import (
    bench,
    data,
    ema,
    evaluate,
    example,
    import_openai,
    metrics,
    output,
    quality,
    result,
    run_actions,
    runs,
    sample,
    torchrun,
    train,
    trajectory,
    variance,
)
from ddpm.errors import AlreadyDone, UserError, user_errors
from ddpm.host import openmp

COMMANDS = (
    train,
    example,
    sample,
    trajectory,
    evaluate,
    quality,
    ema,
    variance,
    result,
    bench,
    runs,
    metrics,
    import_openai,
    data,
)  # as --help lists


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 2 for an error that the user can correct, 0 if all was done before."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        execute(words)
        return 0
    except AlreadyDone as done:
        if output.is_json(words):
            output.print_document({"message": str(done), "code": done.code})
        else:
            output.say(str(done))
        return 0
    except UserError as error:
        output.say(f"ddpm: {error}", aside=True)
        if output.is_json(words):
            output.show_error(error)
        return 2
    except BrokenPipeError:  # `ddpm runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def execute(arguments: Sequence[str]) -> None:
    """Runs one command and prints its result.  Raises UserError for an error that the user can correct."""
    for name, value in openmp.variables().items():
        os.environ.setdefault(name, value)
    _open_streams()
    words = prepared(arguments)
    json_alone = output.is_json(words)
    # What libraries print would make the document unreadable.
    elsewhere = contextlib.redirect_stdout(sys.stderr) if json_alone else contextlib.nullcontext()
    with user_errors():
        with elsewhere:
            options = _parser().parse_args(words)
            result = torchrun.run(options.command, options)
        if torchrun.is_main():
            output.show(result, getattr(options, "json", False))


def _open_streams() -> None:
    """Makes sure that all three standard streams are open and can write any text.

    A service or pythonw may start without them: output is then discarded, and does not end up in whichever file is
    opened next and gets the free descriptor.  Characters that the encoding lacks are escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(
                sys,
                name,
                open(number, "w" if number else "r", encoding="utf-8", errors="backslashreplace", closefd=False),
            )
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def prepared(arguments: Sequence[str]) -> list[str]:
    """The words of a command line as the parser takes them."""
    return run_actions.with_action(join_negative_values(arguments))


def join_negative_values(arguments: Sequence[str]) -> list[str]:
    """Writes `--lr -1e-4` as `--lr=-1e-4`: argparse takes such values for flags; no flag but -h has a single dash."""
    joined: list[str] = []
    for word in arguments:
        before = joined[-1] if joined else ""
        if (
            re.match(r"-[^-]", word)
            and word != "-h"
            and before.startswith("--")
            and before != "--"
            and "=" not in before
        ):
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = output.Parser(prog="ddpm", description="Train image diffusion models, and sample from them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
