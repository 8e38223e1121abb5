"""The one exception that means "the user can put this right", and what the system refuses as one."""

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Iterator
from typing import Literal

# Kinds of fault.  A program that catches a UserError reads its code; its sentence is for people.
Code = Literal[
    "already-exists",
    "bad-array",
    "bad-labels",
    "bad-name",
    "bad-range",
    "bad-respacing",
    "bad-schedule",
    "bad-text",
    "bad-value",
    "broken-image",
    "busy",
    "changed-classes",
    "changed-data",
    "changed-file",
    "conflicting-settings",
    "damaged-archive",
    "damaged-checkpoint",
    "damaged-json",
    "disk-full",
    "diverged",
    "download-failed",
    "empty-mask",
    "image-too-large",
    "impossible-steps",
    "lost-checkpoints",
    "lost-settings",
    "missing-package",
    "missing-value",
    "missing-weights",
    "mixed-test-part",
    "newer-format",
    "no-checkpoint",
    "no-classes",
    "no-data-named",
    "no-folder",
    "no-images",
    "no-metadata",
    "no-test-part",
    "not-a-checkpoint",
    "not-a-file",
    "not-a-run",
    "not-an-image",
    "not-applicable",
    "not-data",
    "not-downloaded",
    "not-empty",
    "not-exportable",
    "not-finite",
    "not-found",
    "not-running",
    "not-writable",
    "nothing-learnt",
    "nothing-left",
    "out-of-memory",
    "out-of-range",
    "own-run",
    "peer-lost",
    "process-failed",
    "settings-are-fixed",
    "single-process-only",
    "small-images",
    "still-running",
    "system-refused",
    "too-few-images",
    "unclear-parts",
    "unknown-class",
    "unknown-network",
    "unknown-run",
    "unknown-setting",
    "unknown-step",
    "unreadable-data",
    "unreadable-file",
    "unsafe-archive",
    "unsupported-image",
    "usage",
    "wrong-archive",
    "wrong-checksum",
    "wrong-file",
    "wrong-flags",
    "wrong-optimizer",
    "wrong-size",
    "wrong-weights",
]


class UserError(Exception):
    """One sentence: what is wrong, what was found, what to do.

    The command line prints it and leaves with exit code 2; a page shows it in a red box.  `code` says what kind of
    fault it is, for programs and tests.
    """

    code: Code

    def __init__(self, sentence: str, *, code: Code):
        super().__init__(writable(sentence))
        self.code = code

    def __reduce__(self) -> tuple[Callable[..., "UserError"], tuple[str]]:
        """Travels between processes as a plain UserError of this sentence and code."""
        return functools.partial(UserError, code=self.code), (str(self),)


def writable(text: str) -> str:
    """`text` with what UTF-8 cannot hold written out, as the names of files may have it."""
    return text.encode(errors="backslashreplace").decode()


# What the system said, and what can be done about it.
REMEDIES = {
    errno.EACCES: "have its owner let you, or choose another place",
    errno.EPERM: "have its owner let you, or choose another place",
    errno.EROFS: "that disk can only be read: choose another place",
    errno.ENOENT: "see whether it was moved, and name the place where it is",
    errno.ENOSPC: "free some space and try again; everything saved before is intact",
    errno.EDQUOT: "free some space and try again; everything saved before is intact",
    errno.EMFILE: "too many files are open at once: raise the limit (`ulimit -n 4096`), and try again",
    errno.ENFILE: "too many files are open at once: end other programs, and try again",
    errno.ENOMEM: "free some memory, and try again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk failed: check it and its connection, and try again; everything saved before is intact",
}
REMEDY = "see to that disk or choose another place, and try again; everything saved before is intact"


def as_user_error(error: OSError | UnicodeError) -> UserError:
    """What the system refused, as a sentence that names the thing."""
    if isinstance(error, UnicodeError):
        return UserError(
            f"A text holds letters that cannot be written or read here ({error}): rename the file or class that has"
            " them.",
            code="bad-text",
        )
    thing = " and ".join(
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)
    )
    why = error.strerror or str(error) or type(error).__name__
    return UserError(
        f"{thing or 'Something'} cannot be used ({why}): {REMEDIES.get(error.errno or 0, REMEDY)}.",
        code="system-refused",
    )


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """What the system refuses within the block leaves it as a UserError; a broken pipe, which is no fault, as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, UnicodeError) as error:
        raise as_user_error(error) from error


@contextlib.contextmanager
def with_filename(path: str | os.PathLike[str]) -> Iterator[None]:
    """An OSError that leaves the block says that it is about `path`: those of open files name nothing."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise
