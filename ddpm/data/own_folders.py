"""Folders that this program or improved-diffusion wrote, recognised so that they are not taken for data."""

from pathlib import Path
from typing import Any

from ddpm.data.file_kinds import SHEETS
from ddpm.errors import UserError
from ddpm.storage import files, images


def made_by_us(folder: Path | str, names: set[str]) -> str:
    """What a folder with these names in it is to this program: "run", "samples", "job"; empty for anything else."""
    if "config.json" in names and _is_our_config(Path(folder, "config.json")):
        return "run"
    if "progress.csv" in names and ("log.txt" in names or any(name.endswith(".pt") for name in names)):
        return "run"  # one of improved-diffusion
    settings = _has_our_settings(folder, names)
    told = settings or names & {"run.lock", "status.json"}
    if told and names & {"images", *SHEETS} and (settings or _is_sheet(folder, names)):
        return "samples" if "images" in names else "job"
    if "run.lock" in names or ("status.json" in names and names & {"log.txt", "control.json", "result.json"}):
        return "job"
    return "samples" if "images" in names and _is_sheet(folder, names) else ""


def _is_our_config(path: Path) -> bool:
    """Whether these are the settings of a run: others call files so too."""
    return {"format", "model", "diffusion", "train"} <= set(_object_in(path))


def _has_our_settings(folder: Path | str, names: set[str]) -> bool:
    """Whether the settings of samples, or of what else this program makes of a network, lie there: others call
    files so too.
    """
    found = _object_in(Path(folder, "settings.json")) if "settings.json" in names else {}
    return any(isinstance(found.get(job), dict) for job in ("sample", "evaluation", "frontier"))


def _object_in(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty for anything else than an object."""
    try:
        found = files.read_json(path) if path.is_file() else None
    except (OSError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_sheet(folder: Path | str, names: set[str]) -> bool:
    """Whether a sheet of samples lies there that says of itself how it was made."""
    paths = (Path(folder, name) for name in SHEETS if name in names)
    return any(path.is_file() and images.settings_in(path) is not None for path in paths)


def holds_samples(folder: Path, names: set[str]) -> bool:
    """Whether a folder with these names in it is seen to hold samples."""
    return _has_our_settings(folder, names) or any(
        name.startswith("samples_") and name.endswith(".npz") for name in names
    )
