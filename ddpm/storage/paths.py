"""Where things are kept: what users and environment variables name, and what is taken where they name nothing."""

import os
import tempfile
from pathlib import Path

import platformdirs

from ddpm.errors import UserError


def full(path: str | os.PathLike[str]) -> Path:
    """The whole path, from the root, with ~ and ~NAME as a shell has them: the name of no user stays as it is.

    Links in it stay, but where it has a `..`: what that means depends on where they lead.
    """
    try:
        whole = Path(os.path.expanduser(path)).absolute()
        return Path(os.path.realpath(whole)) if ".." in whole.parts else whole
    except FileNotFoundError:  # by os.getcwd
        raise UserError(
            f"{path} begins in the folder that this program was started in, which is gone: change to another one, or"
            " write the whole path.",
            code="no-folder",
        ) from None


def named(variable: str) -> Path | None:
    """The whole path that an environment variable names; None where it names nothing.

    What comes from a file of settings has its ~ still, as no shell has seen it.  Raises UserError where ~ means
    nothing.
    """
    text = os.environ.get(variable, "").strip()
    if os.path.expanduser(text).startswith("~"):  # it would make a folder of that name, wherever one happens to be
        raise UserError(
            f"The environment variable {variable} names {text}, and there is no home folder of that name: write the"
            " whole path.",
            code="no-folder",
        )
    return full(text) if text else None


def workplace(what: str) -> Path:
    """A folder of this user's on this machine for what belongs to no run."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"ddpm-{what}-{user}"


def cache_folder() -> Path:
    """Where what can be made or had again is kept; the environment variable DDPM_CACHE names another place."""
    return named("DDPM_CACHE") or _usual_cache()


def kernel_folder() -> Path:
    """Where compiled kernels are kept; the environment variable DDPM_KERNEL_CACHE names another place."""
    return named("DDPM_KERNEL_CACHE") or _usual_cache() / "kernels"


def shares_folder() -> Path:
    """Where those who compute hold their files; the environment variable DDPM_SHARES names another place."""
    return named("DDPM_SHARES") or workplace("shares")


def log_folder() -> Path | None:
    """The folder that OPENAI_LOGDIR names for whatever is written, as in improved-diffusion; None without it."""
    return named("OPENAI_LOGDIR")


def runs_folder() -> Path | None:
    """Where the dashboard has its runs, if the environment variable DDPM_RUNS says so."""
    return named("DDPM_RUNS")


def _usual_cache() -> Path:
    """The system's place for this user; a temporary one for a user without a home, as containers have them."""
    try:
        usual = platformdirs.user_cache_path("ddpm-workbench", appauthor=False)
    except RuntimeError:
        usual = Path()
    return usual if usual.is_absolute() else workplace("cache")
