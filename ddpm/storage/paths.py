"""Paths from users and environment variables, and their defaults."""

import os
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


def user_temp_folder(what: str) -> Path:
    """Temporary folder of this user for files that belong to no run."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"ddpm-{what}-{user}"


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
