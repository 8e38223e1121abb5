"""Results made from a checkpoint of a run: samples, evaluations, comparisons of samplers, trajectories.

Each is a folder of its own, runs/NAME/FOLDER/TIME/, with settings.json and result.json.  To add a kind of result: a
module whose generator does the work, and a row of KINDS.
"""

import contextlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm import formatting
from ddpm.config import codec, records
from ddpm.config.matrix import MatrixConfig
from ddpm.config.quality import QualityConfig
from ddpm.config.tasks import EvalConfig, FromCheckpoint, SampleConfig, SolverBenchmarkConfig
from ddpm.errors import UserError
from ddpm.runs import result_records, run_folder
from ddpm.runs.jobs import Job
from ddpm.storage import arrays, files, folders


class Result(Job):
    """A job that computes something from a checkpoint, with its settings and its result."""

    RECORD: type = result_records.Anything  # what its result.json holds

    @property
    def settings(self) -> dict[str, Any]:
        """Content of settings.json: settings, checkpoint and the command of the job; empty before it starts."""
        return self._group("settings.json", run_folder.MOST_SETTINGS, result_records.Settings)

    @property
    def _where(self) -> str:
        return str(self.folder / "settings.json")

    @property
    def result(self) -> dict[str, Any]:
        """Content of result.json: the numbers so far; empty before the first."""
        return self._group("result.json", run_folder.MOST_RESULT, self.RECORD)

    def _group(self, name: str, most: int, record: type) -> dict[str, Any]:
        """A file of named values; empty if there is none.  Raises UserError unless they are those of `record`."""
        found: dict[str, Any] | None = files.json_in(self.content, name, most)
        if found is not None and found != {}:
            records.read(record, found, str(self.folder / name))
        return found or {}

    @property
    def command(self) -> str:
        """The shell command that repeats the job; empty before it is written."""
        return str(self.settings.get("command", ""))


class SampleJob(Result):
    """A set of samples: runs/<name>/samples/<time>/.

    The result of an inversion has the `rmse` of each reconstructed image, their `mean`, and their `unit`.
    """

    RECORD = result_records.Inversion

    @cached_property
    def config(self) -> SampleConfig:
        """The sampling request.  Raises UserError if the settings cannot be read."""
        return codec.section_from_json(SampleConfig, self.settings.get("sample", {}), self._where)

    @property
    def sample_config(self) -> SampleConfig | None:
        """The sampling request; None before it is written, or if it cannot be read."""
        try:
            return self.config if "sample" in self.settings else None
        except (KeyError, UserError):
            return None

    def is_complete(self) -> bool:
        """True if it has all its images: the file with all of them is written last."""
        sample, shape = self.sample_config, self.shape
        return sample is not None and shape is not None and shape[0] == sample.num_samples

    @property
    def note(self) -> str:
        """The user's note on the samples; empty without one."""
        try:
            text = self.content.read("note.txt", run_folder.MOST_NOTE)
            return text.decode("utf-8-sig", errors="replace").strip()
        except FileNotFoundError:
            return ""

    def set_note(self, text: str) -> None:
        """Replaces the note.  Raises DiskFull, and UserError if the samples no longer exist."""
        try:
            with folders.kept(self.content):
                files.write_bytes(self.folder / "note.txt", text.strip().encode("utf-8", "replace"))
        except FileNotFoundError:
            raise UserError(f"{self.folder} no longer exists: choose other samples.", code="not-found") from None

    @property
    def preview(self) -> Path:
        """Grid of the current state of the images, written while sampling."""
        return self.folder / "preview.png"

    @property
    def grid(self) -> Path:
        """Grid of all images, at most 256."""
        return self.folder / "grid.png"

    @property
    def pairs(self) -> Path:
        """Input and low-resolution images next to their samples; does not exist for sampling from noise alone."""
        return self.folder / "pairs.png"

    @property
    def given(self) -> Path:
        """Folder of the input images, 00000.png first: sample k starts from input k modulo their number."""
        return self.folder / "given"

    @property
    def given_images(self) -> list[Path]:
        """The input images as PNG files, in order; none for sampling from noise alone."""
        return self._images_in(self.given.name)

    @property
    def mask(self) -> Path:
        """Inpainting: the mask, white where new content is sampled."""
        return self.folder / "mask.png"

    @property
    def noise(self) -> Path:
        """Inversion: the noise of each image, as arr_0, float32 [N, C, H, W]."""
        return self.folder / "noise.npz"

    @property
    def npz(self) -> Path | None:
        """All images as an array, uint8 [N, H, W, C]: the newest file, as resuming replaces one of fewer images."""
        found = []
        for name in self.content.files(".npz"):
            if name.startswith("samples_"):
                with contextlib.suppress(FileNotFoundError):  # it is being replaced
                    found.append((self.content.stat(name).st_mtime_ns, self.folder / name))
        return max(found)[1] if found else None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """(N, H, W, C) of the images, from the name of the file `npz`; None without one."""
        match = re.fullmatch(r"samples_(\d+)x(\d+)x(\d+)x(\d+)", self.npz.stem) if self.npz else None
        return tuple(map(int, match.groups())) if match else None

    @property
    def images(self) -> list[Path]:
        """The images as PNG files, in order."""
        return self._images_in("images")

    def _images_in(self, name: str) -> list[Path]:
        folder = self.content.inside(name)
        return [folder.path / file for file in folder.files(".png")]


