"""`ddpm runs ACTION`: tags, notes, names, copies, the archive, the bin, and old checkpoints of runs."""

import argparse
from collections.abc import Sequence
from typing import Any

from ddpm import formatting
from ddpm.cli import output, shared
from ddpm.cli.output import Output
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.runs import about, cleanup, copying, in_use, renaming, runs, trash
from ddpm.runs.runs import Run
from ddpm.runs.worker import Stopped

MEGABYTE = 2**20

NAMES = (
    "show",
    "tag",
    "note",
    "rename",
    "duplicate",
    "archive",
    "unarchive",
    "delete",
    "restore",
    "bin",
    "empty",
    "clean",
)
"""The actions; a run of such a name is described by `ddpm runs show NAME`."""


def with_action(words: Sequence[str]) -> list[str]:
    """The words of a command line with the action of `ddpm runs` first; that is `show` where a run is named instead."""
    if not words or words[0] != "runs":
        return list(words)
    rest = list(words[1:])
    number = 0
    while number < len(rest) and rest[number].startswith("-"):
        number += 1 if "=" in rest[number] or rest[number] in ("-h", "--help") else 2  # every other flag has a value
    if number >= len(rest):
        return ["runs", *rest]
    return ["runs", rest.pop(number) if rest[number] in NAMES else "show", *rest]


def add(actions: Any) -> None:
    """Adds the actions to the parser of `ddpm runs`."""
    tag = _add(actions, "tag", _tag, "Add tags to runs, or remove some.", "+")
    tag.add_argument(
        "--add", type=about.split_tags, default=[], metavar="TAGS", help="tags to add, with commas between"
    )
    tag.add_argument(
        "--remove", type=about.split_tags, default=[], metavar="TAGS", help="tags to remove, with commas between"
    )

    note = _add(actions, "note", _note, "Set the title, the notes or the star of a run; without flags, show them.")
    note.add_argument("--title", metavar="TEXT", help="shown in place of the name; any characters, empty for none")
    note.add_argument("--notes", metavar="TEXT", help="notes on the run, of any length up to 20,000 characters")
    note.add_argument("--star", type=shared.boolean, metavar="BOOL", help="whether it has a star")

    rename = _add(actions, "rename", _rename, "Rename a run's folder.")
    rename.add_argument("new", metavar="NEW")

    duplicate = _add(
        actions, "duplicate", _duplicate, "Copy a run, whole or as it was at a checkpoint, to train it on."
    )
    duplicate.add_argument("new", metavar="NEW", nargs="?", default="", help="name of the copy (default: a free one)")
    duplicate.add_argument(
        "--at_step",
        type=int,
        default=0,
        metavar="STEP",
        help="as it was at the checkpoint of this step, without results, with all that training goes on from",
    )
    duplicate.add_argument(
        "--job", type=shared.path, metavar="FOLDER", help="folder for the status of this job, which the dashboard shows"
    )

    _add(actions, "archive", _archive, "Leave runs out of the list.", "+")
    _add(actions, "unarchive", _unarchive, "List archived runs again.", "+")
    _add(actions, "delete", _delete, "Move runs to the bin, runs/.trash.", "+")
    restore = _add(actions, "restore", _restore, "Move runs or samples from the bin back to where they were.", "+")
    restore.add_argument("--run", "--name", metavar="NEW", default="", help="restore a run under this name")
    shared.add_command(actions, "bin", _bin, "List what is in the bin, and how large it is.")
    _add(actions, "empty", _empty, "Remove all that is in the bin for good, or what is named.", "*")

    clean = _add(actions, "clean", _clean, "Remove old checkpoints for good; the newest whole one always stays.", "+")
    clean.add_argument("--keep", type=int, default=1, metavar="N", help="newest checkpoints to keep (default: 1)")
    clean.add_argument("--only", type=_steps, metavar="STEPS", help="remove these instead, with commas between")
    clean.add_argument(
        "--dry_run",
        type=shared.boolean,
        default=False,
        metavar="BOOL",
        help="say what would be removed and what that frees, and remove nothing (default: False)",
    )


def _add(actions: Any, name: str, run: Any, help: str, count: str = "") -> argparse.ArgumentParser:
    """Adds an action on one run, or on several."""
    parser = shared.add_command(actions, name, run, help)
    if count:
        parser.add_argument("names", metavar="NAME", nargs=count)
    else:
        parser.add_argument("name", metavar="NAME")
    return parser


