"""Says what a file is that was taken for weights, and what to do about it, without executing anything in it."""

import io
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from ddpm.checkpoints import torch_files
from ddpm.checkpoints.torch_files import LEGACY, MAGIC, MOST_PICKLE
from ddpm.errors import UserError
from ddpm.formatting import printable, some
from ddpm.storage import files, pickles, zip_files
from ddpm.storage.pickles import Call, Name

PLAIN = ("builtins", "__builtin__", "_codecs", "copyreg", "copy_reg")  # modules that say nothing about who wrote a file
NO_WORD = re.compile(r"\W")
DAMAGED = "it was cut short or damaged"
ANOTHER = "take another copy, or an earlier checkpoint"
OF_TORCH = (
    "torch",
    "torch._utils",
    "torch._tensor",
    "torch.storage",
    "torch.serialization",
    "torch.nn.parameter",
)  # say nothing either
NETWORK = "name a model or ema file, such as model000500.pt"
STARTS = {  # of files that are taken for checkpoints -> what they are
    b"version https://git-lfs": (
        "it is a pointer of Git LFS to the file, not the file",
        "fetch it with `git lfs pull`",
    ),
    b"<": ("it is a web page, not a checkpoint", "download the file itself"),
    b"\x89HDF": ("it is an HDF5 file, as Keras writes them, not a checkpoint of torch", NETWORK),
    b"\x93NUMPY": ("it is an array of NumPy, not a checkpoint", NETWORK),
}


def is_network(content: Any) -> bool:
    """Returns whether it is a dict of named tensors and nothing else."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) and _is_tensor(value) for key, value in content.items())
    )


def other_than_network(content: Any, path: Path, safe: bool = True) -> tuple[str, str]:
    """Describes what a file holds instead of a state_dict, and what to do.  safe: whether torch reads it as it is."""
    if isinstance(content, Mapping) and not content:
        return "nothing", "the training that wrote it saved an empty dict: take another checkpoint"
    if _has_tensors_and_more(content):
        others = _some([key for key, value in content.items() if not _is_tensor(value)])
        code = f"{{k: v for k, v in {_load(path, safe)}.items() if torch.is_tensor(v)}}"
        return f"{others} next to its tensors", _saved(path, code, "")
    found = dict(_networks(content))
    if found:
        first, *more = found
        also = f", and under {_listed(more)}" if more else ""
        rest = [key for key in content if not any(keys[0] == key for keys in found)]
        others = f" next to {_some(rest)}" if rest else ""
        code = _load(path, safe) + "".join(f"[{json.dumps(key)}]" for key in first)
        return f"a network under {_listed([first])}{also}{others}", _saved(path, code, f"_{first[-1]}")
    if isinstance(content, _Object):
        return "a whole network as a pickled object", _saved(path, f"{_load(path, safe)}.state_dict()", "")
    if isinstance(content, Mapping) and {"state", "param_groups"} <= content.keys():
        return "no network weights but an optimiser's state", "name the model or ema file of the same step"
    what = "a tensor alone" if _is_tensor(content) else type(content).__name__
    what = _some(list(content)) if isinstance(content, Mapping) else what
    return f"no network weights (but {what})", NETWORK


def _saved(path: Path, code: str, ending: str) -> str:
    """Writes the remedy that saves the value of `code` to a file of its own."""
    target = _free(path.with_name(f"{path.stem}{re.sub(NO_WORD, '_', ending)[:40]}_weights.pt"))
    line = f"import torch; torch.save({code}, {_quoted(target)})"
    return f"save that alone with `python -c {shlex.quote(line)}`, and use {target.name}"


def _free(path: Path) -> Path:
    """`path`, or with a number where there is such a file."""
    return next(one for one in files.numbered(path) if not one.exists())


def _quoted(path: Path) -> str:
    """The path as Python has it in double quotes."""
    return json.dumps(str(path), ensure_ascii=False)


def _load(path: Path, safe: bool) -> str:
    return f'torch.load({_quoted(path)}, map_location="cpu", weights_only={safe})'


def _listed(keys: Sequence[tuple[str, ...]]) -> str:
    return _some([".".join(key) for key in keys])


def _some(keys: Sequence[Any]) -> str:
    """Writes the first of the keys of a stranger's dict."""
    return some([printable(str(key))[:80] for key in keys], 6)


