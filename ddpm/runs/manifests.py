"""Manifests of checkpoints, saves/STEP.json: which files make a set, and their checksums.

Version 2 holds a checksum of itself, of progress.csv up to its step, and of config.json as it was; version 1, which
has no `format`, holds those of the set's files alone.
"""

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.errors import UserError
from ddpm.runs import run_folder
from ddpm.storage import files, untrusted
from ddpm.storage.untrusted import Folder

FORMAT = 2  # of a manifest; raise it when an old version would misread a new one
NAME = re.compile(r"([0-9]{6,18})\.json")  # of a manifest
FILE = re.compile(r"(model|ema_[^/\\\0]+_|opt|state)([0-9]{6,18})\.pt")  # of a set
SHA256 = re.compile(r"[0-9a-f]{64}")
FIRST = {"step", "files", "log_bytes", "seconds", "theirs"}  # keys of version 1
KEYS = {*FIRST, "format", "log_sha256", "config_sha256", "sha256"}


class Checkpoint(NamedTuple):
    """A complete checkpoint: the content of its manifest."""

    folder: Path
    step: int
    files: dict[str, dict[str, Any]]  # name -> {"bytes", "sha256"}
    log_bytes: int  # length of progress.csv at the checkpoint
    seconds: float  # of training up to the checkpoint
    theirs: bool = False  # written by another program, in a folder that was opened in place
    log_sha256: str = ""  # of progress.csv up to log_bytes; empty where it is not known, as in version 1
    config_sha256: str = ""  # of config.json at the checkpoint; likewise

    @property
    def weights(self) -> list[str]:
        """Names of the weights to sample from: model, ema_0.999, ..., averages first."""
        suffix = f"{self.step:06d}.pt"
        names = [n.removesuffix(suffix).rstrip("_") for n in self.files if n.endswith(suffix)]
        return sorted((n for n in names if n.startswith(("ema", "model"))), key=lambda n: n == "model")

    def path(self, weights: str) -> Path:
        """The file of `model` or `ema_0.999` (or `opt`, `state`)."""
        separator = "_" if weights.startswith("ema") else ""
        return self.folder / f"{weights}{separator}{self.step:06d}.pt"

    @property
    def manifest_path(self) -> Path:
        """The manifest, whose existence makes the set valid."""
        return self.folder / "saves" / f"{self.step:06d}.json"

    @property
    def begun_path(self) -> Path:
        """The file that marks a set which is being written, or removed."""
        return self.manifest_path.with_suffix(".begun")


class Manifests(NamedTuple):
    """The manifests in a folder."""

    found: list[Checkpoint]  # oldest first
    wrong: dict[int, str]  # step -> what is wrong with a manifest that cannot be used
    newer: frozenset[int]  # steps among these whose manifest a newer version wrote


def read_all(content: Folder, newest: bool = False) -> Manifests:
    """Reads the manifests of the run in that folder, or the newest alone.  Other files in saves/ are passed over.

    Raises UserError if saves is a link, or anything but a folder.
    """
    saves = content.inside("saves")
    for _ in range(10):
        found, wrong, newer, gone = [], {}, set(), False
        steps = {step: name for name in saves.files(".json") if (step := step_of(name)) is not None}
        for step, name in sorted(steps.items())[-1 if newest else 0 :]:
            try:
                manifest = files.json_in(saves, name, run_folder.MOST_MANIFEST)
                if manifest is None:  # just replaced by a newer one, which may not have been listed
                    gone = True
                    continue
                found.append(_parsed(manifest, content.path, step, saves.path / name))
            except UserError as error:
                wrong[step] = str(error)
                newer |= {step} if error.code == "newer-format" else set()
        if not gone:
            break
    return Manifests(sorted(found, key=lambda c: c.step), wrong, frozenset(newer))


def commit(checkpoint: Checkpoint) -> None:
    """Writes the manifest of a set, in the newest version, which makes the set valid."""
    content = {k: v for k, v in checkpoint._asdict().items() if k != "folder"} | {"format": FORMAT}
    files.write_json(checkpoint.manifest_path, {**content, "sha256": _own_sha256(content)})