def _steps(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


_steps.__name__ = "steps"  # in argparse's error


def _found(options: argparse.Namespace) -> list[Run]:
    """The runs that are named, all of them before anything is done."""
    return [runs.find_run(options.runs_dir, name) for name in dict.fromkeys(options.names)]


def _of(found: Sequence[Run], text: str) -> Output:
    return Output({"runs": [output.of_run(run) for run in found]}, text)


def _tag(options: argparse.Namespace) -> Output:
    found = _found(options)
    for run in found:
        if options.add or options.remove:
            run.describe(add=options.add, remove=options.remove)
    return _of(found, "\n".join(f"{run.name}: {', '.join(run.about().tags) or 'no tags'}" for run in found))


def _note(options: argparse.Namespace) -> Output:
    run = runs.find_run(options.runs_dir, options.name)
    changes = {"title": options.title, "notes": options.notes, "star": options.star}
    if any(value is not None for value in changes.values()):
        run.describe(**changes)
    said = run.read_about()
    lines = [f"{run.name}{' (starred)' if said.star else ''}", said.title, said.notes]
    return Output({**output.of_run(run), "notes": said.notes}, "\n".join(filter(None, lines)))


def _rename(options: argparse.Namespace) -> Output:
    run = renaming.rename_run(runs.find_run(options.runs_dir, options.name), options.new)
    return Output(output.of_run(run), f"{options.name} is now called {run.name}.")


def _duplicate(options: argparse.Namespace) -> Output:
    run = runs.find_run(options.runs_dir, options.name)
    with shared.status_of(options.job) as worker:

        def progress(done: int, total: int) -> None:
            if worker:
                worker.beat(step=done // MEGABYTE, total_steps=-(-total // MEGABYTE))
                if "stop" in worker.poll_requests():
                    raise Stopped

        copy = copying.copy_run(run, options.new, options.at_step, progress)
    further = f"`{copy.shell('train', '--resume')}` trains it on"
    if copy.is_complete():
        further = f"`{copy.further_command(2 * copy.config.train.total_steps)}` trains it further"
    return Output(output.of_run(copy), f"{copy.name} is a copy of {run.name}: {further}.")


def _archive(options: argparse.Namespace) -> Output:
    return _set_archived(options, True)


def _unarchive(options: argparse.Namespace) -> Output:
    return _set_archived(options, False)


def _set_archived(options: argparse.Namespace, archived: bool) -> Output:
    found = _found(options)
    for run in found:
        run.describe(archived=archived)
    return _of(found, f"{plural(len(found), 'run')} {'archived' if archived else 'taken out of the archive'}.")


def _delete(options: argparse.Namespace) -> Output:
    found = _found(options)
    for run in found:
        in_use.check_idle(run, "deleting it")
    moved = [{"run": run.name, "folder": trash.trash_run(run).absolute()} for run in found]
    names = ", ".join(run.name for run in found)
    return Output({"deleted": moved}, f"Moved to the bin: {names}. {found[0].shell('runs', 'restore')} restores it.")


def _restore(options: argparse.Namespace) -> Output:
    entries = [trash.find(options.runs_dir, name) for name in options.names]
    if options.run and len(entries) > 1:
        raise UserError(
            "--run gives one run another name, but several are named: restore them one by one.", code="usage"
        )
    restored = [trash.restore(entry.folder, options.run).absolute() for entry in entries]
    return Output({"restored": restored}, "\n".join(map(str, restored)))


def _bin(options: argparse.Namespace) -> Output:
    rows, document, total = [], [], 0
    for entry in trash.entries(options.runs_dir):
        size, origin = entry.bytes, entry.origin
        total += size
        when = formatting.clock(origin.deleted_at) if origin and origin.deleted_at else ""
        rows.append([entry.name, entry.label, formatting.memory(size), when])
        document.append(
            {
                "name": entry.name,
                "run": origin.run if origin else None,
                "samples": (origin.samples or None) if origin else None,
                "deleted_at": (origin.deleted_at or None) if origin else None,
                "bytes": size,
            }
        )
    text = formatting.table(["in the bin", "was", "size", "deleted"], rows) if rows else "The bin is empty."
    summary = f"\n{plural(len(rows), 'folder')}, {formatting.memory(total)}" if rows else ""
    where = (options.runs_dir / trash.FOLDER).absolute()
    return Output({"folder": where, "entries": document, "bytes": total}, text + summary)


def _empty(options: argparse.Namespace) -> Output:
    there = {entry.name for entry in trash.entries(options.runs_dir)}
    names = [name if name in there else trash.find(options.runs_dir, name).name for name in options.names]
    freed = trash.empty(options.runs_dir, names or None)
    return Output({"bytes": freed}, f"{formatting.memory(freed)} freed.")


def _clean(options: argparse.Namespace) -> Output:
    work = cleanup.plan if options.dry_run else cleanup.clean
    found = _found(options)
    for run in found:  # an unknown step is found before anything is removed
        cleanup.plan(run, options.keep, options.only)
    plans = [work(run, options.keep, options.only) for run in found]
    lines = []
    for plan in plans:
        steps = formatting.some([f"{c.step:,}" for c in plan.remove], 10)
        what = f"steps {steps}, {formatting.memory(plan.bytes)}" if steps else "nothing to remove"
        kept = "".join(f"; {step:,} stays, as {why}" for step, why in plan.why.items())
        lines.append(f"{plan.run.name}: {what}{kept}")
    total = sum(plan.bytes for plan in plans)
    lines.append(f"{formatting.memory(total)} {'would be freed' if options.dry_run else 'freed'}.")
    document = [
        {
            "run": plan.run.name,
            "removed": [c.step for c in plan.remove],
            "kept": [c.step for c in plan.keep],
            "why": plan.why,
            "bytes": plan.bytes,
        }
        for plan in plans
    ]
    return Output({"dry_run": options.dry_run, "runs": document, "bytes": total}, "\n".join(lines))
