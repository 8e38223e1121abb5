"""Checkpoint files: improved-diffusion's three kinds, each describing itself, and what an exact resume needs.

model000500.pt  ema_0.9999_000500.pt    state_dicts; the settings travel in their `_metadata`
opt000500.pt                            AdamW's state_dict
state000500.pt                          random states, position in the data, running means, identities of images
saves/000500.begun                      exists while they are written or removed
saves/000500.json                       manifest, written last: it makes the set valid
"""

import contextlib
import copy
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ddpm.checkpoints import eight_bits
from ddpm.checkpoints.weights import (
    METADATA,
    FileState,
    about_file,
    check_numbers,
    network_in,
    not_numbers,
    read,
    read_hashed,
)
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.planning import architecture
from ddpm.runs import manifests, run_folder
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.storage import files, flushing

log = logging.getLogger("ddpm")
T = TypeVar("T")

RETRIES = 10  # where a checkpoint is removed while it is read


class Weights(NamedTuple):
    """Content of a file of weights."""

    tensors: dict[str, Tensor]
    config: Config | None  # None in a file that another program wrote, unless its folder was opened in place
    step: int
    kind: str  # "model", or "ema_0.9999"
    data: dict[str, Any] | None = None  # the digest of what it was trained on; None in a file of an earlier version


def save(
    run: Run,
    step: int,
    weights: Mapping[str, Mapping[str, Tensor]],
    optimizer: Mapping[str, Any] | None,
    state: Mapping[str, Any],
    log_bytes: int,
    seconds: float,
    log_sha256: str = "",
) -> Checkpoint:
    """Saves the set of files of one step.  weights: "model" or "ema_0.9999" -> name -> tensor [...].

    optimizer: None where another program's was lost.  log_bytes, log_sha256: of progress.csv as it is on disk.  An
    existing set that can be resumed from is left alone, as is another program's; files of one that cannot are kept
    under another name.  Raises UserError for values that are not finite before anything is written, and
    files.DiskFull or OSError with earlier sets intact and nothing left of this one.
    """
    there = {c.step: c for c in run.checkpoints()}.get(step)
    if there and (there.theirs or not (wrong := fault(there))):
        return there
    _judge(run, step, weights, optimizer)
    run.content.inside("saves").make()  # raises UserError if it is a link
    config = run.folder / "config.json"
    known = files.sha256(config) if config.exists() else ""
    checkpoint = Checkpoint(run.folder, step, {}, log_bytes, seconds, log_sha256=log_sha256, config_sha256=known)
    if there:  # invalid before the first of its files is replaced
        log.warning("%s The checkpoint of step %d is written anew.", wrong, step)
        files.remove(checkpoint.begun_path)
        files.remove(checkpoint.manifest_path)
        flushing.sync_folder(checkpoint.manifest_path.parent)
    contents: dict[str, Any] = {
        kind: described(w, run.config, step, kind, state.get("data")) for kind, w in weights.items()
    }
    contents |= {"state": state} if optimizer is None else {"opt": optimizer, "state": state}
    names = [checkpoint.path(kind).name for kind in contents]
    if not checkpoint.begun_path.exists():
        for kind in contents:
            set_aside(checkpoint.path(kind))
        files.write_json(checkpoint.begun_path, names)
    try:
        for kind, content in contents.items():
            path = checkpoint.path(kind)
            written = files.write(path, lambda file, content=content: torch.save(content, file))  # type: ignore[misc]
            checkpoint.files[path.name] = written._asdict()
        manifests.commit(checkpoint)
    except (UserError, OSError):
        manifests.remove(checkpoint, names)  # a part of a set is of no use, and takes room on a disk that may be full
        raise
    files.remove(checkpoint.begun_path)
    return checkpoint


