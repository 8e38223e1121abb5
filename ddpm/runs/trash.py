"""runs/.trash: deleted runs and samples, which can be restored until the bin is emptied.

Each is a folder there as it was, byte for byte; .trash/.index.json says where it came from.
"""

import contextlib
import math
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from ddpm.config import records
from ddpm.config.records import Seconds
from ddpm.errors import UserError
from ddpm.runs import in_use, run_names
from ddpm.runs.exclusive import guard
from ddpm.runs.jobs import Job
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import files, folders, untrusted

FOLDER = ".trash"
INDEX = ".index.json"
MOST_INDEX = 2**24
SAMPLES = re.compile(r"(.+)-samples-([0-9]{8}-[0-9]{6}(?:-[0-9]+)?)", re.DOTALL)  # names in bins of earlier versions

Name = Annotated[str, Meta(max_length=255)]


@dataclass(frozen=True)
class Origin:
    """Where a folder in the bin came from."""

    run: Name  # name of the run that it is, or whose samples it is
    samples: Name = ""  # name of the samples; empty for a run
    deleted_at: Seconds = 0.0


@dataclass(frozen=True)
class _Index:
    """Content of .index.json: folder in the bin -> where it came from."""

    entries: Annotated[dict[Name, Origin], Meta(max_length=10**5)] = field(default_factory=dict)


@dataclass(frozen=True)
class Deleted:
    """A folder in the bin."""

    folder: Path
    origin: Origin | None  # None for one that something else put there

    @property
    def name(self) -> str:
        """Its name in the bin."""
        return self.folder.name

    @property
    def label(self) -> str:
        """What it was called."""
        if self.origin is None:
            return self.name
        return f"{self.origin.run}/samples/{self.origin.samples}" if self.origin.samples else self.origin.run

    @property
    def bytes(self) -> int:
        """Size on disk of what would be freed: nothing of the folder that a link leads to."""
        return 0 if self.folder.is_symlink() else folders.size(self.folder)


def trash_run(run: Run) -> Path:
    """Moves a run to runs/.trash and returns its new path, for `restore`.

    Raises UserError while a process works in it, or in a result of it.
    """
    return _trash(run, run.folder.parent, run.name, Origin(run.name, deleted_at=time.time()))


def trash_samples(job: SampleJob) -> Path:
    """Moves samples of a run to runs/.trash and returns their new path, for `restore`.

    Raises UserError if they are being sampled.
    """
    run = job.folder.parent.parent
    return _trash(job, run.parent, f"{run.name}-samples-{job.name}", Origin(run.name, job.name, time.time()))


def _trash(job: Job, runs_dir: Path, name: str, origin: Origin) -> Path:
    bin_folder = runs_dir / FOLDER
    with guard(job.folder.parent):
        if not job.folder.is_dir():
            raise UserError(f"{job.folder} no longer exists: look for it in {bin_folder}.", code="not-found")
        in_use.check_idle(job, "deleting it")
        folders.make(bin_folder)
        _check(bin_folder)
        with guard(bin_folder):
            target = bin_folder / run_names.untaken(bin_folder, name)
            there = {key: entry for key, entry in _index(bin_folder).items() if os.path.lexists(bin_folder / key)}
            _write_index(bin_folder, {**there, target.name: origin})
            in_use.move(job.folder, target, "moved away")
    return target


def entries(runs_dir: Path) -> list[Deleted]:
    """What is in the bin of a folder of runs, deleted last first; nothing where the bin is a link to another folder."""
    bin_folder = runs_dir / FOLDER
    try:
        _check(bin_folder)
        names = [name for name in os.listdir(bin_folder) if run_names.is_name(name)]
    except (UserError, OSError):
        return []
    index = _index(bin_folder)
    found = [_entry(bin_folder / name, index) for name in sorted(names) if (bin_folder / name).is_dir()]
    return sorted(found, key=lambda entry: entry.origin.deleted_at if entry.origin else 0.0, reverse=True)


def find(runs_dir: Path, name: str) -> Deleted:
    """Of the entry of the bin with that name, and those of the run with that name, the one that was deleted last.

    Raises UserError if there is none.
    """
    found = entries(runs_dir)
    exact = [entry for entry in found if entry.name == name]
    of_run = [entry for entry in found if entry.origin and (entry.origin.run, entry.origin.samples) == (name, "")]
    if exact or of_run:
        return max(exact + of_run, key=lambda entry: entry.origin.deleted_at if entry.origin else 0.0)
    there = ", ".join(entry.name for entry in found[:5]) or "nothing"
    raise UserError(f"There is no {name!r} in {runs_dir / FOLDER}: it holds {there}.", code="not-found")


