"""Files from the internet, CIFAR-10's archive for one: with a checksum, and taken up where they broke off."""

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ddpm.data.sources import cifar10_path
from ddpm.errors import UserError
from ddpm.storage import files, locks

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"

CHUNK = 2**18  # bytes between two calls of `progress`
TIMEOUT = 30.0  # seconds without a byte

Progress = Callable[[int, int], None]  # (bytes done, bytes in all, 0 where that is not known)


def fetch_cifar10(progress: Progress | None = None, *, url: str = URL, md5: str = MD5, pause: float = 1.0) -> Path:
    """Download the official archive unless it is there, and return where it lies, for `cifar10.import_archive`.

    What an earlier attempt left is continued.  pause: seconds before trying again when the connection breaks.

    Raises UserError when there is no connection, the checksum is wrong, or another process is at it; DiskFull.
    """
    archive = cifar10_path().with_name(PurePosixPath(URL).name)
    try:
        with locks.locked(archive.parent / ".lock", seconds=0):
            if not archive.exists():
                download(url, archive, md5, progress, pause)
    except locks.Busy:
        raise UserError(
            "CIFAR-10 is being downloaded by another process: wait until it is done.", code="busy"
        ) from None
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
                    f"check the connection and try again, {by_hand}.",
                    code="download-failed",
                ) from error
            time.sleep(pause)
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        part.unlink()
        raise UserError(
            f"{path.name} arrived damaged (md5 {found}, not {md5}) and was deleted: try again, {by_hand}.",
            code="wrong-checksum",
        )
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
