"""`ddpm import`: a run from a folder that improved-diffusion wrote."""

import argparse
import contextlib
import sys
from typing import Any

from ddpm.cli import shared
from ddpm.config.codec import SECTIONS
from ddpm.runs import jobs, openai_folder


def add(commands: Any) -> None:
    """Add the subcommand to the parser."""
    room = shared.command(commands, "import", _import, "Make a run of a folder that improved-diffusion wrote.")
    room.add_argument(
        "folder", type=shared.path, metavar="DIR", help="where improved-diffusion logged to (OPENAI_LOGDIR)"
    )
    room.add_argument(*shared.RUN, metavar="NAME", help="name of the run (default: from the folder)")
    room.add_argument(
        "--class_names",
        default="",
        metavar="A,B,C",
        help="names of the classes, in the order of their labels (default: from the data, or numbers)",
    )
    room.add_argument(
        "--in_place",
        type=shared.boolean,
        default=False,
        metavar="BOOL",
        help="leave the files where they are and link to the folder, rather than copy them (default: False)",
    )
    room.add_argument("--probe", type=shared.boolean, default=True, metavar="BOOL", help=shared.PROBE)
    room.add_argument(
        "--job", type=shared.path, metavar="FOLDER", help="folder to keep the progress in, for whoever watches"
    )
    for name, section in SECTIONS.items():
        shared.add_settings(room.add_argument_group(name, "what shapes and files do not tell"), section)


def _import(options: argparse.Namespace) -> None:
    folder = openai_folder.look(options.folder)
    names = tuple(name.strip() for name in options.class_names.split(",") if name.strip())
    with jobs.Worker(options.job) if options.job else contextlib.nullcontext() as worker:
        from ddpm.interop import import_openai

        def progress(doing: str, done: int, total: int) -> None:
            if worker:
                worker.beat(state="running", message=doing, step=done, total_steps=total)
                if "stop" in worker.heard():
                    raise jobs.Stopped
            else:
                print(f"{doing} ...", file=sys.stderr)

        wish = import_openai.Wish(options.run or "", names, options.in_place, options.probe)
        given = shared.given(options, *SECTIONS.values())
        adopted = import_openai.adopt(folder, options.runs_dir, given, wish, progress)
        if worker:
            worker.beat(state="finished", message=" ".join(adopted.told), step=len(folder.steps))
    for sentence in adopted.told:
        print(sentence, file=sys.stderr)
    print(f"Run {adopted.run.name} in {adopted.run.folder}", file=sys.stderr)
