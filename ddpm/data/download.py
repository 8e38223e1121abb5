"""Resumable downloads with a checksum, as of the CIFAR-10 archive."""

import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ddpm.data.sources import cifar10_path
from ddpm.errors import UserError
from ddpm.formatting import memory
from ddpm.storage import files, locks

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"

CHUNK = 2**18  # bytes between two calls of `progress`, at most
TIMEOUT = 30.0  # seconds without a byte

Progress = Callable[[int, int], None]  # (bytes done, total bytes or 0 if unknown)


def archive_path() -> Path:
    """Where the official archive of CIFAR-10 is downloaded to."""
    return cifar10_path().with_name(PurePosixPath(URL).name)


def bytes_here() -> int:
    """Bytes of the archive that were downloaded before the download was interrupted."""
    return _length(_part(archive_path()))


def fetch_cifar10(
    progress: Progress | None = None, *, url: str | None = None, md5: str | None = None, pause: float = 1.0
) -> Path:
    """Downloads the official archive if needed; returns its path, for `cifar10.import_archive`.

    An interrupted download is continued.  url, md5: other than the official ones, or than the environment variables
    DDPM_CIFAR10_URL and DDPM_CIFAR10_MD5 say.  pause: seconds to wait before a retry.

    Raises UserError if the connection fails, the checksum is wrong, or another process is downloading it; DiskFull.
    """
    url = url or os.environ.get("DDPM_CIFAR10_URL") or URL
    md5 = md5 or os.environ.get("DDPM_CIFAR10_MD5") or MD5
    archive = archive_path()
    try:
        with locks.locked(archive.parent / ".lock", seconds=0):
            if not archive.exists():
                download(url, archive, md5, progress, pause)
    except locks.Busy:
        raise UserError(
            "CIFAR-10 is being downloaded by another process: wait until it has finished.", code="busy"
        ) from None
    return archive


def download(url: str, path: Path, md5: str, progress: Progress | None = None, pause: float = 1.0) -> None:
    """Downloads `url` to PATH.part, continuing an earlier attempt, and renames it to `path` once it is complete.

    Raises UserError if three attempts in a row receive nothing, or if the checksum is wrong; DiskFull.
    """
    part = _part(path)
    by_hand = f"or download {url} by other means and run `ddpm data cifar10 --archive FILE`"
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
                    f"{path.name} could not be downloaded ({reason}; {memory(_length(part))} are kept): "
                    f"check the connection and try again, {by_hand}.",
                    code="download-failed",
                ) from error
            time.sleep(pause)
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        part.unlink()
        raise UserError(
            f"{path.name} was damaged in the download (md5 {found}, not {md5}) and deleted: try again, {by_hand}.",
            code="wrong-checksum",
        )
    files.rename(part, path)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _continue(url: str, part: Path, progress: Progress | None) -> None:
    """Appends the rest of the file to `part`; starts over if the server does not support ranges.  Raises OSError."""
    done = _length(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            error.close()
            return  # nothing is left to download; the checksum is verified later
        raise
    with response, files.appending(part) as file:
        if response.status != http.client.PARTIAL_CONTENT:
            file.truncate(0)
            done = 0
        length = response.headers["Content-Length"]
        total = done + int(length) if length else 0
        while chunk := response.read1(CHUNK):  # what has come, so that a slow connection can be given up
            file.write(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
    if done < total:
        raise ConnectionError(f"the connection broke after {memory(done)} of {memory(total)}")
