"""Checkpoint files: improved-diffusion's three kinds, each describing itself, and what an exact resume needs.

model000500.pt  ema_0.9999_000500.pt    state_dicts; the settings travel in their `_metadata`
opt000500.pt                            AdamW's state_dict
state000500.pt                          random states, position in the data, running means, identities of images
saves/000500.begun                      exists while they are written
saves/000500.json                       manifest, written last: it makes the set valid
"""

import copy
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ddpm.checkpoints import infer_config, variance_file
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
from ddpm.config import codec, validation
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.runs.runs import Checkpoint, Run
from ddpm.storage import files

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
) -> Checkpoint:
    """Saves the set of files of one step.  weights: "model" or "ema_0.9999" -> name -> tensor [...].

    optimizer: None where another program's was lost.  An existing set that can be resumed from is left alone, as is
    another program's; files of one that cannot are kept under another name.  Raises files.DiskFull with earlier sets
    intact.
    """
    there = {c.step: c for c in run.checkpoints()}.get(step)
    if there and (there.theirs or not fault(there)):
        return there
    checkpoint = Checkpoint(run.folder, step, {}, log_bytes, seconds)
    if there:  # invalid before the first of its files is replaced
        begun_path(there).unlink(missing_ok=True)
        manifest_path(there).unlink()
        files.sync_folder(manifest_path(there).parent)
    contents: dict[str, Any] = {
        kind: _described(w, run.config, step, kind, state.get("data")) for kind, w in weights.items()
    }
    contents |= {"state": state} if optimizer is None else {"opt": optimizer, "state": state}
    if not begun_path(checkpoint).exists():
        for kind in contents:
            _set_aside(checkpoint.path(kind))
        files.write_json(begun_path(checkpoint), [checkpoint.path(kind).name for kind in contents])
    for kind, content in contents.items():
        path = checkpoint.path(kind)
        written = files.write(path, lambda file, content=content: torch.save(content, file))  # type: ignore[misc]
        checkpoint.files[path.name] = written._asdict()
    commit(checkpoint)
    begun_path(checkpoint).unlink(missing_ok=True)
    return checkpoint