def remove(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Removes the files of a set, which counts no more before the first of them goes.

    Raises OSError for the first file that cannot be removed, after all others are.
    """
    with contextlib.suppress(FileNotFoundError):  # not committed yet, or another process is removing it
        files.rename(checkpoint.manifest_path, checkpoint.begun_path)
    paths = [checkpoint.folder / name for name in names]
    files.remove_all([*paths, *map(errors_path, paths)])
    files.remove(checkpoint.begun_path)


def errors_path(weights: Path) -> Path:
    """The file with the errors of the predictions of a file of weights, which the analytic variance needs, if any."""
    return weights.with_name(f"analytic_{weights.stem}.json")


def step_of(name: str) -> int | None:
    """The step of the manifest with that file name; None for another file."""
    match = NAME.fullmatch(name)
    return int(match[1]) if match else None


def is_file_of(name: str, step: int) -> bool:
    """Whether a set of that step may have a file of that name: one path part, as model000500.pt."""
    match = FILE.fullmatch(name)
    return match is not None and int(match[2]) == step and untrusted.is_part(name)


def files_named(content: Any, step: int) -> list[str]:
    """Names of the files of a set that a manifest or a list of them names, whatever else that holds."""
    names = content.get("files") if isinstance(content, dict) else content
    if not isinstance(names, list | dict):
        return []
    return [name for name in names if isinstance(name, str) and is_file_of(name, step)]


def _own_sha256(manifest: Mapping[str, Any]) -> str:
    """Checksum of a manifest but for its own `sha256`, the same however the JSON is laid out."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _parsed(manifest: Any, folder: Path, step: int, path: Path) -> Checkpoint:
    """Parses a manifest.  Raises UserError where it is damaged, or of a newer version."""
    if not isinstance(manifest, dict):
        raise _damaged(path, "it is not a list of the files of a checkpoint")
    number, own = manifest.get("format", 1), manifest.get("sha256")
    if type(number) is int and number > FORMAT and _own_sha256({**manifest, "format": FORMAT}) != own:
        raise UserError(
            f"{path} was written by a newer version (format {number}, and this one reads {FORMAT}): update DDPM"
            " Workbench.",
            code="newer-format",
        )
    if "format" in manifest and own != _own_sha256(manifest):
        raise _damaged(path, "it does not have the checksum it was saved with")
    if set(manifest) - (KEYS if "format" in manifest else FIRST):
        raise _damaged(path, "it holds what no manifest holds")
    if missing := {"step", "files", "log_bytes", "seconds"} - set(manifest):
        raise _damaged(path, f"it has no {min(missing)}")
    found = Checkpoint(folder=folder, **{k: v for k, v in manifest.items() if k in Checkpoint._fields})
    if wrong := _problem(found, step):
        raise _damaged(path, wrong)
    return found


def _problem(found: Checkpoint, step: int) -> str:
    """Says what a manifest lists that it cannot; empty where all is well."""
    if found.step != step or type(found.step) is not int:
        return f"it is of step {found.step}"
    if not isinstance(found.files, dict):
        return "it is not a list of the files of a checkpoint"
    for name, entry in found.files.items():
        if not is_file_of(name, step):
            return f"it lists {name!r}, which is no file of this step"
        if not isinstance(entry, dict) or not _is_count(entry.get("bytes")) or not _is_sha256(entry.get("sha256")):
            return f"it holds no size and checksum of {name}"
    numbers = _is_count(found.log_bytes) and type(found.seconds) in (int, float) and math.isfinite(found.seconds)
    sums = all(value == "" or _is_sha256(value) for value in (found.log_sha256, found.config_sha256))
    return "" if numbers and sums and type(found.theirs) is bool else "some of its values are not of their kind"


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged, as {why}: restore it from a copy, or delete it.", code="damaged-checkpoint")
