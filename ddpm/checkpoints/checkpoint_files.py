"""Checkpoint files: improved-diffusion's three kinds, each describing itself, and what an exact resume needs.

model000500.pt  ema_0.9999_000500.pt    state_dicts; the settings travel in their `_metadata`
opt000500.pt                            AdamW's state_dict
state000500.pt                          random states, place in the data, running means, who was ever trained on
saves/000500.begun                      there while they are written
saves/000500.json                       written last: the set counts once this is there
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
from ddpm.checkpoints.weights import FileState, check_numbers, network_in, not_numbers, read, read_hashed
from ddpm.config import codec
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.runs.runs import Checkpoint, Run
from ddpm.storage import files

log = logging.getLogger("ddpm")
T = TypeVar("T")

AGAIN = 10  # times that a checkpoint is taken anew where it goes while it is read
METADATA = "ddpm"  # our entry in a state_dict's _metadata: no module has this name, so no program minds it


class Weights(NamedTuple):
    """A file of weights, read."""

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
    """Commit the set of files of one step.  `weights`: "model" or "ema_0.9999" -> name -> tensor.

    `optimizer` is None where another program's was lost.
    A set that is there already and can be gone on from is left alone, as is another program's; files of one that cannot
    are kept under another name.  Raises files.DiskFull with earlier sets intact.
    """
    there = {c.step: c for c in run.checkpoints()}.get(step)
    if there and (there.theirs or not fault(there)):
        return there
    checkpoint = Checkpoint(run.folder, step, {}, log_bytes, seconds)
    if there:  # its files count no more, before the first of them goes
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
    """Keep a file that nobody vouches for, from which something may still be had, under a name that is free."""
    if path.exists():
        number = 1
        while (kept := path.with_name(f"{path.name}.{number}")).exists():
            number += 1
        files.rename(path, kept)
        log.warning(
            "%s was there already, of a set that cannot be gone on from: it is kept as %s.", path.name, kept.name
        )


def save_weights(file: Any, weights: Mapping[str, Tensor], config: Config, step: int, kind: str) -> None:
    """Write one file of weights that describes itself."""
    torch.save(_described(weights, config, step, kind), file)


def commit(checkpoint: Checkpoint) -> None:
    """Write the manifest: from here on the set counts."""
    manifest = {k: v for k, v in checkpoint._asdict().items() if k != "folder"}
    files.write_json(manifest_path(checkpoint), manifest)


def manifest_path(checkpoint: Checkpoint) -> Path:
    """The file that makes a set of checkpoint files count."""
    return checkpoint.folder / "saves" / f"{checkpoint.step:06d}.json"


def begun_path(checkpoint: Checkpoint) -> Path:
    """What is there while a set is being written: its files without a manifest are of no worth then."""
    return manifest_path(checkpoint).with_suffix(".begun")


def prune(run: Run, keep: int) -> None:
    """Remove all but the newest `keep` sets, each beginning with its manifest.  0 keeps all.

    Sets that another program wrote are not ours to remove, and not counted.
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
    """What is wrong with a committed set, or with that file of it, as a sentence;
    empty when every checksum is right.
    """
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
    """Why a committed set, or that file of it, is not to be gone on from, as a sentence; empty where it is."""
    return damage(checkpoint, only) or _diverged(checkpoint, only)


def _diverged(checkpoint: Checkpoint, only: str = "") -> str:
    """Which file of a set, or of those only that one, holds what is no finite number, as a sentence;
    empty where none does.
    """
    for kind in (*checkpoint.weights, "opt"):
        path = checkpoint.path(kind)
        if path.name not in checkpoint.files or only not in ("", path.name):
            continue
        if wrong := not_numbers(_values(read(path))):
            return f"In {path.name}, {wrong}."
    return ""


