"""Results made from a checkpoint of a run: samples, evaluations, comparisons of samplers, trajectories.

Each is a folder of its own, runs/NAME/FOLDER/TIME/, with settings.json and result.json.  To add a kind of result: a
module whose generator does the work, and a row of KINDS.
"""

import contextlib
import re
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm import formatting
from ddpm.config import codec
from ddpm.config.tasks import EvalConfig, FromCheckpoint, SampleConfig, SolverBenchmarkConfig
from ddpm.errors import UserError
from ddpm.runs.jobs import Job
from ddpm.storage import files


class Result(Job):
    """A job that tells what it does with a checkpoint, and what came of it."""

    @property
    def settings(self) -> dict[str, Any]:
        """settings.json: the settings, the checkpoint and the command that does the same again;
        empty before it began.
        """
        return files.read_json(self.folder / "settings.json") or {}

    @property
    def result(self) -> dict[str, Any]:
        """result.json: what came of it so far, as numbers; empty until there is something."""
        return files.read_json(self.folder / "result.json") or {}

    @property
    def command(self) -> str:
        """What does the same again, in a shell; empty before the job has written it down."""
        return str(self.settings.get("command", ""))


class SampleJob(Result):
    """A set of pictures being drawn, or drawn: runs/<name>/samples/<time>/.

    An inversion's result has `rmse` of each picture drawn again, `mean` of them, and their `unit`.
    """

    @cached_property
    def config(self) -> SampleConfig:
        return codec.section_from_json(SampleConfig, self.settings.get("sample", {}))

    @property
    def sample_config(self) -> SampleConfig | None:
        """The settings the samples were asked for with; None before the job has written them,
        or where they cannot be read.
        """
        try:
            return self.config if "sample" in self.settings else None
        except (KeyError, UserError):
            return None

    @property
    def note(self) -> str:
        """What its owner wrote about it; empty without."""
        try:
            return (self.folder / "note.txt").read_text(encoding="utf-8-sig", errors="replace").strip()
        except FileNotFoundError:
            return ""

    def set_note(self, text: str) -> None:
        """Write a note in the place of the one before.  Raises DiskFull, and UserError where the job is gone."""
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is not there any more: choose another drawing.", code="not-found")
        files.write_bytes(self.folder / "note.txt", text.strip().encode("utf-8", "replace"))

    @property
    def preview(self) -> Path:
        """What the pictures look like so far."""
        return self.folder / "preview.png"

    @property
    def grid(self) -> Path:
        """All pictures (at most 256 of them) in one."""
        return self.folder / "grid.png"

    @property
    def pairs(self) -> Path:
        """Each small or given picture beside what was drawn from it; not there where they begin with noise alone."""
        return self.folder / "pairs.png"

    @property
    def given(self) -> Path:
        """The folder of the pictures that were given, 00000.png first:
        picture k begins with number k modulo their count.
        """
        return self.folder / "given"

    @property
    def mask(self) -> Path:
        """Inpainting: the mask that was given, white where something new is drawn."""
        return self.folder / "mask.png"

    @property
    def noise(self) -> Path:
        """Inversion: arr_0, float32 [N, C, H, W], the noise of each picture."""
        return self.folder / "noise.npz"

    @property
    def npz(self) -> Path | None:
        """All pictures drawn, as arrays; the newest file, as one of fewer pictures goes once a drawing has gone on."""
        found = []
        for path in self.folder.glob("samples_*.npz"):
            with contextlib.suppress(FileNotFoundError):  # it may just be replaced
                found.append((path.stat().st_mtime_ns, path))
        return max(found)[1] if found else None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(N, H, W, C) of the pictures drawn, as the name of their file says it; None where there is none."""
        match = re.fullmatch(r"samples_(\d+)x(\d+)x(\d+)x(\d+)", self.npz.stem) if self.npz else None
        return tuple(map(int, match.groups())) if match else None

    @property
    def images(self) -> list[Path]:
        return sorted((self.folder / "images").glob("*.png"))


class EvaluationJob(Result):
    """Pictures being measured in bits per dimension, or measured: runs/<name>/evaluations/<time>/."""

    TERMS = ("vb", "mse", "xstart_mse")

    @cached_property
    def config(self) -> EvalConfig:
        return codec.section_from_json(EvalConfig, self.settings.get("evaluation", {}))

    @property
    def summary(self) -> str:
        """3.412 ± 0.021 bits/dim (1,000 images); empty until there is a result."""
        result = self.result
        if not result:
            return ""
        kind = "held-out image" if result["data"]["part"] == "test" else "image"
        return (
            f"{bits(result['bits_per_dim'], result['ci95'])} bits/dim ({formatting.plural(result['pictures'], kind)})"
        )

    def terms_path(self, name: str) -> Path:
        """The file of "vb", "mse" or "xstart_mse", as improved-diffusion calls and writes it."""
        return self.folder / f"{name}_terms.npz"

    def terms(self) -> dict[str, np.ndarray]:
        """The means over the pictures, float64 [T], t = 0 first.  Raises UserError when a file cannot be read."""
        found = {}
        for name in self.TERMS:
            try:
                with np.load(self.terms_path(name)) as arrays:
                    found[name] = arrays["arr_0"][::-1].astype(float)
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise UserError(
                    f"{self.terms_path(name)} cannot be read ({error}): evaluate again.", code="unreadable-file"
                ) from error
        return found


class SolverBenchmarkJob(Result):
    """Samplers being compared on a checkpoint, or compared: runs/<name>/frontiers/<time>/.  Its result has `rows`."""

    @cached_property
    def config(self) -> SolverBenchmarkConfig:
        return codec.section_from_json(SolverBenchmarkConfig, self.settings.get("frontier", {}))

    @property
    def sheet(self) -> Path:
        """The pictures: a row a sampler, a column a number of calls."""
        return self.folder / "sheet.png"


class TrajectoryJob(Result):
    """One picture being looked at as it comes about: runs/<name>/microscopes/<time>/.

    Its result has t, lam, change and x_start_change of every network call, and their total.
    """

    @property
    def trajectory(self) -> Path:
        """x, x_start, eps: uint8 [K, H, W, C]; their timesteps t, and the calls (from 1) that they are of."""
        return self.folder / "trajectory.npz"


def bits(mean: float, ci95: float | None) -> str:
    """3.412 ± 0.021, to a digit more where the interval is very narrow."""
    digits = 3 if ci95 is None or ci95 >= 0.001 else 4
    return f"{mean:.{digits}f}" + ("" if ci95 is None else f" ± {ci95:.{digits}f}")


class Kind(NamedTuple):
    """A kind of result: what asks for it, what does the work, and what reads it."""

    title: str  # as a heading
    words: str  # what it does, as the command's help
    command: str  # `ddpm COMMAND --run NAME ... --out FOLDER` makes one
    settings: type[FromCheckpoint]  # the command's flags, and the form's fields
    section: str  # key of the settings in settings.json
    job: type[Result] = Result  # reads the folder
    work: str = ""  # "module:function"; empty where a module of `ddpm/cli` has the command


KINDS = {
    "samples": Kind("Samples", "Sample images.", "sample", SampleConfig, "sample", SampleJob),
    "evaluations": Kind("Evaluations", "Measure bits per dimension.", "nll", EvalConfig, "evaluation", EvaluationJob),
    "frontiers": Kind(
        "Frontier", "Compare samplers.", "bench samplers", SolverBenchmarkConfig, "frontier", SolverBenchmarkJob
    ),
    "microscopes": Kind(
        "Microscope", "Keep every denoising step of one image.", "microscope", SampleConfig, "sample", TrajectoryJob
    ),
}
"""By the name of the folder in a run's.

`work(folder, worker, source, settings, flags, run_probe)` is a generator that yields objects with `done` and `total`.
It writes settings.json before anything else and result.json at the end, and ends early where `worker` was asked to
stop. A row with `work` has its command in `ddpm --help` and its tab on the Explore page without further code.
"""