def restore(trashed: Path, name: str = "") -> Path:
    """Moves a run or samples from the bin back to where they were, and returns the folder there.

    name: restore a run under this name.  Raises UserError if the place is taken, the run of the samples is not there,
    or nobody knows where it came from.
    """
    bin_folder, runs_dir = trashed.parent, trashed.parent.parent
    with guard(runs_dir), guard(bin_folder):
        if not trashed.is_dir():
            raise UserError(f"{trashed} is not in the bin any more: it was restored, or removed.", code="not-found")
        index = _index(bin_folder)
        target = _place(_entry(trashed, index), runs_dir, name)
        if os.path.lexists(target):
            raise UserError(
                f"{target} exists already: restore it under another name, or move that one away.",
                code="already-exists",
            )
        if target.parent != runs_dir:
            Run(target.parent.parent).content.inside(target.parent.name).make()  # raises UserError if it is a link
        in_use.move(trashed, target, "moved back", f"look for it in {bin_folder}")
        was = index.pop(trashed.name, None)
        if was and not was.samples and target.name != was.run:
            index = _followed(index, was.run, target.name, was.deleted_at)
        _write_index(bin_folder, index)
    return target


def follow(runs_dir: Path, old: str, new: str) -> None:
    """Has samples in the bin go back to the run `old` under its name from now on, `new`."""
    bin_folder = runs_dir / FOLDER
    if not bin_folder.is_dir():
        return
    _check(bin_folder)
    with guard(bin_folder):
        before = _index(bin_folder)
        if (after := _followed(before, old, new)) != before:
            _write_index(bin_folder, after)


def _followed(index: dict[str, Origin], old: str, new: str, until: float = math.inf) -> dict[str, Origin]:
    """The index with samples of the run `old` belonging to `new`.

    until: when that run was deleted, if it was.  Samples of runs that had that name before, and were deleted, stay
    with these.
    """
    runs_before = [one.deleted_at for one in index.values() if one.run == old and not one.samples]
    since = max((deleted for deleted in runs_before if deleted < until), default=-1.0)
    return {
        key: replace(origin, run=new)
        if origin.run == old and origin.samples and since < origin.deleted_at <= until
        else origin
        for key, origin in index.items()
    }


def empty(runs_dir: Path, names: list[str] | None = None) -> int:
    """Removes what is in the bin for good, or the entries of these names; returns the bytes that were freed.

    Links are removed, and not what they lead to.  Raises OSError for the first that cannot be removed, after the
    others are.
    """
    bin_folder, freed, errors = runs_dir / FOLDER, 0, list[OSError]()
    if not bin_folder.is_dir():
        return 0
    _check(bin_folder)
    with guard(bin_folder):
        index = _index(bin_folder)
        for entry in entries(runs_dir):
            if names is not None and entry.name not in names:
                continue
            size = entry.bytes
            try:
                entry.folder.unlink() if entry.folder.is_symlink() else shutil.rmtree(entry.folder)
            except OSError as error:
                errors.append(error)
                continue
            freed += size
            index.pop(entry.name, None)
        _write_index(bin_folder, index)
    if errors:
        raise errors[0]
    return freed


def _check(bin_folder: Path) -> None:
    """Raises UserError if the bin is a link: what it leads to is somebody's folder.  Raises FileNotFoundError."""
    untrusted.Folder(bin_folder).check()


def _place(entry: Deleted, runs_dir: Path, name: str) -> Path:
    """Where an entry goes back to.  Raises UserError."""
    origin = entry.origin
    if origin is None or (origin.samples and name):
        why = "samples go back to their run" if origin else "nobody knows where it came from"
        raise UserError(f"{entry.name}: {why}, so move {entry.folder} by hand.", code="not-applicable")
    if not origin.samples:
        if name:
            run_names.check_name(name)
        return runs_dir / (name or origin.run)
    if not (runs_dir / origin.run / "config.json").exists():
        raise UserError(f"The run {origin.run} of these samples is not there: restore it first.", code="not-found")
    return runs_dir / origin.run / "samples" / origin.samples


def _entry(folder: Path, index: dict[str, Origin]) -> Deleted:
    """An entry of the bin; of one that the index does not have, as in an earlier version, the name says what it is."""
    if folder.name in index:
        return Deleted(folder, index[folder.name])
    if os.path.lexists(folder / "config.json"):
        return Deleted(folder, Origin(folder.name))
    match = SAMPLES.fullmatch(folder.name)
    return Deleted(folder, Origin(match[1], match[2]) if match else None)


def _index(bin_folder: Path) -> dict[str, Origin]:
    """Where the folders in the bin came from; empty where the index is lost or damaged."""
    with contextlib.suppress(UserError, OSError):
        data = files.json_in(untrusted.Folder(bin_folder), INDEX, MOST_INDEX)
        if data is not None:
            found = records.read(_Index, data, str(bin_folder / INDEX)).entries
            return {name: origin for name, origin in found.items() if _is_good(origin)}
    return {}


def _is_good(origin: Origin) -> bool:
    """True unless a name leads elsewhere."""
    return run_names.is_name(origin.run) and (not origin.samples or run_names.is_name(origin.samples))


def _write_index(bin_folder: Path, index: dict[str, Origin]) -> None:
    files.write_json(bin_folder / INDEX, {"entries": {name: asdict(origin) for name, origin in index.items()}})
