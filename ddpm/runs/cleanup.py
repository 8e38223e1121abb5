"""Removes old checkpoints of a run, and says beforehand what that frees."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from ddpm.errors import UserError
from ddpm.runs import in_use, manifests, run_folder
from ddpm.runs.exclusive import guard
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.storage import files


class Plan(NamedTuple):
    """What a clean-up of one run would do."""

    run: Run
    remove: tuple[Checkpoint, ...]  # oldest first
    keep: tuple[Checkpoint, ...]
    bytes: int  # that it frees
    why: Mapping[int, str]  # step -> why a checkpoint that was to be removed stays, as a clause


def plan(run: Run, keep: int = 1, steps: Collection[int] | None = None, *, read_files: bool = False) -> Plan:
    """Plans to remove all checkpoints but the newest `keep`, or, where they are given, those of these `steps`.

    The newest whole checkpoint always stays, so that Resume continues, and so does what another program wrote and what
    another training is about to begin from.  Nothing is removed yet.  read_files: find out by checksums which is whole,
    as `clean` does, and not by the sizes of files alone.  Raises UserError for a step that there is not.
    """
    sets = run.checkpoints()
    if steps is not None and (unknown := set(steps) - {c.step for c in sets}):
        known = ", ".join(str(c.step) for c in sets) or "none"
        raise UserError(
            f"{run.name} has no checkpoint of step {min(unknown)}: choose among {known}.", code="unknown-step"
        )
    wanted = [c for c in sets if c.step in steps] if steps is not None else sets[: max(0, len(sets) - max(keep, 1))]
    why = _why_kept(run, sets, is_whole if read_files else is_there) if wanted else {}
    remove = tuple(c for c in wanted if c.step not in why)
    kept = tuple(c for c in sets if c not in remove)
    refused = {c.step: why[c.step] for c in wanted if c.step in why}
    return Plan(run, remove, kept, sum(map(size, remove)), refused)


def clean(run: Run, keep: int = 1, steps: Collection[int] | None = None) -> Plan:
    """Removes what `plan` lists, for good, and returns the plan that was carried out.

    The newest checkpoint is read first: where it is damaged, the newest whole one stays.  Raises UserError while the
    run is starting, as it then reads its checkpoints, and OSError for the first file that cannot be removed.
    """
    with guard(run.folder.parent):
        state = run.state()
        if state in ("starting", "queued"):
            raise UserError(
                f"{run.name} is {state}, and will read its checkpoints: wait until it trains.", code="still-running"
            )
        found = plan(run, keep, steps, read_files=True)
        for checkpoint in found.remove:
            manifests.remove(checkpoint, checkpoint.files)
    return found


def size(checkpoint: Checkpoint) -> int:
    """Bytes of the files of a checkpoint, as they are on disk."""
    content, total = run_folder.folder_at(checkpoint.folder), 0
    for name in checkpoint.files:
        for path in (Path(name), manifests.errors_path(Path(name))):
            try:
                total += content.stat(path.name).st_size
            except (UserError, OSError):  # not there, or not a file, so nothing that is removed with it
                continue
    return total


def is_there(checkpoint: Checkpoint) -> bool:
    """True if every file of a checkpoint is there, with the size that it was saved with."""
    content = run_folder.folder_at(checkpoint.folder)
    try:
        return all(content.stat(name).st_size == entry["bytes"] for name, entry in checkpoint.files.items())
    except (UserError, OSError):
        return False


def is_whole(checkpoint: Checkpoint) -> bool:
    """True if every file of a checkpoint has the checksum that it was saved with; reads them all."""
    try:
        return is_there(checkpoint) and all(
            files.sha256(checkpoint.folder / name) == entry["sha256"] for name, entry in checkpoint.files.items()
        )
    except (UserError, OSError):
        return False


def _why_kept(run: Run, sets: list[Checkpoint], is_good: Callable[[Checkpoint], bool]) -> dict[int, str]:
    """step -> why that checkpoint has to stay."""
    why = {c.step: "another program wrote it" for c in sets if c.theirs}
    begun = in_use.begun_from(run)
    for checkpoint in sets:
        names = sorted({name for path, names in begun.items() if path.name in checkpoint.files for name in names})
        if names:
            why[checkpoint.step] = f"{names[0]} is about to begin from it"
    newest = next((c for c in reversed(sets) if is_good(c)), None)
    if newest:
        why[newest.step] = "it is the newest that is whole"
    elif sets:
        why |= {c.step: "no checkpoint of the run is whole" for c in sets}
    return why
