"""Writes .npz and .npy files piece by piece, so that an array never has to fit in memory."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from ddpm.storage import files
from ddpm.storage.files import Written


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
