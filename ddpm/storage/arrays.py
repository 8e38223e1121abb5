"""Writes .npz and .npy files piece by piece, and reads those of strangers: what they declare is judged beforehand."""

import contextlib
import io
import math
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from ddpm.errors import UserError, as_user_error
from ddpm.formatting import memory
from ddpm.storage import files, untrusted, zip_files
from ddpm.storage.files import Written

MOST_HEADER = 10_000  # bytes of the header of an array
MOST_UNPACKED = 2**28  # bytes of a compressed array that is read as a whole; one that is stored is as long as its file
KINDS = "biufcSU"  # of numbers and strings; anything else may hold objects, or be of any size
CHUNK = 2**20  # bytes read at once
DAMAGE = (*zip_files.DAMAGE, KeyError)  # what reading a damaged file raises


class Header(NamedTuple):
    """What an array in .npy format says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool  # order of the values

    @property
    def bytes(self) -> int:
        """Size of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Reads the header of an array in .npy format; leaves `file` at the values.

    Raises ValueError if it is damaged, too long, or if the values are neither numbers nor strings.
    """
    version = npy.read_magic(file)
    width = 2 if version == (1, 0) else 4
    prefix = file.read(width)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < width or length > MOST_HEADER:
        raise ValueError(f"the header of an array has {length:,} bytes, and the most is {MOST_HEADER:,}")
    parse = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
            shape, fortran, dtype = parse(io.BytesIO(prefix + file.read(length)))
    except Exception as error:  # what is evaluated as a Python literal may raise anything
        raise ValueError(f"the header of an array is damaged ({type(error).__name__})") from error
    if not all(type(size) is int and 0 <= size < 2**48 for size in shape) or len(shape) > 16:
        raise ValueError("an array has an impossible shape")
    return Header(shape, dtype, fortran)


def read_array(file: IO[bytes], size: int, where: str, name: str = "array") -> np.ndarray:
    """Reads an array [...] of numbers or strings in .npy format.

    size: bytes of the whole, header included, which must be what the shape needs.  where, name: what messages call it,
    and a variable that holds it.  Raises ValueError if it is damaged; UserError if it holds Python objects, as reading
    these could execute code.
    """
    header = read_header(file)
    if header.dtype.hasobject:
        raise UserError(
            f"{where} is an array of Python objects, which are not read, as they can execute code: save it again as"
            f" strings or numbers, for example with {name}.astype(str).",
            code="bad-array",
        )
    if header.dtype.kind not in KINDS or header.dtype.subdtype:
        raise UserError(
            f"{where} is an array of {header.dtype.kind!r}, and only numbers and strings are read: convert it.",
            code="bad-array",
        )
    held = size - file.tell()
    if held != header.bytes:
        raise ValueError(f"{where} has {held:,} bytes instead of the {header.bytes:,} of its shape")
    content = np.empty(held, np.uint8)
    for start in range(0, held, CHUNK):
        piece = file.read(min(CHUNK, held - start))
        if len(piece) < min(CHUNK, held - start):
            raise EOFError(f"{where} is cut short")
        content[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
    values = content.view(header.dtype) if header.dtype.itemsize else np.zeros(math.prod(header.shape), header.dtype)
    return values.reshape(header.shape, order="F" if header.fortran else "C")


def read_entry(archive: zipfile.ZipFile, key: str, where: str) -> np.ndarray:
    """Reads the array [...] `key` of an open .npz file as `read_array` does.

    Raises UserError too if it is compressed and larger than MOST_UNPACKED, KeyError if there is none.
    """
    entry = archive.getinfo(f"{key}.npy")
    if entry.compress_type != zipfile.ZIP_STORED and entry.file_size > MOST_UNPACKED:
        raise UserError(
            f"{key} in {where} unpacks to {memory(entry.file_size)}, and a compressed array is read up to"
            f" {memory(MOST_UNPACKED)}: save it again without compression, with np.savez.",
            code="too-large",
        )
    with archive.open(entry) as file:
        return read_array(file, entry.file_size, f"{key} in {where}", key)


def read_npz(source: Path | IO[bytes], *wanted: str) -> dict[str, np.ndarray]:
    """Reads the `wanted` arrays [...] of an .npz file, as far as it has them, or all of them, by name.

    Raises UserError if it is missing or damaged, or if what is compressed unpacks to more than MOST_UNPACKED: each
    of what is wanted, or all together.
    """
    path = source if isinstance(source, Path) else Path(str(source.name))
    with _user_errors(path), zip_files.opened(source, str(path), "create it again") as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        names = [name for name in names if name in wanted] if wanted else names
        entries = [archive.getinfo(f"{name}.npy") for name in names]
        total = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
        if total > MOST_UNPACKED and not wanted:  # whose number is known, and each has the limit of one
            raise UserError(
                f"{path} unpacks to {memory(total)}, and compressed arrays are read up to {memory(MOST_UNPACKED)}: save"
                " it again without compression, with np.savez.",
                code="too-large",
            )
        return {name: read_entry(archive, name, str(path)) for name in names}


def read_npy(source: Path | IO[bytes]) -> np.ndarray:
    """Reads the array [...] of numbers or strings of an .npy file.  Raises UserError if it is missing or damaged."""
    path = source if isinstance(source, Path) else Path(str(source.name))
    with _user_errors(path), untrusted.open_regular(source) if isinstance(source, Path) else source as file:
        return read_array(file, os.fstat(file.fileno()).st_size, str(path))


def map_npy(path: Path) -> np.ndarray:
    """Maps the array [...] of numbers in an .npy file of this program into memory, read-only.

    Raises UserError if it is missing or damaged.
    """
    with _user_errors(path), open(path, "rb") as file:
        header, at = read_header(file), file.tell()
        if header.dtype.kind not in KINDS or at + header.bytes != os.fstat(file.fileno()).st_size:
            raise ValueError(f"{path} has other bytes than its shape needs")
        if not header.bytes:
            return np.zeros(header.shape, header.dtype)
        order = "F" if header.fortran else "C"
        return np.memmap(file, header.dtype, "r", at, header.shape, order).view(np.ndarray)  # type: ignore[call-overload]


@contextlib.contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """Turns what reading a damaged file raises into a UserError."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"There is no file {path}: check the path.", code="not-found") from None
    except PermissionError as error:
        raise as_user_error(error) from error
    except DAMAGE as error:
        raise UserError(f"{path} is damaged ({error}): copy or create it again.", code="damaged-archive") from error


