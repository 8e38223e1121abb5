"""Recognises folders written by this program or improved-diffusion, so that they are not used as data."""

from pathlib import Path
from typing import Any

from ddpm.data.file_kinds import SHEETS
from ddpm.errors import UserError
from ddpm.storage import files, images


def made_by_us(folder: Path | str, names: set[str]) -> str:
    """Kind of a folder with these file names: "run", "samples" or "job"; empty if it is not from this program."""
    if "config.json" in names and _is_our_config(Path(folder, "config.json")):
        return "run"
    if "progress.csv" in names and ("log.txt" in names or any(name.endswith(".pt") for name in names)):
        return "run"  # a run of improved-diffusion
    settings = _has_our_settings(folder, names)
    is_job = settings or names & {"run.lock", "status.json"}
    if is_job and names & {"images", *SHEETS} and (settings or _is_sheet(folder, names)):
        return "samples" if "images" in names else "job"
    if "run.lock" in names or ("status.json" in names and names & {"log.txt", "control.json", "result.json"}):
        return "job"
    return "samples" if "images" in names and _is_sheet(folder, names) else ""


def _is_our_config(path: Path) -> bool:
    """True if this config.json belongs to a run, not to another program."""
    return {"format", "model", "diffusion", "train"} <= set(_object_in(path))


def _has_our_settings(folder: Path | str, names: set[str]) -> bool:
    """True if the folder has a settings.json of a sampling or evaluation job of this program."""
    found = _object_in(Path(folder, "settings.json")) if "settings.json" in names else {}
    return any(isinstance(found.get(job), dict) for job in ("sample", "evaluation", "frontier"))


def _object_in(path: Path) -> dict[str, Any]:
    """Reads a JSON object; empty if the file holds anything else."""
    try:
        found = files.read_json(path) if path.is_file() else None
    except (OSError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_sheet(folder: Path | str, names: set[str]) -> bool:
    """True if the folder has an image grid with the settings of its samples."""
    paths = (Path(folder, name) for name in SHEETS if name in names)
    return any(path.is_file() and images.settings_in(path) is not None for path in paths)


def holds_samples(folder: Path, names: set[str]) -> bool:
    """True if a folder with these file names holds samples."""
    return _has_our_settings(folder, names) or any(
        name.startswith("samples_") and name.endswith(".npz") for name in names
    )