class EvaluationJob(Result):
    """An evaluation in bits per dimension: runs/<name>/evaluations/<time>/."""

    RECORD = result_records.Evaluation

    TERMS = ("vb", "mse", "xstart_mse")

    @cached_property
    def config(self) -> EvalConfig:
        """The settings of the evaluation."""
        return codec.section_from_json(EvalConfig, self.settings.get("evaluation", {}), self._where)

    @property
    def summary(self) -> str:
        """The result, as in "3.412 ± 0.021 bits/dim (1,000 images)"; empty before there is one."""
        result = self.result
        if not result:
            return ""
        kind = "held-out image" if result["data"]["part"] == "test" else "image"
        return (
            f"{bits(result['bits_per_dim'], result['ci95'])} bits/dim ({formatting.plural(result['pictures'], kind)})"
        )

    def terms_path(self, name: str) -> Path:
        """File of the terms "vb", "mse" or "xstart_mse", in the format of improved-diffusion."""
        return self.folder / f"{name}_terms.npz"

    def terms(self) -> dict[str, np.ndarray]:
        """Means of the terms over the images, float64 [T] each, t = 0 first.  Raises UserError if a file is damaged."""
        found = {}
        for name in self.TERMS:
            try:
                with self.open_file(self.terms_path(name), run_folder.MOST_ARRAYS) as file:
                    found[name] = arrays.read_npz(file, "arr_0")["arr_0"][::-1].astype(float)
            except (OSError, ValueError, KeyError, IndexError, UserError) as error:
                raise UserError(
                    f"{self.terms_path(name)} cannot be read ({error}): evaluate again.", code="unreadable-file"
                ) from error
        return found


class SolverBenchmarkJob(Result):
    """A comparison of samplers on a checkpoint: runs/<name>/frontiers/<time>/.  Its result has `rows`."""

    RECORD = result_records.Benchmark

    @cached_property
    def config(self) -> SolverBenchmarkConfig:
        """The settings of the comparison."""
        return codec.section_from_json(SolverBenchmarkConfig, self.settings.get("frontier", {}), self._where)

    @property
    def sheet(self) -> Path:
        """Contact sheet of samples: one row per sampler, one column per number of model evaluations."""
        return self.folder / "sheet.png"


class TrajectoryJob(Result):
    """The sampling trajectory of one image: runs/<name>/microscopes/<time>/.

    Its result has t, lam, change and x_start_change of every model evaluation, and their total.
    """

    RECORD = result_records.Trajectory

    @property
    def trajectory(self) -> Path:
        """Arrays x, x_start, eps: uint8 [K, H, W, C]; t: timesteps; calls: numbers of the evaluations."""
        return self.folder / "trajectory.npz"


class MatrixJob(Result):
    """A matrix of samples: runs/<name>/matrices/<time>/.  Its result has `rows` and `columns`, the labels."""

    RECORD = result_records.Matrix

    @property
    def sheet(self) -> Path:
        """The labelled sheet of all images."""
        return self.folder / "sheet.png"

    @property
    def arrays(self) -> Path:
        """All images as arr_0: uint8 [rows, columns, H, W, C]."""
        return self.folder / "matrix.npz"