def _set_aside(path: Path) -> None:
    """Keeps a file without a manifest under a free name, as something may still be recovered from it."""
    if path.exists():
        number = 1
        while (kept := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        files.rename(path, kept)
        log.warning("%s existed already, of a set that cannot be resumed from: it is kept as %s.", path.name, kept.name)


def save_weights(file: Any, weights: Mapping[str, Tensor], config: Config, step: int, kind: str) -> None:
    """Writes one file of weights that holds its settings.  weights: name -> [...], of the network's shapes."""
    torch.save(_described(weights, config, step, kind), file)


def commit(checkpoint: Checkpoint) -> None:
    """Writes the manifest, which makes the set valid."""
    manifest = {k: v for k, v in checkpoint._asdict().items() if k != "folder"}
    files.write_json(manifest_path(checkpoint), manifest)


def manifest_path(checkpoint: Checkpoint) -> Path:
    """Path of the manifest of a set."""
    return checkpoint.folder / "saves" / f"{checkpoint.step:06d}.json"


def begun_path(checkpoint: Checkpoint) -> Path:
    """Path of the file that marks a set as being written."""
    return manifest_path(checkpoint).with_suffix(".begun")


def prune(run: Run, keep: int) -> None:
    """Removes all but the newest `keep` sets, each beginning with its manifest; 0 keeps all.

    Sets that another program wrote are neither removed nor counted.
    """
    ours = [checkpoint for checkpoint in run.checkpoints() if not checkpoint.theirs]
    for old in ours[:-keep] if keep else []:
        manifest_path(old).unlink()
        begun_path(old).unlink(missing_ok=True)
        files.sync_folder(manifest_path(old).parent)
        for name in old.files:
            (run.folder / name).unlink(missing_ok=True)
            variance_file.path_for(run.folder / name).unlink(missing_ok=True)


def damage(checkpoint: Checkpoint, only: str = "") -> str:
    """Describes in a sentence what is wrong with a set, or with the file `only`; empty where every checksum matches."""
    for name, expected in checkpoint.files.items():
        if only not in ("", name):
            continue
        path = checkpoint.folder / name
        try:
            size = path.stat().st_size
            sha256 = files.sha256(path) if size == expected["bytes"] else ""
        except FileNotFoundError:
            return f"{name} of step {checkpoint.step} is missing."
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


def _values(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns every tensor of a network's or an optimiser's state_dict, by name or position."""
    if "param_groups" not in content:
        return dict(content)
    return {
        f"{key} of tensor {number}": value
        for number, entry in content["state"].items()
        for key, value in entry.items()
        if isinstance(value, Tensor)
    }


def with_checkpoint(run: Run, step: int, read: Callable[[Checkpoint], T]) -> T:
    """Returns what `read` returns for the checkpoint of that step, or for the newest where it is 0.

    Where the training removes it meanwhile, the newest is read again.  Raises UserError.
    """
    for _ in range(RETRIES):
        found = run.checkpoint(step)
        for number, sentence in run.manifests()[1].items():
            if number > found.step:
                log.warning("%s Step %d is taken.", sentence, found.step)
        try:
            return read(found)
        except (UserError, OSError):
            if manifest_path(found).exists():
                raise
    raise UserError(
        f"The checkpoint of step {found.step} of {run.name} was removed by its training while it was read:"
        f" {'take the newest, without --step' if step else 'stop the training first'}.",
        code="changed-file",
    )


def newest_intact(run: Run) -> tuple[Checkpoint | None, list[str]]:
    """Returns the newest set that can be resumed from, and what is wrong with later ones and with manifests."""
    sets, unreadable = run.manifests()
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
    content = network_in(value, path)
    check_numbers(content, path)
    about = about_file(content, path)
    if about is None:
        return _with_run_settings(path, dict(content))
    whole = {name: t.float() if t.dtype == torch.float16 else t for name, t in content.items()}  # of the example
    config = codec.from_json(about["config"])
    for problem in validation.network_problems(config):  # before a network of that size is built
        raise UserError(f"In the settings that {path} holds, {problem.sentence}", code=problem.code)
    return Weights(whole, config, about["step"], about["kind"], about.get("data"))


def train_ids_in(state: Mapping[str, Any]) -> np.ndarray | None:
    """Reads the identities of all images ever trained on from a state: uint64 [n]; None where it does not hold them."""
    kept = state.get("learnt")
    return None if kept is None else kept.numpy().view(np.uint64)


def train_ids_at_step(path: Path, step: int) -> np.ndarray | None:
    """Reads the same, uint64 [M], from the state file of a step in the folder of `path`; None where there is none."""
    state = path.with_name(f"state{step:06d}.pt")
    return train_ids_in(read(state)) if state.exists() else None


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
        good = positions == list(range(len(shapes))) and all(tuple(e["exp_avg"].shape) == shapes[k] for k, e in entries)
    except (KeyError, TypeError, AttributeError, IndexError):
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


def fit(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Loads `tensors` (name -> [...]) into `model`.  Raises UserError naming what differs, and flags that fit."""
    compare(model, tensors, source)
    model.load_state_dict(tensors)


def compare(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raises UserError as `fit` does, without loading `tensors` (name -> [...]); `model` may be on the meta device."""
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != found:
        differ = list(dict.fromkeys(n for n in [*wanted, *found] if wanted.get(n) != found.get(n)))
        name, settings = differ[0], getattr(model, "config", None)
        flags = infer_config.fitting_flags(found, settings) if isinstance(settings, ModelConfig) else []
        missing, extra = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
        if not flags and len(differ) == len(missing) + len(extra):
            raise UserError(_more_or_fewer(source, missing, extra), code="wrong-weights")
        others = f" (also {', '.join(differ[1:4])}{', ...' if len(differ) > 4 else ''})" if len(differ) > 1 else ""
        raise UserError(
            f"{source} does not fit these settings: {plural(len(differ), 'tensor differs', 'tensors differ')}, first"
            f" {name}, which is {found.get(name, 'missing')} in the file and {wanted.get(name, 'not expected')}"
            f" here{others}; use {' '.join(flags) or 'the flags that it was trained with'}.",
            code="wrong-weights",
        )


def _more_or_fewer(source: str, missing: list[str], extra: list[str]) -> str:
    """Writes the sentence for shapes that fit and names that do not."""

    def named(names: list[str]) -> str:
        few = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        return f"the tensor {few}" if len(names) == 1 else f"{len(names)} tensors ({few})"

    lacks = f"lacks {named(missing)} of the network that its other tensors describe" if missing else ""
    has = f"holds {named(extra)} that improved-diffusion's U-Net does not have" if extra else ""
    remedy = (
        "take a whole copy"
        if missing
        else (
            "take a file of such a network, or save the tensors without it"
            if len(extra) == 1
            else "take a file of such a network"
        )
    )
    return f"{source} {' and '.join(filter(None, (lacks, has)))}: {remedy}."


def _described(
    weights: Mapping[str, Tensor], config: Config, step: int, kind: str, data: Any = None
) -> "OrderedDict[str, Tensor]":
    content = OrderedDict(weights)
    about = {"config": json.dumps(codec.to_json(config)), "step": step, "kind": kind, "data": data}
    content._metadata = {METADATA: about}  # type: ignore[attr-defined]
    return content
