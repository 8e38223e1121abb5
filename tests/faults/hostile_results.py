"""Results of a run as a stranger or a damaged disk would leave them: each of their files x each kind of wrongness."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ddpm.config.tasks import SampleConfig, SolverBenchmarkConfig
from ddpm.runs import run_folder, runs
from ddpm.runs.results import EvaluationJob
from ddpm.storage import files
from faults import hostile_folders
from faults.hostile_folders import EVALUATION, SAMPLES, STEP, TIME, Case

BENCHMARK, TRAJECTORY = f"frontiers/{TIME}", f"microscopes/{TIME}"
IMAGES, ARRAYS = run_folder.MOST_IMAGE, run_folder.MOST_ARRAYS


class Place(NamedTuple):
    """A file that a page reads."""

    page: str
    most: int  # bytes
    tab: str = ""  # of the page


SAMPLE, EVALUATE, EXPLORE = "pages/sample.py", "pages/evaluate.py", "pages/explore.py"
TRACE = ":material/biotech: Trajectory"
PLACES = {
    f"samples/{STEP:06d}.png": Place("pages/monitor.py", IMAGES),
    **{f"{SAMPLES}/{name}.png": Place(SAMPLE, IMAGES) for name in ("preview", "grid", "pairs", "mask")},
    **{f"{SAMPLES}/{name}/00000.png": Place(SAMPLE, IMAGES) for name in ("images", "given")},
    **{f"{SAMPLES}/{name}.npz": Place(SAMPLE, ARRAYS) for name in ("samples_1x8x8x3", "noise")},
    f"{SAMPLES}/note.txt": Place(SAMPLE, run_folder.MOST_NOTE),
    f"{SAMPLES}/settings.json": Place(SAMPLE, run_folder.MOST_SETTINGS),
    f"{SAMPLES}/result.json": Place(SAMPLE, run_folder.MOST_RESULT),
    **{f"{EVALUATION}/{name}_terms.npz": Place(EVALUATE, ARRAYS) for name in EvaluationJob.TERMS},
    f"{EVALUATION}/result.json": Place(EVALUATE, run_folder.MOST_RESULT),
    f"{BENCHMARK}/sheet.png": Place(EXPLORE, IMAGES),
    f"{BENCHMARK}/settings.json": Place(EXPLORE, run_folder.MOST_SETTINGS),
    f"{BENCHMARK}/result.json": Place(EXPLORE, run_folder.MOST_RESULT),
    f"{TRAJECTORY}/strip.png": Place(EXPLORE, IMAGES, TRACE),
    f"{TRAJECTORY}/trajectory.gif": Place(EXPLORE, IMAGES, TRACE),
    f"{TRAJECTORY}/trajectory.mp4": Place(EXPLORE, IMAGES, TRACE),
    f"{TRAJECTORY}/trajectory.npz": Place(EXPLORE, ARRAYS, TRACE),
    f"{TRAJECTORY}/settings.json": Place(EXPLORE, run_folder.MOST_SETTINGS, TRACE),
    f"{TRAJECTORY}/result.json": Place(EXPLORE, run_folder.MOST_RESULT, TRACE),
}
FOLDERS = {
    f"{SAMPLES}/images": Place(SAMPLE, 0),
    f"{SAMPLES}/given": Place(SAMPLE, 0),
    EVALUATION: Place(EVALUATE, 0),
    "frontiers": Place(EXPLORE, 0),
    BENCHMARK: Place(EXPLORE, 0),
    "microscopes": Place(EXPLORE, 0, TRACE),
    TRAJECTORY: Place(EXPLORE, 0, TRACE),
}


class ResultCase(NamedTuple):
    """One thing that is wrong with a result."""

    case: Case
    place: Place


def healthy(runs_dir: Path, name: str = "healthy") -> runs.Run:
    """A run with a result of every kind, each with all of its files."""
    run = hostile_folders.healthy(runs_dir, name)
    colour = np.full((1, 8, 8, 3), 60, np.uint8)
    png = _encoded(colour[0], "PNG")
    for file in PLACES:
        if file.endswith(".png"):
            files.write_bytes(run.folder / file, png)
    _arrays(run.folder / SAMPLES / "samples_1x8x8x3.npz", arr_0=colour)
    _arrays(run.folder / SAMPLES / "noise.npz", arr_0=np.zeros((1, 3, 8, 8), np.float32))
    files.write_json(run.folder / SAMPLES / "result.json", {"rmse": [1.0], "mean": 1.0, "unit": "levels"})
    for name in EvaluationJob.TERMS:
        _arrays(run.folder / EVALUATION / f"{name}_terms.npz", arr_0=np.zeros(20))
    checkpoint = {"path": str(run.folder / f"model{STEP:06d}.pt"), "sha256": "0" * 64, "step": STEP, "weights": "model"}
    row = dict(solver="ddim", spacing="uniform", flip="", asked=1, calls=1, seconds=1.0, distance=1.0)
    pace = dict(median=1.0, low=1.0, high=1.0)
    machine = dict(device="cpu", threads=1, processor="a processor", precision="fp32")
    numbers = dict(t=[1.0], lam=[0.0], change=[1.0], x_start_change=[None], total=1)
    for folder, section, settings, result in (
        (BENCHMARK, "frontier", SolverBenchmarkConfig(), dict(rows=[row], converged=[], pace=pace, machine=machine)),
        (TRAJECTORY, "sample", SampleConfig(num_samples=1), numbers),
    ):
        recorded = {section: settings.__dict__, "checkpoint": checkpoint, "command": "ddpm"}
        files.write_json(run.folder / folder / "settings.json", recorded)
        files.write_json(run.folder / folder / "result.json", {**recorded, **result})
        status = dict(state="finished", step=1, total_steps=1, updated_at=1e9)
        files.write_json(run.folder / folder / "status.json", status)
    files.write_bytes(run.folder / TRAJECTORY / "trajectory.gif", _encoded(colour[0], "GIF"))
    files.write_bytes(run.folder / TRAJECTORY / "trajectory.mp4", b"a film")
    frames = dict(x=colour, x_start=colour, eps=colour, t=np.ones(1), calls=np.ones(1, int))
    _arrays(run.folder / TRAJECTORY / "trajectory.npz", **frames)
    return run


def cases() -> Iterator[ResultCase]:
    """All cases, each with a name of its own."""
    for file, place in PLACES.items():
        for kind, wrong in hostile_folders.kinds_of_file(file, place.most).items():
            yield ResultCase(Case(hostile_folders.case_name(file, kind), wrong), place)
    for folder, place in FOLDERS.items():
        for kind, wrong in hostile_folders.kinds_of_folder(folder).items():
            yield ResultCase(Case(hostile_folders.case_name(folder, kind), wrong), place)


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _arrays(path: Path, **arrays: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    files.write_bytes(path, buffer.getvalue())
