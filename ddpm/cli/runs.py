"""`ddpm runs`, `ddpm stop` and `ddpm export`: list runs, describe one, end one, export one."""

import argparse
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ddpm import formatting
from ddpm.cli import output, run_actions, shared
from ddpm.cli.output import Output
from ddpm.config import codec, fields
from ddpm.config.tasks import FromCheckpoint
from ddpm.planning import architecture
from ddpm.runs import jobs, launch, runs
from ddpm.runs.results import KINDS

SHOWN = ("loss", "mse", "vb", "grad_norm")  # metrics of the last log line that a description has


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    stop = shared.add_command(commands, "stop", _stop, "Ask a training to stop: it finishes its step, saves and exits.")
    stop.add_argument("name", metavar="NAME")
    stop.add_argument(
        "--wait", type=shared.boolean, default=True, metavar="BOOL", help="wait until it has exited (default: True)"
    )
    stop.add_argument(
        "--kill",
        type=shared.boolean,
        default=False,
        metavar="BOOL",
        help="end it at once; steps since the last checkpoint are lost",
    )
    stop.add_argument(
        "--cooldown",
        type=shared.boolean,
        default=False,
        metavar="BOOL",
        help="let the learning rate fall to 0 first, over lr_cooldown of all steps, and finish with that",
    )

    listing = shared.add_command(
        commands,
        "runs",
        _runs,
        "List the runs, newest first; with NAME describe one, with ACTION NAME do something with it.",
    )
    listing.add_argument("--tag", default="", metavar="TAG", help="list only runs with this tag")
    listing.add_argument(
        "--archived",
        type=shared.boolean,
        default=False,
        metavar="BOOL",
        help="list archived runs too (default: False)",
    )
    actions = listing.add_subparsers(metavar="ACTION")
    show = shared.add_command(actions, "show", _show, "Describe a run, as its name alone does.")
    show.add_argument("name", metavar="NAME")
    run_actions.add(actions)

    export = shared.add_command(
        commands,
        "export",
        _export,
        "Write a run's numbers as a spreadsheet, or a checkpoint as improved-diffusion's files.",
    )
    export.add_argument("name", metavar="NAME")
    export.add_argument(
        "--openai",
        type=shared.path,
        metavar="DIR",
        help="write a checkpoint to this folder as improved-diffusion's files, to load and resume there",
    )
    others = {s.name for s in fields.settings(FromCheckpoint)} - {"step"}
    shared.add_settings(export.add_argument_group("with --openai"), FromCheckpoint, leave_out=others)
    export.add_argument(
        "--xlsx", type=shared.path, metavar="FILE", help="file to write (default: results.xlsx in the run's folder)"
    )


def _stop(options: argparse.Namespace) -> Output:
    run = runs.find_run(options.runs_dir, options.name)
    if options.kill:
        launch.kill(run)
        return Output(output.of_run(run), f"{run.name} was ended.")
    if options.cooldown:
        launch.cool_down(run)
        output.say(f"{run.name} was asked to cool down: its learning rate falls to 0, and it finishes.")
    else:
        launch.stop(run)
        output.say(f"{run.name} was asked to stop: it finishes its step, saves and exits.")
    silent = False
    while options.wait and (state := run.state()) in jobs.ACTIVE:
        if state == "not responding" and not silent:
            silent = True
            output.say(
                f"{run.name} does not respond: wait, or end it by"
                f" `{run.shell('stop', more=['--kill', 'True'])}`, which loses the steps since its last checkpoint.",
                aside=True,
            )
        time.sleep(0.2)
    status = run.status()
    text = f"{run.name} is {run.state()} at step {status.step if status else 0}." if options.wait else ""
    return Output(output.of_run(run), text)


def _runs(options: argparse.Namespace) -> Output:
    known = runs.list_runs(options.runs_dir)
    tag = options.tag.casefold()
    found = [
        run
        for run in known
        if (options.archived or not run.about().archived)
        and (not tag or tag in (t.casefold() for t in run.about().tags))
    ]
    documents = [output.of_run(run) for run in found]
    whole = {"runs_dir": options.runs_dir.absolute(), "runs": documents}
    if not found and known:
        return Output(whole, "No run is listed: --archived True lists archived runs too, and without --tag all are.")
    if not found:
        return Output(whole, f"No runs in {options.runs_dir} yet: `ddpm train --preset quick-start` starts one.")
    rows = [("run", "state", "step", "it/s", "time left", "loss"), *map(_row, documents)]
    if any(document["tags"] or document["title"] for document in documents):
        rows = [(*row, *more) for row, more in zip(rows, [("tags", "title"), *map(_words, documents)], strict=True)]
    for run in found:
        if problem := run.unreadable() or run.problem():
            output.say(f"{run.name}: {problem}", aside=True)
    return Output(whole, _table(rows))


