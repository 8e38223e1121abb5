"""CIFAR-10 from its official archive: downloaded with checksum and resume, or from a local file.

The archive is a tar of pickles.  It is read in place, member by member, by an unpickler that can make numbers,
texts and arrays and nothing else.
"""

import errno
import hashlib
import http.client
import io
import pickle
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import portalocker

from ddpm import files
from ddpm.errors import UserError
from ddpm.sources import cifar10_path

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
FOLDER = PurePosixPath("cifar-10-batches-py")
TRAIN = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST, META = "test_batch", "batches.meta"
LARGEST = 2**28  # bytes of a member; the real ones have 31 MB

CHUNK = 2**18  # bytes between two calls of `progress`
TIMEOUT = 30.0  # seconds without a byte

Progress = Callable[[int, int], None]  # (bytes done, bytes in all, 0 where that is not known)


def fetch_cifar10(progress: Progress | None = None, *, url: str = URL, md5: str = MD5, pause: float = 1.0) -> Path:
    """Download the official archive unless it is there, and return where it lies, for `import_cifar10`.

    What an earlier attempt left is continued.  pause: seconds before trying again when the connection breaks.

    Raises UserError when there is no connection, the checksum is wrong, or another process is at it; DiskFull.
    """
    archive = cifar10_path().with_name(PurePosixPath(URL).name)
    with files.appending(archive.parent / ".lock") as lock:
        try:
            portalocker.lock(lock, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.LockException:
            raise UserError("CIFAR-10 is being downloaded by another process: wait until it is done.") from None
        if not archive.exists():
            download(url, archive, md5, progress, pause)
    return archive


def download(url: str, path: Path, md5: str, progress: Progress | None = None, pause: float = 1.0) -> None:
    """Fetch `url` to `path`, by way of PATH.part, which is continued where it ends; `path` is whole or not there.

    Raises UserError when three attempts in a row bring nothing, or when the checksum is wrong; DiskFull.
    """
    part = path.with_name(f"{path.name}.part")
    by_hand = f"or get {url} in another way and run `ddpm data cifar10 --archive FILE`"
    failures = 0
    while True:
        before = _length(part)
        try:
            _continue(url, part, progress)
            break
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise files.DiskFull(part) from error
            failures = 1 if _length(part) > before else failures + 1
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or failures == 3:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                raise UserError(
                    f"{path.name} could not be downloaded ({reason}; {_length(part) / 1e6:.0f} MB of it are kept): "
                    f"check the connection and try again, {by_hand}."
                ) from error
            time.sleep(pause)
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        part.unlink()
        raise UserError(f"{path.name} arrived damaged (md5 {found}, not {md5}) and was deleted: try again, {by_hand}.")
    files.rename(part, path)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` what follows it; begin again where the server cannot do that.  Raises OSError."""
    done = _length(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            error.close()
            return  # nothing follows: whether it is whole, the checksum says
        raise
    with response, files.appending(part) as file:
        if response.status != http.client.PARTIAL_CONTENT:
            file.truncate(0)
            done = 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length else 0
        while chunk := response.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
    if done < total:
        raise ConnectionError(f"the connection broke after {done / 1e6:.0f} of {total / 1e6:.0f} MB")


def import_cifar10(archive: Path, progress: Progress | None = None) -> Path:
    """Read the official archive, or one of the same layout, and return the .npz file that `cifar10` is read from.

    It holds train, train_labels, test, test_labels and class_names: uint8 [N, 32, 32, 3] and int64 [N].

    Raises UserError when the archive is missing, damaged, cut short or something else; DiskFull.
    """
    parts = _read_archive(archive, progress)
    class_names = _class_names(archive, parts[META])
    train = [_batch(archive, name, parts[name], len(class_names)) for name in TRAIN]
    test = _batch(archive, TEST, parts[TEST], len(class_names))
    arrays = dict(
        train=np.concatenate([pixels for pixels, _ in train]),
        train_labels=np.concatenate([labels for _, labels in train]),
        test=test[0],
        test_labels=test[1],
        class_names=class_names,
    )

    def save(file: Any) -> None:
        with zipfile.ZipFile(file, "w") as zipped:
            for name, array in arrays.items():
                with zipped.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    files.write(cifar10_path(), save)
    return cifar10_path()


def _read_archive(archive: Path, progress: Progress | None) -> dict[str, dict[str, Any]]:
    """The unpickled members by name, all seven of them."""
    wanted = {str(FOLDER / name): name for name in (*TRAIN, TEST, META)}
    parts: dict[str, dict[str, Any]] = {}
    try:
        total = archive.stat().st_size
        with open(archive, "rb") as file, tarfile.open(fileobj=file) as tar:
            for member in tar:
                name = wanted.get(str(PurePosixPath(member.name)))
                content = tar.extractfile(member) if name and member.isfile() and member.size <= LARGEST else None
                if name and content:
                    parts[name] = _unpickle(archive, name, content.read())
                if progress:
                    progress(file.tell(), total)
            while tar.fileobj and tar.fileobj.read(CHUNK):  # to the end, where gzip has its checksum
                pass
    except FileNotFoundError:
        raise UserError(f"There is no file {archive}: check the path.") from None
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"{archive} cannot be read ({error.strerror}): name the cifar-10-python.tar.gz itself.") from error  # fmt: skip
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{archive} is cut short, damaged or no tar archive ({len(parts)} of {len(wanted)} parts could be read): "
            f"download it again, and compare its md5 with {MD5}."
        ) from error
    missing = [member for member, name in wanted.items() if name not in parts]
    if missing:
        raise UserError(
            f"{archive} has no {missing[0]} ({len(parts)} of {len(wanted)} parts are there): "
            "use the official cifar-10-python.tar.gz, the Python version of CIFAR-10."
        )
    return parts


class _Unpickler(pickle.Unpickler):
    """Makes what a batch consists of; anything else that a pickle may ask for is refused."""

    ALLOWED = {  # noqa: RUF012
        ("multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        ("numeric", "_frombuffer"): np._core.numeric._frombuffer,  # type: ignore[attr-defined]
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
        ("builtins", "bytearray"): bytearray,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(("numpy.core.", "numpy._core.")):
            module = module.rpartition(".")[2]
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _unpickle(archive: Path, name: str, data: bytes) -> dict[str, Any]:
    """A dict with its keys as text.  Python 2 wrote the official ones, so texts may be bytes."""
    try:
        value = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else str(key): item for key, item in value.items()}
    except Exception as error:  # unpickling damaged bytes raises anything
        raise UserError(f"{FOLDER / name} in {archive} is no part of CIFAR-10 ({error}): download the archive again.") from error  # fmt: skip


def _batch(archive: Path, name: str, part: dict[str, Any], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [N, 32, 32, 3] and labels int64 [N] of one batch."""
    planes = np.asarray(part.get("data", ()))
    labels = [
        label for label in part.get("labels", ()) if isinstance(label, (int, np.integer)) and 0 <= label < classes
    ]
    if planes.dtype != np.uint8 or planes.shape != (len(labels), 3 * 32 * 32) or not labels:
        raise UserError(
            f"{FOLDER / name} in {archive} holds {planes.dtype} {list(planes.shape)} and {len(labels)} good labels, not "
            "uint8 [N, 3072] and N labels: use the official cifar-10-python.tar.gz."
        )
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), np.array(labels, np.int64)


def _class_names(archive: Path, meta: dict[str, Any]) -> np.ndarray:
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in meta.get("label_names", ())]
    if not names:
        raise UserError(f"{FOLDER / META} in {archive} names no classes: use the official cifar-10-python.tar.gz.")
    return np.array(names)