def _values(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every tensor of a network's or an optimiser's state_dict, by name or place."""
    if "param_groups" not in content:
        return dict(content)
    return {
        f"{key} of tensor {place}": value
        for place, entry in content["state"].items()
        for key, value in entry.items()
        if isinstance(value, Tensor)
    }


def taken(run: Run, step: int, read: Callable[[Checkpoint], T]) -> T:
    """What `read` makes of the checkpoint of that step, or of the newest where it is 0.

    Where a training removes it meanwhile, as it keeps only so many, the newest is taken again.  Raises UserError.
    """
    for _ in range(AGAIN):
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
    """The newest set that can be gone on from, and what was wrong with those after it and with manifests."""
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
    about = getattr(content, "_metadata", {}).get(METADATA)
    if about is None:
        return _beside_settings(path, dict(content))
    whole = {name: t.float() if t.dtype == torch.float16 else t for name, t in content.items()}  # of the example
    return Weights(whole, codec.from_json(json.loads(about["config"])), about["step"], about["kind"], about.get("data"))


def learnt_in(state: Mapping[str, Any]) -> np.ndarray | None:
    """Who was ever trained on, uint64, by the state of a checkpoint; None where an earlier version,
    or another program, kept nothing.
    """
    kept = state.get("learnt")
    return None if kept is None else kept.numpy().view(np.uint64)


def learnt_beside(path: Path, step: int) -> np.ndarray | None:
    """The same of a file of weights, by the state of its step beside it; None where there is none."""
    state = path.with_name(f"state{step:06d}.pt")
    return learnt_in(read(state)) if state.exists() else None


def optimizer_of(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """AdamW's state_dict, by position in the order of `tensors`.

    improved-diffusion's mixed precision has AdamW work on all tensors as a single flat one, in the same order: such a
    state is taken apart.  Raises UserError when it is not one of these tensors.
    """
    content = read(path)
    shapes = [tuple(t.shape) for t in tensors.values()]
    try:
        content = _taken_apart(content, list(tensors.values()))
        places = [place for group in content["param_groups"] for place in group["params"]]
        entries = content["state"].items()
        good = places == list(range(len(shapes))) and all(tuple(e["exp_avg"].shape) == shapes[k] for k, e in entries)
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


def _taken_apart(content: dict[str, Any], tensors: list[Tensor]) -> dict[str, Any]:
    """AdamW's state_dict with an entry for each tensor, where it has one for all of them, laid end to end."""
    groups, entry, sizes = content["param_groups"], content["state"].get(0), [t.numel() for t in tensors]
    flat = entry and entry["exp_avg"].ndim == 1 and entry["exp_avg"].numel() == sum(sizes)
    if not flat or [group["params"] for group in groups] != [[0]]:
        return content
    parts = {key: value.split(sizes) for key, value in entry.items() if isinstance(value, Tensor) and value.ndim}
    state = {
        place: copy.deepcopy(
            {key: parts[key][place].view_as(t) if key in parts else value for key, value in entry.items()}
        )
        for place, t in enumerate(tensors)
    }
    return {"state": state, "param_groups": [{**groups[0], "params": list(range(len(tensors)))}]}


def _beside_settings(path: Path, tensors: dict[str, Tensor]) -> Weights:
    """Weights of another program, with the settings of the run that its folder became when it was opened in place."""
    run = Run(path.parent)
    if (path.parent / "config.json").exists():
        for checkpoint in run.checkpoints():
            if path.name in checkpoint.files:
                kind = next((k for k in checkpoint.weights if checkpoint.path(k).name == path.name), path.stem)
                return Weights(tensors, run.config, checkpoint.step, kind)
    return Weights(tensors, None, 0, path.stem)


def fit(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load `tensors` into `model`.  Raises UserError that names what differs, and the flags that would fit."""
    compare(model, tensors, source)
    model.load_state_dict(tensors)


def compare(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raises UserError as `fit` does, without loading anything; `model` may be on the meta device."""
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
    """What to say where the shapes fit and some names do not."""

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