def _words(document: Mapping[str, Any]) -> tuple[str, str]:
    """Tags and title of a run, for a line of the table."""
    return ", ".join(document["tags"]), document["title"]


def _row(document: Mapping[str, Any]) -> tuple[str, ...]:
    """A line of the table for what `output.of_run` says."""
    active, loss = document["state"] in jobs.ACTIVE, document["metrics"].get("loss")
    speed = document["steps_per_second"]
    return (
        document["run"],
        _state(document),
        f"{document['step']:,}/{document['total_steps']:,}",
        formatting.number(speed, 3) if active and speed else "",
        formatting.duration(document["seconds_left"]) if active else "",
        formatting.number(loss) if loss is not None else "",
    )


def _state(document: Mapping[str, Any]) -> str:
    """The state; of a process on another machine that one look cannot judge, also when it was last heard of."""
    unseen = document["unseen_seconds"]
    if unseen is None or unseen < jobs.SILENT:
        return str(document["state"])
    return f"{document['state']}? (another machine's, last heard of {formatting.duration(unseen)} ago)"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Text of rows of cells, in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _show(options: argparse.Namespace) -> Output:
    return _describe(runs.find_run(options.runs_dir, options.name))


def _describe(run: runs.Run) -> Output:
    checkpoints = run.checkpoints()
    results = {kind: run.results(kind) for kind in KINDS}
    short = output.of_run(run)
    document = {
        **short,
        "notes": run.about().notes,
        "config": codec.to_json(run.config),
        "checkpoints": [output.of_checkpoint(checkpoint) for checkpoint in checkpoints],
        "previews": [{"step": step, "path": path.absolute()} for step, path in run.previews()],
        **{kind: [output.of_job(job) for job in found] for kind, found in results.items()},
    }
    config, metrics = run.config, short["metrics"]
    lines = [
        ("title", short["title"]),
        ("tags", ", ".join(short["tags"])),
        ("notes", " ".join(run.about().notes.split())),
        ("folder", str(short["folder"])),
        ("state", f"{_state(short)} at step {short['step']:,} of {short['total_steps']:,}"),
        ("data", f"{config.data.data_dir or 'not known'}{_classes(config.class_names)}"),
        ("images", f"{config.model.image_size} x {config.model.image_size} x {config.model.image_channels}"),
        ("parameters", f"{architecture.parameters(config.model):,}"),
        (
            "metrics",
            ", ".join(f"{name} {formatting.number(metrics[name])}" for name in SHOWN if metrics.get(name) is not None),
        ),
        ("checkpoints", formatting.some([f"{c.step:,} ({', '.join(c.weights)})" for c in reversed(checkpoints)], 5)),
        *((kind, formatting.plural(len(found), "folder")) for kind, found in results.items() if found),
        ("flags", shlex.join(codec.to_flags(config))),
        ("message", short["message"]),
        ("warning", short["warning"] or run.about_problem()),
    ]
    return Output(document, _table([line for line in lines if line[1]]))


def _classes(names: Sequence[str]) -> str:
    """, 3 classes: circle, square, star; empty without classes."""
    return f", {formatting.plural(len(names), 'class', 'classes')}: {formatting.some(names, 10)}" if names else ""


def _export(options: argparse.Namespace) -> Output:
    run = runs.find_run(options.runs_dir, options.name)
    if options.openai:
        from ddpm.interop import export_openai

        notes = export_openai.export_checkpoint(run, options.openai, getattr(options, "step", 0))
        for sentence in notes:
            output.say(sentence, aside=True)
        return Output({"run": run.name, "folder": options.openai.absolute(), "notes": notes}, str(options.openai))
    from ddpm.reports import xlsx

    path = options.xlsx or run.folder / "results.xlsx"
    xlsx.write_xlsx(run, path)
    return Output({"run": run.name, "path": path.absolute()}, str(path))