def _judge(
    run: Run, step: int, weights: Mapping[str, Mapping[str, Tensor]], optimizer: Mapping[str, Any] | None
) -> None:
    """Raises UserError where weights, averages or moments are not finite: nobody could go on from such a set."""
    for kind, values in {**weights, **({} if optimizer is None else {"opt": _values(optimizer)})}.items():
        if wrong := not_numbers(values):
            saved = [c.step for c in run.checkpoints()]
            kept = f"the checkpoint of step {saved[-1]} is intact" if saved else "nothing was saved before it"
            what = {"model": "the weights", "opt": "the optimiser's moments"}.get(kind, f"the average {kind}")
            raise UserError(
                f"At step {step}, {wrong} of {what}, so it was not saved; {kept}: resume the run, and where it happens"
                " again, start a new run with a lower lr, or with grad_clip 1.",
                code="diverged",
            )


def set_aside(path: Path) -> None:
    """Keeps a file that cannot be used under a free name, as something may still be recovered from it."""
    if path.exists():
        number = 1
        while (kept := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        files.rename(path, kept)
        log.warning("%s existed already, and cannot be used: it is kept as %s.", path.name, kept.name)


def save_weights(file: Any, weights: Mapping[str, Tensor], config: Config, step: int, kind: str) -> None:
    """Writes one file of weights that holds its settings.  weights: name -> [...], of the network's shapes."""
    torch.save(described(weights, config, step, kind), file)


def prune(run: Run, keep: int, bad: Collection[int] = (), needed: Collection[Path] = ()) -> None:
    """Removes all sets before the newest `keep` good ones; 0 keeps all, and so is a set with a file that is `needed`.

    bad: steps of sets that are known not to be whole, which do not count.  Neither do sets that another program wrote,
    which are never removed.  Raises OSError for the first file that cannot be removed, after all others are.
    """
    ours = [checkpoint for checkpoint in run.checkpoints() if not checkpoint.theirs]
    good = [checkpoint.step for checkpoint in ours if checkpoint.step not in bad]
    for old in ours if keep and good else []:
        if old.step < good[-keep:][0] and not any(run.folder.absolute() / name in needed for name in old.files):
            manifests.remove(old, old.files)


def sweep_unfinished(run: Run) -> None:
    """Removes what a killed process left of a set that it was writing or removing; call it where another set is whole.

    Its step is done again, or was done with.
    """
    for begun in run.folder.glob("saves/*.begun"):
        manifest, step = begun.with_suffix(".json"), manifests.step_of(begun.with_suffix(".json").name)
        if step is not None and manifest.exists():  # it was written whole
            files.remove(begun)
        if step is None or manifest.exists():
            continue
        with contextlib.suppress(UserError):  # damaged, so that nobody knows what it lists
            content = files.json_in(run.content.inside("saves"), begun.name, run_folder.MOST_MANIFEST)
            manifests.remove(Checkpoint(run.folder, step, {}, 0, 0.0), manifests.files_named(content, step))


def damage(checkpoint: Checkpoint, only: str = "") -> str:
    """Describes in a sentence what is wrong with a set, or with the file `only`; empty where every checksum matches."""
    content = run_folder.folder_at(checkpoint.folder)
    for name, expected in checkpoint.files.items():
        if only not in ("", name):
            continue
        try:
            size = content.stat(name).st_size
            sha256 = files.sha256(checkpoint.folder / name) if size == expected["bytes"] else ""
        except FileNotFoundError:
            return f"{name} of step {checkpoint.step} is missing."
        except UserError as error:  # a link, say
            return str(error)
        if wrong := mismatch(checkpoint, name, size, sha256):
            return wrong
    return ""


def mismatch(checkpoint: Checkpoint, name: str, size: int, sha256: str) -> str:
    """Says how a file differs from what was committed under its name, in a sentence; empty where it does not."""
    expected = checkpoint.files[name]
    if size != expected["bytes"]:
        return f"{name} has {plural(size, 'byte')} instead of {expected['bytes']}: it was cut short."
    if sha256 != expected["sha256"]:
        return f"{name} does not have the checksum it was saved with: its content was changed."
    return ""


def log_damage(checkpoint: Checkpoint) -> str:
    """Says in a sentence how progress.csv is not what it was at a checkpoint, up to that step; empty where it is."""
    path, expected = checkpoint.folder / "progress.csv", checkpoint.log_bytes
    try:
        size = run_folder.folder_at(checkpoint.folder).stat(path.name).st_size
        sha256 = files.sha256(path, expected) if checkpoint.log_sha256 else ""
    except FileNotFoundError:
        size, sha256 = 0, ""
    except UserError as error:  # a link, say
        return str(error)
    if size < expected:
        return f"{path} has {plural(size, 'byte')}, and had {expected} at step {checkpoint.step}: lines of it are lost."
    if sha256 != checkpoint.log_sha256:
        return f"{path} is not what it was at step {checkpoint.step}: lines of it were changed."
    return ""


def fault(checkpoint: Checkpoint, only: str = "") -> str:
    """Describes in a sentence why a set, or the file `only`, cannot be resumed from; empty where it can."""
    return damage(checkpoint, only) or _diverged(checkpoint, only)


def _diverged(checkpoint: Checkpoint, only: str = "") -> str:
    """Names in a sentence a file of a set, or the file `only`, with values that are not finite.

    Empty where there is none.
    """
    for kind in (*checkpoint.weights, "opt"):
        path = checkpoint.path(kind)
        if path.name not in checkpoint.files or only not in ("", path.name):
            continue
        if wrong := not_numbers(_values(read(path))):
            return f"In {path.name}, {wrong}."
    return ""


def _values(content: Any) -> dict[str, Tensor]:
    """Returns every tensor of a network's or an optimiser's state_dict, by name or position; none of anything else."""
    if not isinstance(content, Mapping):
        return {}
    found = content
    if isinstance(content.get("state"), Mapping):
        entries = [(number, entry) for number, entry in content["state"].items() if isinstance(entry, Mapping)]
        found = {f"{key} of tensor {number}": value for number, entry in entries for key, value in entry.items()}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def with_checkpoint(run: Run, step: int, read: Callable[[Checkpoint], T]) -> T:
    """Returns what `read` returns for the checkpoint of that step, or for the newest where it is 0.

    Where the training removes it meanwhile, the newest is read again.  Raises UserError.
    """
    for _ in range(RETRIES):
        found = run.checkpoint(step)
        for number, sentence in run.manifests().wrong.items():
            if number > found.step:
                log.warning("%s Step %d is taken.", sentence, found.step)
        try:
            return read(found)
        except (UserError, OSError):
            if found.manifest_path.exists():
                raise
    raise UserError(
        f"The checkpoint of step {found.step} of {run.name} was removed by its training while it was read:"
        f" {'take the newest, without --step' if step else 'stop the training first'}.",
        code="changed-file",
    )


def newest_intact(run: Run) -> tuple[Checkpoint | None, list[str]]:
    """Returns the newest set that can be resumed from, and what is wrong with later ones and with manifests."""
    sets, unreadable, _ = run.manifests()
    wrong = list(unreadable.values())
    for checkpoint in reversed(sets):
        sentence = fault(checkpoint)
        if not sentence:
            return checkpoint, wrong
        wrong.append(sentence)
    return None, wrong


def load_weights(path: Path) -> Weights:
    """Reads weights and the settings they were trained with.  Raises UserError for anything else, and for NaN."""
    return _weights_in(read(path), path)


class LoadedCheckpoint(NamedTuple):
    """A file of weights, read and hashed in one go."""

    weights: Weights
    sha256: str
    state: FileState


def load_checkpoint(path: Path, check: Callable[[str, int], None] | None = None) -> LoadedCheckpoint:
    """Reads weights as `load_weights` does, and hashes the bytes that were read.

    check: called with checksum and size before anything is decoded.
    """
    content = read_hashed(path, check)
    return LoadedCheckpoint(_weights_in(content.value, path), content.sha256, content.state)


def _weights_in(value: Any, path: Path) -> Weights:
    content = network_in(eight_bits.unpack(value), path)
    check_numbers(content, path)
    about = about_file(content, path)
    if about is None:
        return _with_run_settings(path, dict(content))
    config = about["config"]
    whole = dict(content)
    if sum(t.numel() for t in whole.values()) <= architecture.parameters(config.model):  # else `compare` refuses them
        whole = {name: t.float() if t.dtype == torch.float16 else t for name, t in whole.items()}  # of the example
    return Weights(whole, config, about["step"], about["kind"], about.get("data"))


def train_ids_in(state: Any) -> np.ndarray | None:
    """Reads the identities of all images ever trained on from a state: uint64 [n]; None where it does not hold them."""
    kept = state.get("learnt") if isinstance(state, Mapping) else None
    return kept.numpy().view(np.uint64) if isinstance(kept, Tensor) and kept.dtype == torch.int64 else None


def train_ids_at_step(path: Path, step: int) -> np.ndarray | None:
    """Reads the same, uint64 [M], from the state file of a step in the folder of `path`; None where there is none."""
    state = path.with_name(f"state{step:06d}.pt")
    return train_ids_in(read(state)) if state.exists() else None


OF_A_GROUP = ("lr", "weight_decay")  # settings of AdamW that its state_dict has for each group


def optimizer_of(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Reads AdamW's state_dict, by position in the order of `tensors`: name -> [...].

    improved-diffusion's mixed precision keeps the state of all tensors as a single flat one, in the same order,
    which is split.  Raises UserError where the state does not belong to these tensors.
    """
    content = read(path)
    shapes = [tuple(t.shape) for t in tensors.values()]
    try:
        content = _split(content, list(tensors.values()))
        positions = [k for group in content["param_groups"] for k in group["params"]]
        entries = content["state"].items()
        good = positions == list(range(len(shapes))) and all(
            tuple(e[moment].shape) == shapes[k] and float(e["step"]) >= 0
            for k, e in entries
            for moment in ("exp_avg", "exp_avg_sq")
        )
        good = good and all(float(group[name]) >= 0 for group in content["param_groups"] for name in OF_A_GROUP)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        good = False
    if not good:
        raise UserError(
            f"{path} is not AdamW's state of these {plural(len(shapes), 'tensor')}: take the opt file of the same"
            " training and step, or move it away.",
            code="wrong-optimizer",
        )
    if wrong := not_numbers(_values(content)):
        raise UserError(
            f"In {path}, {wrong}: take an earlier checkpoint, or move it away, so that a new optimiser begins.",
            code="damaged-checkpoint",
        )
    return content


def _split(content: dict[str, Any], tensors: list[Tensor]) -> dict[str, Any]:
    """Splits a state_dict that has one flat entry for all tensors into one entry for each."""
    groups, entry, sizes = content["param_groups"], content["state"].get(0), [t.numel() for t in tensors]
    flat = entry and entry["exp_avg"].ndim == 1 and entry["exp_avg"].numel() == sum(sizes)
    if not flat or [group["params"] for group in groups] != [[0]]:
        return content
    parts = {key: value.split(sizes) for key, value in entry.items() if isinstance(value, Tensor) and value.ndim}
    state = {
        number: copy.deepcopy(
            {key: parts[key][number].view_as(t) if key in parts else value for key, value in entry.items()}
        )
        for number, t in enumerate(tensors)
    }
    return {"state": state, "param_groups": [{**groups[0], "params": list(range(len(tensors)))}]}


def _with_run_settings(path: Path, tensors: dict[str, Tensor]) -> Weights:
    """Returns another program's weights, with the settings of the run that its folder became, if any."""
    run = Run(path.parent)
    if (path.parent / "config.json").exists():
        for checkpoint in run.checkpoints():
            if path.name in checkpoint.files:
                kind = next((k for k in checkpoint.weights if checkpoint.path(k).name == path.name), path.stem)
                return Weights(tensors, run.config, checkpoint.step, kind)
    return Weights(tensors, None, 0, path.stem)


def described(
    weights: Mapping[str, Tensor], config: Config, step: int, kind: str, data: Any = None
) -> "OrderedDict[str, Tensor]":
    """The content of a file of weights, name -> [...], with what they are in its `_metadata`."""
    content = OrderedDict(weights)
    about = {"config": json.dumps(codec.to_json(config)), "step": step, "kind": kind, "data": data}
    content._metadata = {METADATA: about}  # type: ignore[attr-defined]
    return content
