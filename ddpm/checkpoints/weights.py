"""Files of weights from any program: read without executing anything they contain, or diagnosed in a sentence."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shlex
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.storage import files

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin
LEGACY = 4  # pickles in them; the last of them is the content
PLAIN = ("builtins", "__builtin__", "_codecs", "copyreg", "copy_reg")  # modules that say nothing about who wrote a file
DAMAGED = "it was cut short or damaged"
ANOTHER = "take another copy, or an earlier checkpoint"
NO_MEMORY = ("can't allocate memory", "not enough memory")  # of torch's errors
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


class FileState(NamedTuple):
    """A file that was read, by which a change is noticed without reading it again."""

    device: int
    inode: int
    bytes: int
    modified: int  # nanoseconds

    @classmethod
    def of(cls, stat: os.stat_result) -> "FileState":
        """Takes what identifies the file from its stat."""
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class Content(NamedTuple):
    """A checkpoint file, read and hashed."""

    value: Any  # tensors and plain values
    sha256: str
    state: FileState


def read(path: Path) -> Any:
    """Reads a file's content, tensors and plain values only.  Raises UserError for what is no checkpoint."""
    with _reading(path) as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def read_hashed(path: Path, check: Callable[[str, int], None] | None = None) -> Content:
    """Reads a file as `read` does, and hashes the same open file, so that replacing it meanwhile changes neither.

    check: called with the checksum and the size before the content is decoded.
    """
    with _reading(path) as file:
        before = FileState.of(os.fstat(file.fileno()))
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if check:
            check(sha256, before.bytes)
        file.seek(0)
        value = torch.load(file, map_location="cpu", weights_only=True)
        if FileState.of(os.fstat(file.fileno())) != before:
            raise UserError(
                f"{path} was written to while it was being read: wait until it is whole, and start again.",
                code="changed-file",
            )
        return Content(value, sha256, before)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[io.BufferedReader]:
    """Opens a checkpoint file; what goes wrong while it is read is raised as a UserError that says what to do."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning), open(path, "rb") as file:
            yield file
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(
            f"There is no file {path}: name a checkpoint such as runs/NAME/model000500.pt.", code="not-found"
        ) from None
    except IsADirectoryError:
        raise UserError(
            f"{path} is a folder: name a .pt file in it, or use --run for a run.", code="not-a-file"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): see to that, or take another copy.",
            code="unreadable-file",
        ) from error
    except Exception as error:  # of whatever type: torch's reader meets bytes that were never meant for it
        if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
            raise UserError(
                f"{path} cannot be read, as there is not enough memory: end other programs, and try again.",
                code="out-of-memory",
            ) from error
        why, remedy = _why(path)
        raise UserError(f"{path} cannot be read ({why}): {remedy}.", code="damaged-checkpoint") from error


def network_in(content: Any, path: Path) -> Mapping[str, Tensor]:
    """Returns `content` if it is a network's state_dict (name -> [...]).  Raises UserError saying what else it is."""
    if _is_network(content):
        found: Mapping[str, Tensor] = content
        return found
    why, remedy = _other_than_network(content, path)
    raise UserError(f"{path} holds {why}: {remedy}.", code="not-a-checkpoint")


def not_numbers(tensors: Mapping[str, Tensor]) -> str:
    """Counts the values of tensors [...] that are not finite, as part of a sentence; empty where all are."""
    suspect = {name: t for name, t in tensors.items() if not _has_finite_sum(t)}
    bad = {name: count for name, t in suspect.items() if (count := t.numel() - int(t.isfinite().sum()))}
    if not bad:
        return ""
    values = plural(sum(t.numel() for t in tensors.values()), "value")
    count = sum(bad.values())
    return f"{count:,} of {values} {'is' if count == 1 else 'are'} NaN or infinite, first in {next(iter(bad))}"


def _has_finite_sum(tensor: Tensor) -> bool:
    """True only if all values are finite; the sum of finite ones may overflow.  Ten times faster than asking each.

    numpy sums in this thread, where torch would wait for others once for each of hundreds of tensors.
    """
    if tensor.dtype != torch.float32:
        return bool(tensor.sum().isfinite())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(tensor.detach().numpy().sum()))


