"""The dashboard's token, in a file that nobody but its user can read."""

import os
import re
import secrets
from pathlib import Path

from ddpm.errors import UserError
from ddpm.storage import files, paths, untrusted

TOKEN = re.compile(rb"[A-Za-z0-9_-]{43}\n?")


def stored() -> str:
    """Token of this user: 43 letters, digits, - and _, the same at every start.

    A file that others could have read or written is replaced.  Where none can be kept the token is a new one.
    """
    folder = paths.state_folder()
    if folder is None:
        return secrets.token_urlsafe(32)
    path = folder / "token"
    known = _read(path)
    if known:
        return known
    new = secrets.token_urlsafe(32)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(path, lambda file: file.write(new.encode() + b"\n"), mode=0o600)
    except (OSError, UserError):  # it is printed at every start, so that it need not last
        return new
    return _read(path) or new  # of another server that started in the same instant


def _read(path: Path) -> str:
    """Token in a regular file of this user's that nobody else may read; "" where there is none."""
    try:
        with untrusted.open_own(path) as file:
            about = os.fstat(file.fileno())
            if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o077):
                return ""
            text = file.read(64)
    except (OSError, UserError):
        return ""
    return text.decode().strip() if TOKEN.fullmatch(text) else ""
