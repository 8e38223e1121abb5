"""UserError, the exception for what the user can correct, and its use for errors of the operating system."""

import contextlib
import errno
import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import Literal

# Kinds of error.  Programs read the code of a UserError; its sentence is for people.
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
    "few-timesteps",
    "image-too-large",
    "impossible-steps",
    "long-average",
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
    "not-a-folder",
    "not-a-run",
    "not-an-image",
    "not-applicable",
    "not-comparable",
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
    "rare-checkpoints",
    "settings-are-fixed",
    "single-process-only",
    "small-images",
    "still-running",
    "system-refused",
    "too-few-images",
    "too-large",
    "too-many-threads",
    "unchecked-images",
    "unclear-parts",
    "unindexed-data",
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

    The command line prints it and exits with code 2; a page shows it in a red box.  `code` is the kind of error, for
    programs and tests.
    """

    code: Code

    def __init__(self, sentence: str, *, code: Code):
        super().__init__(writable(sentence))
        self.code = code

    def __reduce__(self) -> tuple[Callable[..., "UserError"], tuple[str]]:
        """Pickles subclasses too as a plain UserError with the same sentence and code."""
        return functools.partial(UserError, code=self.code), (str(self),)


class AlreadyDone(UserError):
    """What was asked for has been done before: the command line says so and exits with code 0."""

    def __init__(self, sentence: str):
        super().__init__(sentence, code="nothing-left")


def writable(text: str) -> str:
    """`text` with characters that UTF-8 cannot encode, such as in some file names, replaced by escapes."""
    return text.encode(errors="backslashreplace").decode()


# Remedies by error number of the operating system.
REMEDIES = {
    errno.EACCES: "ask its owner for permission, or choose another folder",
    errno.EPERM: "ask its owner for permission, or choose another folder",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOENT: "check whether it was moved, and give its new path",
    errno.ENOSPC: "free some space and try again; everything saved before is intact",
    errno.EDQUOT: "free some space and try again; everything saved before is intact",
    errno.EMFILE: "too many files are open at once: raise the limit (`ulimit -n 4096`), and try again",
    errno.ENFILE: "too many files are open at once: end other programs, and try again",
    errno.ENOMEM: "free some memory, and try again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk failed: check it and its connection, and try again; everything saved before is intact",
}
REMEDY = "check the disk or choose another folder, and try again; everything saved before is intact"


def as_user_error(error: OSError | UnicodeError) -> UserError:
    """Converts an error of the operating system to a UserError that names the file."""
    if isinstance(error, UnicodeError):
        return UserError(
            f"A text has characters that cannot be encoded or decoded here ({error}): rename the file or class that"
            " has them.",
            code="bad-text",
        )
    name = " and ".join(
        os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, str | bytes | os.PathLike)
    )
    why = error.strerror or str(error) or type(error).__name__
    return UserError(
        f"{name or 'A file'} cannot be used ({why}): {REMEDIES.get(error.errno or 0, REMEDY)}.",
        code="system-refused",
    )


# Words of torch's errors where memory is short: they are RuntimeErrors like all others.
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on the processor or on a GPU."""
    short = isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    return short or isinstance(error, MemoryError)


def translated(error: Exception) -> Exception:
    """The UserError for an error of the operating system or for a lack of memory; any other error as it is."""
    if isinstance(error, OSError | UnicodeError) and not isinstance(error, BrokenPipeError):
        return as_user_error(error)
    if not lacks_memory(error):
        return error
    size = re.search(r"allocate ([\d.]+ \w+)", str(error))
    return UserError(
        f"There is not enough memory{f' for {size[1]} more' if size else ''}: end other programs, or take less at once,"
        " as with a smaller microbatch for training and a smaller batch_size for sampling and evaluation.",
        code="out-of-memory",
    )


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Converts errors as `translated` does; a broken pipe is no error, and raised as it is."""
    try:
        yield
    except Exception as error:
        known = translated(error)
        if known is error:
            raise
        raise known from error


@contextlib.contextmanager
def with_filename(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds `path` to an OSError in the block that has no file name, as those of open files have none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise
