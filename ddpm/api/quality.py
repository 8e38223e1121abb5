"""Evaluation of the quality of samples, by their distances from real images."""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.api.runs import RUNS, expand_path, open_run
from ddpm.api.settings import parse_section, progress_bar
from ddpm.config.quality import QualityConfig
from ddpm.planning import quality_figures
from ddpm.runs.results import QualityJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import arrays
from ddpm.storage.arrays import Stream

Figure = tuple[float, float | None, float | None]  # value, and its 95 % interval where there is one


@dataclass(frozen=True)
class Quality:
    """How good samples are: their figures, and the same of other real images, blurred ones and noise."""

    rows: dict[str, dict[str, Figure]]
    """samples, real, blurred, noise -> fd, fd_infinity, kd, density, coverage, patches_fine, ..."""
    about: dict[str, Any]
    """What the figures were measured with: n, reference and its digest, weights, sampler, seeds, feature network."""
    note: str
    """Which figures mean something, where the reference is unlike the images that the features were learned from."""

    @property
    def figures(self) -> dict[str, Figure]:
        """Those of the samples."""
        return self.rows["samples"]

    def check_comparable(self, other: "Quality") -> None:
        """Raises UserError if the two differ in what matters, such as the number of samples or the reference."""
        quality_figures.check_comparable(self.about, other.about)


def evaluate_quality(
    source: str | os.PathLike[str] | Run | None = None,
    reference: str | os.PathLike[str] = "",
    num_samples: int = 2000,
    *,
    samples: str | os.PathLike[str] | np.ndarray | None = None,
    runs_dir: str | os.PathLike[str] = RUNS,
    keep: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Quality:
    """Evaluates the quality of samples of a model, or of images that there are already.

    Arguments:
        source: a `Run`, the name of one in `runs_dir`, the folder of one, or a .pt file; None for images with a
            reference.
        reference: images to compare with: a folder, an .npz file or a data set by name; "": the run's own data, its
            held-out part where that has at least 256 images.
        num_samples: images to sample, at least 256.
        samples: images in place of samples: uint8 [N, H, W, C], an .npz file or a folder.
        keep: leave the result in the folder of the run, as `ddpm evaluate quality` does.
        progress: show a progress bar on stderr.
        settings: others, by the names that `ddpm evaluate quality --help` lists, such as steps=50 or half="first".

    Raises UserError for data that cannot be read, and for fewer images than can be measured; KeyboardInterrupt if it
    was asked to stop.

        found = ddpm.evaluate_quality("runs/mine", num_samples=2000)
        print(found.figures["fd"], found.rows["real"]["fd"])
    """
    from ddpm.quality import evaluation

    named = None if source is None else _source(source, runs_dir)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ddpm-quality-")))
        if isinstance(samples, np.ndarray):
            arrays.write_npz(work / "given.npz", Stream(samples.shape, samples.dtype, [samples]))
            samples = work / "given.npz"
        values = {"reference": str(reference), "num_samples": num_samples, "samples": str(samples or ""), **settings}
        request = parse_section(QualityConfig, values)
        quality_figures.check(request, named is not None)
        kept = keep and isinstance(named, Run)
        folder = named.new_result_folder("qualities") if kept and isinstance(named, Run) else work / "result"
        show = stack.enter_context(progress_bar(progress))
        with Worker(folder) as worker:
            whole = False
            for done in evaluation.measure_source(folder, worker, named, request, {}):
                show(done.done, done.total)
                whole = done.done == done.total
            worker.beat(state="finished" if whole else "stopped", now=True)
        if not (result := QualityJob(folder).result):  # it was asked to stop, which the Worker makes of Ctrl-C
            raise KeyboardInterrupt
        return _quality(result)


def _source(source: str | os.PathLike[str] | Run, runs_dir: str | os.PathLike[str]) -> Run | Path:
    if not isinstance(source, Run) and (path := expand_path(source)).suffix == ".pt":
        return path
    return open_run(source, runs_dir)


def _quality(result: dict[str, Any]) -> Quality:
    rows = {row["name"]: {name: tuple(values) for name, values in row["figures"].items()} for row in result["rows"]}
    return Quality(rows, result["about"], quality_figures.applicability(result))
