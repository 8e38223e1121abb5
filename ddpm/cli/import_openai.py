"""`ddpm import`: make a run from a folder that improved-diffusion wrote."""

import argparse
from typing import Any

from ddpm.cli import output, shared
from ddpm.cli.output import Output
from ddpm.config.codec import SECTIONS
from ddpm.runs import openai_folder
from ddpm.runs.worker import Stopped


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    parser = shared.add_command(commands, "import", _import, "Make a run from a folder that improved-diffusion wrote.")
    parser.add_argument(
        "folder", type=shared.path, metavar="DIR", help="folder that improved-diffusion logged to (its OPENAI_LOGDIR)"
    )
    parser.add_argument(*shared.RUN_FLAGS, metavar="NAME", help="name of the run (default: from the folder)")
    parser.add_argument(
        "--class_names",
        default="",
        metavar="A,B,C",
        help="names of the classes, in the order of their labels (default: from the data, or numbers)",
    )
    parser.add_argument(
        "--in_place",
        type=shared.boolean,
        default=False,
        metavar="BOOL",
        help="leave the files where they are and link to the folder, instead of copying them (default: False)",
    )
    parser.add_argument("--probe", type=shared.boolean, default=True, metavar="BOOL", help=shared.PROBE)
    parser.add_argument(
        "--job", type=shared.path, metavar="FOLDER", help="folder for the status of this job, which the dashboard shows"
    )
    for name, section in SECTIONS.items():
        shared.add_settings(
            parser.add_argument_group(name, "settings that the shapes of the weights and the files do not say"), section
        )


def _import(options: argparse.Namespace) -> Output:
    folder = openai_folder.read_folder(options.folder)
    names = tuple(name.strip() for name in options.class_names.split(",") if name.strip())
    with shared.status_of(options.job) as worker:
        from ddpm.interop import import_openai

        def progress(doing: str, done: int, total: int) -> None:
            if worker:
                worker.beat(message=doing, step=done, total_steps=total)
                if "stop" in worker.poll_requests():
                    raise Stopped
            else:
                output.say(f"{doing} ...", aside=True)

        wanted = import_openai.ImportOptions(options.run or "", names, options.in_place, options.probe)
        given = shared.given(options, *SECTIONS.values())
        imported = import_openai.import_folder(folder, options.runs_dir, given, wanted, progress)
        if worker:
            worker.beat(message=" ".join(imported.notes))
    for sentence in imported.notes:
        output.say(sentence, aside=True)
    output.say(f"Run {imported.run.name} in {imported.run.folder}", aside=True)
    return Output({**output.of_run(imported.run), "notes": imported.notes})
