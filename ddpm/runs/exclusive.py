"""One process at a time changes the names, starts and requests in a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ddpm.errors import UserError
from ddpm.storage import locks


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[None]:
    """Lets one process at a time change the names, starts and requests in `folder`.

    Raises UserError if the folder cannot be written, or another process holds the lock for half a minute.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.locked(folder / ".lock", seconds=30))
        except locks.Busy as error:
            raise UserError(
                f"Another process has been changing {folder} for half a minute: end it, or wait.", code="busy"
            ) from error
        except OSError as error:
            raise not_writable(folder, error) from error
        yield


def not_writable(folder: Path, error: OSError) -> UserError:
    """The error for a folder that cannot be written."""
    why = error.strerror or error
    return UserError(
        f"Cannot write in {folder} ({why}): make it writable, or choose another folder.", code="not-writable"
    )
