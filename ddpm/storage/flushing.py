"""Flushing files and the names in folders to disk, so that they survive a power cut."""

import errno
import os
from pathlib import Path

from ddpm.errors import with_filename

# Errors of file systems that do not support fsync; they keep what is written as well as they can.
UNABLE = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY}


def sync_folder(folder: Path) -> None:
    """Flushes the file names in `folder` to disk, so that they survive a power cut; not needed on Windows."""
    if os.name == "nt":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to but not listed
        return
    try:
        with with_filename(folder):
            flush(handle)
    finally:
        os.close(handle)


def flush(handle: int) -> None:
    """Flushes an open file or folder to disk, where the file system supports it."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
