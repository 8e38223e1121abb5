"""Files of weights from any program: read without executing anything they contain, or diagnosed in a sentence."""

import contextlib
import hashlib
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.checkpoints import diagnosis, torch_files
from ddpm.config import codec, validation
from ddpm.config.training import Config
from ddpm.errors import UserError, lacks_memory
from ddpm.formatting import plural, printable
from ddpm.storage import untrusted

MOST_SETTINGS = 2**22  # characters of the settings in a file of weights, with names of 100,000 classes
METADATA = "ddpm"  # our entry in a state_dict's _metadata: no module has this name, so no program minds it


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
        torch_files.check(file, str(path))
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
        torch_files.check(file, str(path))
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
        if path.is_dir():
            raise IsADirectoryError
        with warnings.catch_warnings(action="ignore", category=UserWarning), untrusted.open_regular(path) as file:
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
        if lacks_memory(error):
            raise UserError(
                f"{path} cannot be read, as there is not enough memory: end other programs, and try again.",
                code="out-of-memory",
            ) from error
        why, remedy = diagnosis.why_unread(path)
        raise UserError(f"{path} cannot be read ({why}): {remedy}.", code="damaged-checkpoint") from error


def network_in(content: Any, path: Path) -> Mapping[str, Tensor]:
    """Returns `content` if it is a network's state_dict (name -> [...]).  Raises UserError saying what else it is."""
    if diagnosis.is_network(content):
        found: Mapping[str, Tensor] = content
        if odd := next((name for name, t in found.items() if not t.is_floating_point()), ""):
            raise UserError(
                f"In {path}, {printable(odd)} holds {str(found[odd].dtype).removeprefix('torch.')}, and weights are"
                f" floating-point numbers: {diagnosis.NETWORK}.",
                code="not-a-checkpoint",
            )
        return found
    why, remedy = diagnosis.other_than_network(content, path)
    raise UserError(f"{path} holds {why}: {remedy}.", code="not-a-checkpoint")


def not_numbers(tensors: Mapping[str, Tensor]) -> str:
    """Counts the values of tensors [...] that are not finite, as part of a sentence; empty where all are."""
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = {name: t for name, t in tensors.items() if not _has_finite_sum(t)}
    bad = {name: count for name, t in suspect.items() if (count := t.numel() - int(t.isfinite().sum()))}
    if not bad:
        return ""
    values = plural(sum(t.numel() for t in tensors.values()), "value")
    count = sum(bad.values())
    return f"{count:,} of {values} {'is' if count == 1 else 'are'} NaN or infinite, first in {next(iter(bad))}"


def _has_finite_sum(tensor: Tensor) -> bool:
    """True only if all values are finite; the sum of their squares may overflow.  Ten times faster than asking each.

    numpy sums without torch's threads, which would wait for each other once for each of hundreds of tensors.
    """
    if tensor.dtype != torch.float32:
        return bool(tensor.sum().isfinite())
    values = tensor.detach().numpy().ravel(order="K")  # as they lie in memory, without a copy
    return math.isfinite(values.dot(values))


def check_numbers(tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Raises UserError where a value of a tensor [...] is NaN or infinite: such weights give nothing but NaN."""
    if wrong := not_numbers(tensors):
        raise UserError(
            f"In {source}, {wrong}: its training diverged, or the file is damaged; take an earlier checkpoint, or"
            " another copy.",
            code="not-finite",
        )


def _config_in(settings: Any, path: Path) -> Config:
    """The settings of a network, within limits, before one of that size is built."""
    config = codec.from_json(settings)
    for problem in validation.network_problems(config):
        raise UserError(f"In the settings that {path} holds, {problem.sentence}", code=problem.code)
    return config


def about_file(content: Mapping[str, Tensor], path: Path) -> dict[str, Any] | None:
    """Reads what a file of weights says of itself, with its settings under "config".

    content: name -> [...].  Returns None for a file of another program.  Raises UserError where it is damaged.
    """
    found = getattr(content, "_metadata", None)
    about = found.get(METADATA) if isinstance(found, Mapping) else None
    match about:
        case None:
            return None
        case {"config": str(text), "step": int(), "kind": str()} if len(text) <= MOST_SETTINGS:
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(about.get("data"), Mapping | None):
                    return {**about, "config": _config_in(json.loads(text), path)}
    raise UserError(
        f"The settings in {path} are damaged, or longer than {MOST_SETTINGS:,} characters: take another copy, or an"
        " earlier checkpoint.",
        code="damaged-checkpoint",
    )