def check_numbers(tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Raises UserError where a value of a tensor [...] is NaN or infinite: such weights give nothing but NaN."""
    if wrong := not_numbers(tensors):
        raise UserError(
            f"In {source}, {wrong}: its training diverged, or the file is damaged; take an earlier checkpoint, or"
            " another copy.",
            code="not-finite",
        )


def _other_than_network(content: Any, path: Path, safe: bool = True) -> tuple[str, str]:
    """Describes what a file holds instead of a state_dict, and what to do.  safe: whether torch reads it as it is."""
    if isinstance(content, Mapping) and not content:
        return "nothing", "the training that wrote it saved an empty dict: take another checkpoint"
    if _has_tensors_and_more(content):
        others = ", ".join(str(key) for key, value in content.items() if not _is_tensor(value))
        code = f"{{k: v for k, v in {_load(path, safe)}.items() if torch.is_tensor(v)}}"
        return f"{others} next to its tensors", _saved(path, code, "")
    found = dict(_networks(content))
    if found:
        first, *more = found
        also = f", and under {_listed(more)}" if more else ""
        rest = [str(key) for key in content if not any(keys[0] == key for keys in found)]
        others = f" next to {', '.join(rest)}" if rest else ""
        code = _load(path, safe) + "".join(f"[{json.dumps(key)}]" for key in first)
        return f"a network under {_listed([first])}{also}{others}", _saved(path, code, f"_{first[-1]}")
    if isinstance(content, _Inert):
        return "a whole network as a pickled object", _saved(path, f"{_load(path, safe)}.state_dict()", "")
    if isinstance(content, Mapping) and {"state", "param_groups"} <= content.keys():
        return "no network weights but an optimiser's state", "name the model or ema file of the same step"
    what = "a tensor alone" if _is_tensor(content) else type(content).__name__
    what = ", ".join(map(str, content)) if isinstance(content, Mapping) else what
    return f"no network weights (but {what})", NETWORK


def _saved(path: Path, code: str, ending: str) -> str:
    """Writes the remedy that saves the value of `code` to a file of its own."""
    target = _free(path.with_name(f"{path.stem}{ending}_weights.pt"))
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


def _listed(keys: Any) -> str:
    return ", ".join(".".join(map(str, key)) for key in keys)


def _networks(content: Any, depth: int = 3) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(keys, state_dict) of every one in nested dicts, the likeliest to be a network's first."""
    if isinstance(content, Mapping) and depth:
        for key, value in content.items():
            if isinstance(key, str) and _is_network(value):
                yield (key,), value
            elif isinstance(key, str) and key not in ("optimizer", "opt"):
                yield from (((key, *keys), found) for keys, found in _networks(value, depth - 1))


def _is_network(content: Any) -> bool:
    """Returns whether it is a dict of named tensors and nothing else."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) and _is_tensor(value) for key, value in content.items())
    )


def _has_tensors_and_more(content: Any) -> bool:
    """Returns whether it is a dict of named tensors, with a few other things."""
    if not isinstance(content, Mapping):
        return False
    names = [key for key, value in content.items() if isinstance(key, str) and _is_tensor(value) and "." in key]
    return len(names) > len(content) / 2


def _why(path: Path) -> tuple[str, str]:
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
                return _why_pickle(path, [file] * LEGACY, DAMAGED)
            return "it is a pickle of Python, but no checkpoint of torch", NETWORK
    return "it is not a checkpoint", ANOTHER


def _why_zip(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
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
            return _why_pickle(path, [io.BytesIO(archive.read(inner))], DAMAGED)
    except (zipfile.BadZipFile, OSError):
        return DAMAGED, ANOTHER


def _why_pickle(path: Path, pickles: list[Any], otherwise: str) -> tuple[str, str]:
    """Explains why the last of the pickles is not read; `otherwise`: where nothing in it explains that."""
    try:
        foreign: list[str] = []
        for file in pickles:
            reader = _Peek(file)
            content, foreign = reader.load(), reader.foreign
    except Exception:  # what is damaged may raise anything
        return otherwise, ANOTHER
    if not foreign:
        return otherwise, ANOTHER
    what, remedy = _other_than_network(content, path, safe=False)
    objects = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
    return (
        f"it is whole, and holds {what}, with pickled objects of {objects}, which may run code and are not loaded",
        f"where it comes from a source that you trust, {remedy}",
    )


class _Inert:
    """Stands for an object of any class: nothing of it is imported or run."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def append(self, *_: Any) -> None:
        pass

    def extend(self, *_: Any) -> None:
        pass


class _Peeked(_Inert):
    """Stands for a tensor."""


class _Peek(pickle.Unpickler):
    """Reads the structure of a pickle, with inert stand-ins for everything but dicts, lists and plain values."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.foreign: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name.startswith("_rebuild"):
            return _Peeked
        whole = f"{module}.{name}"
        if module not in (*PLAIN, *OF_TORCH):
            self.foreign += [] if whole in self.foreign else [whole]
        return type(name, (_Inert,), {})

    def persistent_load(self, _: Any) -> Any:
        return _Inert()


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, _Peeked))
