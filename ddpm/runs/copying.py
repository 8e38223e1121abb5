"""Copies of runs to train on: whole, or as they were at a checkpoint."""

import dataclasses
import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ddpm import formatting
from ddpm.errors import UserError
from ddpm.runs import about, in_use, manifests, progress_log, run_names
from ddpm.runs.about import About
from ddpm.runs.jobs import FINAL, Status
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.results import KINDS
from ddpm.runs.runs import Run, publish
from ddpm.storage import files, folders
from ddpm.storage.files import Written
from ddpm.storage.untrusted import Folder

OWN = {
    "run.lock",
    "status.json",
    "control.json",
    "torchrun.json",
    about.NAME,
}  # files that a copy gets anew, or does without
MOST_DEPTH = 4  # folders within folders of a run

Progress = Callable[[int, int], None]


class _Source(NamedTuple):
    """A file to copy."""

    folder: Folder
    name: str
    parts: tuple[str, ...]  # folders in the copy that it goes to
    bytes: int


def copy_run(run: Run, name: str = "", step: int = 0, progress: Progress = lambda done, total: None) -> Run:
    """Copies a run under a new name, and returns the copy, which Resume trains on as it would the run itself.

    name: by default one that is free.  step: copy it as it was at that checkpoint, with its log and previews up to
    there and without results, so that training goes on from there with its whole state, and the run keeps what came
    after; the run may be training meanwhile.  0: copy all that it has, also its results.  progress: called with the
    bytes that are copied, and all there are; what it raises ends the copying.

    Nothing is left behind where it fails.  Raises UserError for a name that is taken, for a damaged checkpoint, where
    the disk has no room, and, if all is copied, while a process works in the run.
    """
    runs_dir = run.folder.parent
    name = name or run_names.free_name(runs_dir, f"{run.name}-{step}" if step else f"{run.name}-copy")
    run_names.check_name(name)
    target = runs_dir / name
    if target.exists():
        raise UserError(f"{target} exists already: choose another name.", code="already-exists")
    checkpoint = run.checkpoint(step) if step else None
    if checkpoint is None:
        in_use.check_idle(run, "copying it")
    sources = list(_sources(run, checkpoint))
    total = sum(source.bytes for source in sources)
    _check_room(runs_dir, total)
    building = files.temporary_path(target)
    try:
        folders.make(building)
        with folders.kept(Folder(building)):  # where another machine sweeps it away, it is not made anew, and half
            _copy_all(sources, building, checkpoint, lambda done: progress(done, total))
        if checkpoint and not checkpoint.manifest_path.exists():
            raise UserError(
                f"The checkpoint of step {step} of {run.name} was removed by its training while it was copied: copy a"
                " newer one, or stop the training first.",
                code="changed-file",
            )
        files.write_json(building / "status.json", dataclasses.asdict(_status(run, checkpoint)))
        files.write_json(building / about.NAME, about.to_json(_about(run, checkpoint)))
        return publish(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def size(run: Run, step: int = 0) -> int:
    """Bytes that `copy_run` would copy."""
    return sum(source.bytes for source in _sources(run, run.checkpoint(step) if step else None))


def _sources(run: Run, checkpoint: Checkpoint | None) -> Iterator[_Source]:
    content = run.content
    if checkpoint is None:
        yield from _below(content, ())
        return
    yield _Source(content, "config.json", (), content.stat("config.json").st_size)
    yield _Source(content.inside("saves"), checkpoint.manifest_path.name, ("saves",), 0)
    for name in checkpoint.files:
        yield _Source(content, name, (), content.stat(name).st_size)
        errors = manifests.errors_path(Path(name)).name
        if content.exists(errors):
            yield _Source(content, errors, (), content.stat(errors).st_size)
    if content.exists("progress.csv"):
        yield _Source(content, "progress.csv", (), min(checkpoint.log_bytes, content.stat("progress.csv").st_size))
    samples = content.inside("samples")
    for number, path in run.previews():
        if number <= checkpoint.step:
            yield _Source(samples, path.name, ("samples",), samples.stat(path.name).st_size)


def _below(folder: Folder, parts: tuple[str, ...]) -> Iterator[_Source]:
    """All files of a run, but for those of its process; those of its results' processes are part of these."""
    for name in folder.files():
        if parts or name not in OWN:
            yield _Source(folder, name, parts, folder.stat(name).st_size)
    for name in folder.folders():
        if len(parts) < MOST_DEPTH and name != "run.lease":
            yield from _below(folder.inside(name), (*parts, name))


def _copy_all(
    sources: list[_Source], building: Path, checkpoint: Checkpoint | None, progress: Callable[[int], None]
) -> None:
    """Copies files into a new folder.  Raises UserError for a file of the checkpoint that is not what was saved."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done)

    for source in sources:
        most = checkpoint.log_bytes if checkpoint and source.name == "progress.csv" else None
        # Thousands of images can be sampled again; flushing each would take longer than copying it.
        durable = not source.parts or source.parts[0] not in (*KINDS, "uploads", "tb")
        with source.folder.open_file(source.name) as file:
            written = _copy(file, building.joinpath(*source.parts, source.name), most, durable, count)
        expected = checkpoint.files.get(source.name) if checkpoint and not source.parts else None
        if expected and (written.bytes, written.sha256) != (expected["bytes"], expected["sha256"]):
            raise UserError(
                f"{source.folder.path / source.name} is not what was saved: choose another checkpoint.",
                code="damaged-checkpoint",
            )


def _copy(
    file: io.BufferedReader, target: Path, most: int | None, durable: bool, count: Callable[[int], None]
) -> Written:
    def save(copied: BinaryIO) -> None:
        left = most
        while (left is None or left > 0) and (block := file.read(2**20 if left is None else min(left, 2**20))):
            copied.write(block)
            count(len(block))
            left = None if left is None else left - len(block)

    return files.write(target, save, durable)


def _check_room(runs_dir: Path, needed: int) -> None:
    free = files.free_bytes(runs_dir)
    if needed > free:
        raise UserError(
            f"The copy takes {formatting.memory(needed)}, and {formatting.memory(free)} are free in {runs_dir}: free"
            " some space first.",
            code="disk-full",
        )


def _status(run: Run, checkpoint: Checkpoint | None) -> Status:
    """The status of the copy: that of a run which was stopped at its checkpoint, or ended as it did."""
    before, total = run.status() or Status("stopped"), run.config.train.total_steps
    now = {"updated_at": time.time(), "pid": 0, "host": "", "boot": "", "start": 0.0, "process_start": 0.0, "beat": 0}
    if checkpoint is None:
        state = before.state if before.state in FINAL else "finished" if run.is_complete() else "stopped"
        return dataclasses.replace(before, state=state, **now)  # type: ignore[arg-type]
    row = progress_log.row_before(run.progress_path, checkpoint.log_bytes)
    state = "finished" if checkpoint.step >= total else "stopped"
    found = Status(state, checkpoint.step, total, saved=checkpoint.step, metrics=row or {}, computed=before.computed)
    return dataclasses.replace(found, **now)  # type: ignore[arg-type]


def _about(run: Run, checkpoint: Checkpoint | None) -> About:
    """What is said of the copy: as of the run, with a title that tells them apart."""
    before = run.about()
    which = f"from step {checkpoint.step:,}" if checkpoint else "copy"
    title = f"{before.title[: about.MOST_TITLE - 30]} ({which})" if before.title else ""
    return dataclasses.replace(before, title=title, star=False, archived=False)