class QualityJob(Result):
    """An evaluation of sample quality: runs/<name>/qualities/<time>/.  Its result has `about`, `rows` and `spectra`."""

    RECORD = result_records.Quality

    @cached_property
    def config(self) -> QualityConfig:
        """The settings of the evaluation."""
        return codec.section_from_json(QualityConfig, self.settings.get("quality", {}), self._where)

    @property
    def summary(self) -> str:
        """The result, as in "FD-c10v1 12.3 (11.9 to 12.8), 2,000 samples"; empty before there is one."""
        result = self.result
        if not result:
            return ""
        figures = next(row["figures"] for row in result["rows"] if row["name"] == "samples")
        count = formatting.plural(result["about"]["n"], "sample")
        return f"FD-c10v1 {quality_text(figures['fd'])}, {count}"

    @property
    def grid(self) -> Path:
        """Grid of the first 64 samples."""
        return self.folder / "grid.png"

    @property
    def npz(self) -> Path | None:
        """All samples as arr_0, uint8 [N, H, W, C]; None before there is a result."""
        found = [name for name in self.content.files(".npz") if name.startswith("samples_")]
        return self.folder / found[0] if found else None

    def batch_path(self, first: int) -> Path:
        """File of a batch of samples, uint8 [n, H, W, C], by the number of its first; there until all are sampled."""
        return self.folder / f"batch_{first:07d}.npy"

    def batch_paths(self) -> list[Path]:
        """Files of the batches that are there, in order."""
        names = [name for name in self.content.files(".npy") if re.fullmatch(r"batch_\d{7}\.npy", name)]
        return [self.folder / name for name in sorted(names)]

    def count_kept(self) -> int:
        """How many samples an evaluation that ended early has, by the names and headers of its files."""
        names = self.batch_paths()
        if not names:
            return 0
        before = int(names[-1].stem.removeprefix("batch_"))
        try:
            with self.open_file(names[-1], run_folder.MOST_ARRAYS) as file:
                return before + arrays.read_header(file).shape[0]
        except (UserError, OSError, ValueError, IndexError):  # a damaged one is sampled again
            return before

    def batches(self) -> list[np.ndarray]:
        """Samples of an evaluation that ended early, uint8 [n, H, W, C] each, from the first to the last without a gap.

        They end before one that is damaged, as a loss of power leaves one behind: it is sampled again.
        """
        found: list[np.ndarray] = []
        for path in self.batch_paths():
            if path != self.batch_path(sum(map(len, found))):
                break
            try:
                with self.open_file(path, run_folder.MOST_ARRAYS) as file:
                    batch = arrays.read_npy(file)
            except UserError:
                break
            shape = found[0].shape[1:] if found else batch.shape[1:]
            if batch.dtype != np.uint8 or batch.ndim != 4 or not len(batch) or batch.shape[1:] != shape:
                break
            found.append(batch)
        return found


def quality_text(figure: Sequence[float | None]) -> str:
    """A figure with its interval, as in "12.3 (11.9 to 12.8)"."""
    value, low, high = figure
    words = formatting.number(value, 3)
    return words if low is None else f"{words} ({formatting.number(low, 3)} to {formatting.number(high, 3)})"


def bits(mean: float, ci95: float | None) -> str:
    """A mean with its 95 % interval, as in "3.412 ± 0.021"; a narrow interval has one more digit."""
    digits = 3 if ci95 is None or ci95 >= 0.001 else 4
    return f"{mean:.{digits}f}" + ("" if ci95 is None else f" ± {ci95:.{digits}f}")


class Kind(NamedTuple):
    """A kind of result: its settings, its command, the function that computes it, the class that reads it."""

    title: str  # as a heading
    words: str  # help of the command
    command: str  # `ddpm COMMAND --run NAME ... --out FOLDER` computes one
    settings: type[FromCheckpoint]  # the command's flags, and the form's fields
    section: str  # key of the settings in settings.json
    job: type[Result] = Result  # reads the folder
    work: str = ""  # "module:function"; empty if a module of `ddpm/cli` has the command


KINDS = {
    "samples": Kind("Samples", "Sample images.", "sample", SampleConfig, "sample", SampleJob),
    "evaluations": Kind("Evaluations", "Measure bits per dimension.", "nll", EvalConfig, "evaluation", EvaluationJob),
    "frontiers": Kind(
        "Sampler comparisons",
        "Compare samplers.",
        "bench samplers",
        SolverBenchmarkConfig,
        "frontier",
        SolverBenchmarkJob,
    ),
    "microscopes": Kind(
        "Trajectories", "Keep every denoising step of one image.", "microscope", SampleConfig, "sample", TrajectoryJob
    ),
    "matrices": Kind(
        "Matrix",
        "Sample seeds against weights, checkpoints, guidance or steps, from the same noise, as one labelled sheet.",
        "matrix",
        MatrixConfig,
        "matrix",
        MatrixJob,
        "ddpm.analysis.matrix:make",
    ),
    "qualities": Kind(
        "Sample quality",
        "Measure the quality of samples: distances from real images, their variety, colours and detail.",
        "evaluate quality",
        QualityConfig,
        "quality",
        QualityJob,
    ),
}
"""Kinds of results by the name of their folder in a run folder.

`work(folder, worker, source, settings, flags, run_probe)` is a generator that yields objects with `done` and `total`.
It writes settings.json before anything else and result.json at the end, and ends early if `worker` was asked to
stop. A row with `work` has its command in `ddpm --help` and its tab on the Explore page without further code.
"""