class Stream(NamedTuple):
    """An array of the given shape and dtype, delivered in pieces along its first axis."""

    shape: tuple[int, ...]
    dtype: Any
    pieces: Iterable[np.ndarray]  # each [n, *shape[1:]]; the n add up to shape[0]


def write_npz(path: Path, *streams: Stream) -> Written:
    """Writes arrays as arr_0, arr_1, ..., like np.savez(path, ...) but byte for byte reproducible.  Raises DiskFull."""

    def save(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for number, stream in enumerate(streams):
                with archive.open(zipfile.ZipInfo(f"arr_{number}.npy"), "w", force_zip64=True) as entry:
                    _write(entry, stream)

    return files.write(path, save)


def _write(file: IO[bytes], stream: Stream) -> None:
    dtype = np.dtype(stream.dtype)
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": stream.shape}
    npy.write_array_header_1_0(file, header)
    written = 0
    for piece in stream.pieces:
        assert (piece.dtype, piece.shape[1:]) == (dtype, stream.shape[1:]), "a piece of another dtype or shape"
        file.write(np.ascontiguousarray(piece).tobytes())
        written += len(piece)
    assert written == stream.shape[0], f"{written} of {stream.shape[0]} rows were written"


def write_npy(path: Path, array: np.ndarray, durable: bool = True) -> Written:
    """Writes one array, of any shape [...] and dtype, as an .npy file.  durable: see files.write.  Raises DiskFull."""
    return files.write(path, lambda file: npy.write_array(file, array, allow_pickle=False), durable)