def _networks(content: Any, depth: int = 3) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(keys, state_dict) of every one in nested dicts, the likeliest to be a network's first."""
    if isinstance(content, Mapping) and depth:
        for key, value in content.items():
            if isinstance(key, str) and is_network(value):
                yield (key,), value
            elif isinstance(key, str) and key not in ("optimizer", "opt"):
                yield from (((key, *keys), found) for keys, found in _networks(value, depth - 1))


def _has_tensors_and_more(content: Any) -> bool:
    """Returns whether it is a dict of named tensors, with a few other things."""
    if not isinstance(content, Mapping):
        return False
    names = [key for key, value in content.items() if isinstance(key, str) and _is_tensor(value) and "." in key]
    return len(names) > len(content) / 2


def why_unread(path: Path) -> tuple[str, str]:
    """Explains why torch does not read a file, and what to do."""
    with open(path, "rb") as file:
        start = file.read(512)
        if not start:
            return "it is empty", ANOTHER
        for start_bytes, diagnosis in STARTS.items():
            if start.lstrip().startswith(start_bytes):
                return diagnosis
        if start[:2] == b"PK":
            return _why_zip(path)
        if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") < 100_000_000:
            target = _free(path.with_suffix(".pt"))
            line = (
                f"import torch, safetensors.torch; torch.save(safetensors.torch.load_file({_quoted(path)}),"
                f" {_quoted(target)})"
            )
            return (
                "it is a safetensors file, which is not read",
                f"turn it into a checkpoint with `python -c {shlex.quote(line)}` (after `pip install safetensors`)",
            )
        if start[:1] == b"\x80":
            file.seek(0)
            if start.startswith(MAGIC):
                return _why_pickle(path, io.BytesIO(file.read(MOST_PICKLE)), LEGACY)
            return "it is a pickle of Python, but no checkpoint of torch", NETWORK
    return "it is not a checkpoint", ANOTHER


def _why_zip(path: Path) -> tuple[str, str]:
    try:
        with zip_files.opened(path, str(path), ANOTHER) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                return "it is a TorchScript program, not weights", _saved(
                    path, f'torch.jit.load({_quoted(path)}, map_location="cpu").state_dict()', ""
                )
            if any(name.endswith(".npy") for name in names):
                return "it is an .npz of arrays, not a checkpoint", NETWORK
            inner = next((name for name in names if name.endswith("data.pkl")), None)
            if inner is None:
                return "it is a zip archive, not a checkpoint", "unpack it, and name the .pt file in it"
            with archive.open(inner) as file:
                return _why_pickle(path, io.BytesIO(file.read(MOST_PICKLE)), 1)
    except (*zip_files.DAMAGE, UserError):
        return DAMAGED, ANOTHER


def _why_pickle(path: Path, file: IO[bytes], count: int) -> tuple[str, str]:
    """Explains why the last of `count` pickles is not read."""
    try:
        for _ in range(count):
            content = pickles.read(file, MOST_PICKLE)
    except pickles.Unreadable:
        return DAMAGED, ANOTHER
    foreign = list(dict.fromkeys(_foreign(content)))
    if not foreign:
        return DAMAGED, ANOTHER
    what, remedy = other_than_network(_outline(content), path, safe=False)
    objects = ", ".join(printable(name)[:200] for name in foreign[:3]) + (", ..." if len(foreign) > 3 else "")
    return (
        f"it is whole, and holds {what}, with pickled objects of {objects}, which may run code and are not loaded",
        f"where it comes from a source that you trust, {remedy}",
    )


def _foreign(content: Any) -> Iterator[str]:
    """Yields the names in a pickle that are neither tensors nor plain values."""
    for one in torch_files.parts(content):
        match one:
            case Name(module) if module not in (*PLAIN, *OF_TORCH) and one not in torch_files.CALLS:
                yield str(one)
            case Call(Name(module) as function) if module in OF_TORCH and function not in torch_files.CALLS:
                yield str(function)


class _Object:
    """Stands for an object of any class: nothing of it is imported or run."""


class _Stored:
    """Stands for a tensor."""


def _outline(value: Any, depth: int = 5) -> Any:
    """Returns a pickle's dicts, down to a depth, with stand-ins for tensors and objects."""
    if not depth:
        return None
    match value:
        case Call(Name("torch._utils", name)) if name in torch_files.REBUILD:
            return _Stored()
        case Call(Name("collections", "OrderedDict")):
            return {key: _outline(part, depth - 1) for key, part in value.items}
        case Call():
            return _Object()
        case dict():
            return {key: _outline(part, depth - 1) for key, part in value.items()}
    return value


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, _Stored))
