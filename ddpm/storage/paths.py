"""Paths from users and environment variables, and their defaults."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

import platformdirs

from ddpm.errors import UserError


def full(path: str | os.PathLike[str]) -> Path:
    """Absolute path with ~ and ~NAME expanded as in a shell; an unknown ~NAME stays as it is.

    Symbolic links are resolved only if the path contains `..`.  Raises UserError if the current folder is gone.
    """
    try:
        whole = Path(os.path.expanduser(path)).absolute()
        return Path(os.path.realpath(whole)) if ".." in whole.parts else whole
    except FileNotFoundError:  # by os.getcwd
        raise UserError(
            f"{path} is relative to the current folder, which no longer exists: change to another folder, or use an"
            " absolute path.",
            code="no-folder",
        ) from None


def named(variable: str) -> Path | None:
    """Absolute path in an environment variable; None if it is not set.

    A leading ~ is expanded here, as a variable set in a file never passes a shell.  Raises UserError for an unknown
    ~NAME.
    """
    text = os.environ.get(variable, "").strip()
    if os.path.expanduser(text).startswith("~"):  # would otherwise become a folder named ~ in the current one
        raise UserError(
            f"The environment variable {variable} is {text}, and there is no such home folder: use an absolute path.",
            code="no-folder",
        )
    return full(text) if text else None


def absolute_variables() -> dict[str, str]:
    """The environment variables that name folders, absolute, for a process that starts in another folder."""
    names = ("DDPM_CACHE", "DDPM_KERNEL_CACHE", "DDPM_SHARES", "DDPM_RUNS", "OPENAI_LOGDIR")
    return {name: str(path) for name in names if (path := named(name))}


def user_temp_folder(what: str) -> Path:
    """Temporary folder of this user for files that belong to no run, which nobody else can open or write.

    Creates it.  Raises UserError if another user was faster, OSError if it cannot be made.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = Path(tempfile.gettempdir()) / f"ddpm-{what}-{user}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    make_private(path)
    return path


def make_private(folder: Path) -> None:
    """Takes the rights of others on a folder of this user away.

    Raises UserError if it is a link or another user's.  Windows gives each user a temporary folder of their own.
    """
    if os.name == "nt":
        return
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise UserError(
            f"{folder} is not a folder of this user, so files in it could be a stranger's: remove it, or set TMPDIR to"
            " a folder of your own.",
            code="no-folder",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(folder, 0o700)


def is_private(folder: Path) -> bool:
    """True if nobody but this user and the administrator can write or replace what lies in `folder`, nor it itself.

    Looks at the owner and the rights of the folder and of every one above it.  Always True on Windows, where the
    folders of a user are nobody else's.
    """
    if os.name == "nt":
        return True
    trusted = {0, os.geteuid()}
    for place in _above(folder):
        try:
            found = os.lstat(place)
        except OSError:
            return False
        if found.st_uid not in trusted:
            return False
        sticky = found.st_mode & stat.S_ISVTX and place != folder  # there, others cannot replace what is ours
        if not stat.S_ISLNK(found.st_mode) and not sticky and _others_write(found):
            return False
    return True


def _others_write(found: os.stat_result) -> bool:
    """True if others can write a folder: everybody, or a group that is not this user's own or the administrator's."""
    if found.st_mode & stat.S_IWOTH:
        return True
    if not found.st_mode & stat.S_IWGRP or found.st_gid == 0:
        return False
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(found.st_gid)
    except KeyError:  # one that the system does not know by name
        return True
    return (user.pw_gid, user.pw_name) != (group.gr_gid, group.gr_name) or not set(group.gr_mem) <= {user.pw_name}


def is_own_file(path: Path) -> bool:
    """True for a regular file of this user or the administrator that others cannot write; not for a link."""
    found = os.lstat(path)
    if os.name == "nt":
        return stat.S_ISREG(found.st_mode)
    return stat.S_ISREG(found.st_mode) and found.st_uid in (0, os.geteuid()) and not _others_write(found)


def _above(folder: Path) -> list[Path]:
    """The folder, and all above it: those of its real path, and those of a path by which links lead to it."""
    real = Path(os.path.realpath(folder))
    return list(dict.fromkeys([real, *real.parents, folder, *folder.parents]))


def cache_folder() -> Path:
    """Folder for files that can be made or downloaded again; the environment variable DDPM_CACHE overrides it."""
    return named("DDPM_CACHE") or _usual_cache()


def kernel_folder() -> Path:
    """Folder for compiled kernels; the environment variable DDPM_KERNEL_CACHE overrides it."""
    return named("DDPM_KERNEL_CACHE") or _usual_cache() / "kernels"


def state_folder() -> Path | None:
    """Folder for what this user's dashboard remembers; DDPM_STATE overrides it.  None for a user without a home."""
    if given := named("DDPM_STATE"):
        return given
    try:
        usual = platformdirs.user_state_path("ddpm-workbench", appauthor=False)
    except RuntimeError:
        return None
    return usual if usual.is_absolute() else None


def shares_folder() -> Path:
    """Folder in which running jobs hold their lock files; the environment variable DDPM_SHARES overrides it."""
    return named("DDPM_SHARES") or user_temp_folder("shares")


def log_folder() -> Path | None:
    """Output folder from OPENAI_LOGDIR, as in improved-diffusion; None if it is not set."""
    return named("OPENAI_LOGDIR")


def runs_folder() -> Path | None:
    """Run folder of the dashboard from the environment variable DDPM_RUNS; None if it is not set."""
    return named("DDPM_RUNS")


def _usual_cache() -> Path:
    """The system's cache folder of this user; a temporary one for a user without a home, as in containers."""
    try:
        usual = platformdirs.user_cache_path("ddpm-workbench", appauthor=False)
    except RuntimeError:
        usual = Path()
    return usual if usual.is_absolute() else user_temp_folder("cache")
