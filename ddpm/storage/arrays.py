"""Files of arrays, .npz and .npy, written and read piece by piece, so that what they hold need never be in memory at
once.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from ddpm.storage import files
from ddpm.storage.files import Written


class Stream(NamedTuple):
    """An array that comes in pieces along its first axis."""

    shape: tuple[int, ...]
    dtype: Any
    pieces: Iterable[np.ndarray]  # each [n, *shape[1:]]; together as many as shape says


def write_npz(path: Path, *streams: Stream) -> Written:
    """What np.savez(path, ...) writes: arr_0, arr_1, ...  The same arrays make the same bytes.  Raises DiskFull."""

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
    came = 0
    for piece in stream.pieces:
        assert (piece.dtype, piece.shape[1:]) == (dtype, stream.shape[1:]), "a piece of another array"
        file.write(np.ascontiguousarray(piece).tobytes())
        came += len(piece)
    assert came == stream.shape[0], f"{came} of {stream.shape[0]} rows came"


def write_npy(path: Path, array: np.ndarray, durable: bool = True) -> Written:
    """One array as an .npy file.  Raises DiskFull."""
    return files.write(path, lambda file: npy.write_array(file, array, allow_pickle=False), durable)
