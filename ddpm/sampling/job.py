"""Drawing into a folder: pictures go to disk as they come, then a grid and arrays are made of those files.

Nothing is held of what is drawn but the newest few pictures.  A drawing that was ended, however that came about, goes on
with the first picture that is not there, and comes to the same files.
"""

import dataclasses
import logging
import shlex
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm import formatting
from ddpm.checkpoints import checkpoint_files
from ddpm.checkpoints.checkpoint_files import Weights
from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.models import backend
from ddpm.planning import classes, inputs, low_res, memory, metadata, variances
from ddpm.planning.inputs import Given
from ddpm.planning.low_res import LowRes
from ddpm.runs import runs
from ddpm.runs.jobs import Stopped, Worker, keep_on_failure
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.sampling import analytic_variance
from ddpm.sampling.engine import Chosen, Drawn, check, chosen, draw, flags_of, labels_for, network_of, origin, pixels_of
from ddpm.storage import arrays, files, images
from ddpm.storage.arrays import Stream

log = logging.getLogger("ddpm")

PREVIEW_INTERVAL = 0.7  # seconds between two looks at pictures in the making
PREVIEW_IMAGES = 64
PREVIEW_BYTES = 2**24  # of pixels, at most, in a preview
GRID_IMAGES = 256
GRID_BYTES = 2**28  # of pixels, at most, in a grid


def draw_source(
    folder: Path,
    worker: Worker,
    source: Run | Path,
    sample: SampleConfig,
    flags: Mapping[str, Any],
    base: Config | None = None,
    ask: bool = True,
    like: Mapping[str, Any] | None = None,
) -> None:
    """Draw from a run, or from a checkpoint file, into a job's folder.

    `flags` are model and diffusion settings for a file that does not hold its own, beyond those of `base`; where
    `ask`, a probe checks them.  `like`: a recipe that holds them instead.  Raises UserError when they contradict it.
    """
    worker.beat(warning=distributed.set_num_threads(sample.threads, "drawing"))

    def read() -> Chosen:
        _check_empty(SampleJob(folder))
        return chosen(source, sample, flags, base, ask, held=metadata.config_of(like) if like else None)

    weights, config, path, about = distributed.run_on_main(read)
    draw_into(folder, worker, weights, config, sample, path, distributed.device(), about)


def resume(folder: Path, worker: Worker) -> None:
    """Go on with the drawing in a folder, by its settings.json.  Raises UserError where that is not possible."""
    job = SampleJob(folder)

    def read() -> tuple[Weights, Config, SampleConfig, Path, dict[str, Any], int]:
        runs.check_resumable(job)
        told = job.settings
        name, remedy = f"the drawing {job.name}", "put it back, or draw anew"
        path = metadata.checkpoint_of(told, name, remedy, near=folder.absolute().parent.parent)
        weights = checkpoint_files.load_weights(path)
        about = origin(weights, path)
        if about["sha256"] != told["checkpoint"]["sha256"]:
            raise UserError(
                f"{path} was replaced while it was being read, and the pictures so far are from the old one: {remedy}.",
                code="changed-file",
            )
        config = weights.config or metadata.config_of(told)
        if config is None:
            raise UserError(
                f"{folder / 'settings.json'} does not hold the settings of {path.name}: draw anew.", code="changed-file"
            )
        sample = metadata.sample_of(told, str(folder / "settings.json"))
        at_once = told.get("drawn_at_once")
        return weights, config, _with_own(job, sample), path, about, at_once if isinstance(at_once, int) else 0

    weights, config, sample, path, about, at_once = distributed.run_on_main(read)
    worker.beat(warning=distributed.set_num_threads(sample.threads, "drawing"))
    draw_into(folder, worker, weights, config, sample, path, distributed.device(), about, at_once=at_once, again=True)


def _with_own(job: SampleJob, sample: SampleConfig) -> SampleConfig:
    """`sample` with the copies that the job's folder holds of what was given, wherever that folder is now."""
    if job.given.is_dir():
        found = sorted(job.given.glob("*.png"))
        picture = found[0] if len(found) == 1 else job.given
        sample = dataclasses.replace(sample, picture=str(picture.absolute()))
    return dataclasses.replace(sample, mask=str(job.mask.absolute())) if job.mask.exists() else sample


def draw_into(
    folder: Path,
    worker: Worker,
    weights: Weights,
    config: Config,
    sample: SampleConfig,
    source: Path,
    device: torch.device,
    about: dict[str, Any] | None = None,
    *,
    at_once: int = 0,
    again: bool = False,
) -> None:
    """Draw into a job's folder: preview.png as it goes, and images/; then grid.png and samples_NxHxWxC.npz.

    Where pictures are enlarged or begun with, also pairs.png and copies of these, small/ or given/ and mask.png; of an
    inversion noise.npz and result.json.  Asked to stop, or where something goes wrong, it keeps the batches that are
    finished.  Of several processes, the main one writes.  about: where the weights came from.
    again: go on with what is there, with batches as then, of `at_once`.
    """
    job = SampleJob(folder)
    if not again:
        distributed.run_on_main(lambda: _check_empty(job))
    check(config, sample)
    sample = codec.with_absolute_paths(sample)
    computing = backend.resolve_and_report(sample.kernels, sample.precision, device, worker)
    sample = dataclasses.replace(sample, precision=computing.precision, kernels=computing.kernels)  # as machines differ
    small = distributed.run_on_all_ranks(lambda: low_res.read(config, sample, _reading(worker)))
    given = distributed.run_on_all_ranks(lambda: inputs.read(config, sample, _reading(worker, "given")))
    labels = labels_for(config, sample, given.pictures if given else small)
    network = network_of(weights, config, source.name, device, sample.kernels)
    limited = dataclasses.replace(sample, batch_size=at_once or sample.batch_size)
    batch = distributed.run_on_main(lambda: memory.drawn_at_once(config, limited))
    fixed = dataclasses.replace(sample, batch_size=batch)

    errors = None
    if variances.chosen(config, sample) == "analytic":
        sha256 = (about or origin(weights, source))["sha256"]
        errors = distributed.run_on_main(
            lambda: analytic_variance.for_weights(network, config, source, sha256, worker, device, weights.data)
        )

    def begin() -> _Folder:
        about_source = about or origin(weights, source)
        told = flags_of(config, weights, SampleConfig)
        if again:
            settings = settings_of(config, sample, weights, about_source, told)
        else:
            asked = _copied(job, sample, given)
            settings = settings_of(config, asked, weights, about_source, told)
            from_where = {"given": {"picture": sample.picture, "mask": sample.mask}} if given else {}
            files.write_json(folder / "settings.json", {**settings, "drawn_at_once": batch, **from_where})
        return _Folder(job, worker, config, sample if again else asked, settings, told, labels, small, given)

    written = begin() if distributed.is_main() else None
    first = distributed.run_on_main(lambda: written.find() if written and again else 0)
    steps = (
        draw(network, config, fixed, device, small, given, first, errors) if first < sample.num_samples else iter(())
    )
    if not written:
        for _ in steps:
            if distributed.broadcast_object(False):
                return
        return
    worker.beat(state="running", message=f"Drawing {formatting.plural(sample.num_samples, 'picture')}")
    with keep_on_failure(written.finish):
        written.draw(steps)
    written.finish()
    _end(written, source)


def _end(written: "_Folder", source: Path) -> None:
    """Say how it went, and whether the checkpoint is still the one that was drawn from."""
    sample, about = written.sample, written.settings["checkpoint"]
    complete = written.count == sample.num_samples
    now = ""
    if not source.is_file():
        now = (
            f"{source.name} was removed while pictures were drawn: all of them are from the weights that it held at"
            " first."
        )
    elif files.sha256(source) != about["sha256"]:
        now = (
            f"{source.name} was replaced while pictures were drawn: all of them are from the weights that it held at"
            " first, not from those it holds now."
        )
    written.worker.beat(
        state="finished" if complete else "stopped",
        seconds_left=0.0,
        warning=" ".join(filter(None, (written.worker.status.warning, now))),
        message=(
            written.said
            if complete
            else f"Stopped with {written.count} of {formatting.plural(sample.num_samples, 'picture')} drawn"
        ),
    )


def _check_empty(job: SampleJob) -> None:
    if job.npz or job.grid.exists():
        raise UserError(f"{job.folder} already holds samples: choose another --out.", code="already-exists")
    if job.images:
        raise UserError(
            f"{job.folder} already holds samples of a drawing that did not end: go on with it by `ddpm sample --resume"
            f" {shlex.quote(str(job.folder.absolute()))}`, or choose another --out.",
            code="already-exists",
        )


def _copied(job: SampleJob, sample: SampleConfig, given: Given | None) -> SampleConfig:
    """`sample` with copies in the job's folder in the place of the pictures and the mask that were given.

    Classes that came with the pictures are said, as the copies come without.
    """
    if given is None:
        return sample
    shutil.rmtree(job.given, ignore_errors=True)  # of a drawing that ended before its first picture
    for k, picture in enumerate(given.pictures.pixels):
        images.save_png(job.given / f"{k:05d}.png", picture)
    if given.mask is not None:
        images.save_png(job.mask, given.mask[:, :, None] * np.uint8(255))
    labels = given.pictures.labels
    if labels is not None and not sample.classes:
        sample = dataclasses.replace(sample, classes=",".join(f"{label}-{label}" for label in labels))
    return _with_own(job, sample)


class _Folder:
    """A job's folder while pictures come into it."""

    def __init__(
        self,
        job: SampleJob,
        worker: Worker,
        config: Config,
        sample: SampleConfig,
        settings: dict[str, Any],
        told: list[str],
        labels: np.ndarray | None,
        small: LowRes | None,
        given: Given | None,
    ):
        self.job, self.worker, self.config, self.sample = job, worker, config, sample
        self.settings, self.told = settings, told
        self.labels, self.small, self.given = labels, small, given
        self.beside = given.pictures if given else small
        self.count = 0  # pictures that are on disk, from the first on
        self.broken: list[int] = []  # images with values that are no finite numbers
        self.warned = worker.status.warning  # before the first of them
        self.said = ""  # what came of it, in a sentence
        model = config.model
        self.shape = (model.image_size, model.image_size, model.image_channels)
        self.most = _most(PREVIEW_IMAGES, PREVIEW_BYTES, self.shape)
        self.newest: deque[np.ndarray] = deque(maxlen=max(self.most, classes.columns(labels) or 1))

    def _picture(self, number: int) -> Path:
        return self.job.folder / "images" / f"{number:05d}.png"

    def _noise(self, number: int) -> Path:
        return self.job.folder / "noise" / f"{number:05d}.npy"

    def find(self) -> int:
        """How many pictures are there and whole, from the first on.  Raises Stopped when asked to stop."""
        while self.count < self.sample.num_samples and self._is_whole(self.count):
            self.newest.append(images.read_pixels(self._picture(self.count), self.shape))
            self.count += 1
            self.worker.beat(message=f"Looking through {formatting.plural(self.count, 'picture')}")
            if "stop" in self.worker.poll_requests():
                raise Stopped
        return self.count

    def _is_whole(self, number: int) -> bool:
        path = self._picture(number)
        if not path.exists():
            return False
        try:
            images.read_pixels(path, self.shape)
            return self.sample.task != "invert" or np.load(self._noise(number)).ndim == 3
        except (UserError, OSError, ValueError, EOFError):  # a power cut may leave a file empty or cut short
            return False

    def draw(self, steps: Iterator[Drawn]) -> None:
        """Save each picture as it is finished, and a preview now and then, until all are drawn or a stop is asked for."""
        began = looked = time.monotonic()
        for drawn in steps:
            elapsed = time.monotonic() - began
            self.worker.beat(
                step=drawn.done,
                total_steps=drawn.total,
                steps_per_second=drawn.done / elapsed,
                seconds_left=elapsed / drawn.done * (drawn.total - drawn.done),
            )
            if drawn.finished:
                self._save(drawn)
            if drawn.done in (1, drawn.total) or time.monotonic() - looked > PREVIEW_INTERVAL:
                looked = time.monotonic()
                self._preview(drawn)
            if distributed.broadcast_object("stop" in self.worker.poll_requests() and drawn.done < drawn.total):
                return

    def _save(self, drawn: Drawn) -> None:
        """Write the finished pictures of a batch, but for those that were there."""
        start = drawn.start
        pixels, broken = pixels_of(drawn.step.x), (~drawn.step.x.isfinite()).flatten(1).sum(dim=1).tolist()
        small = self.small.turn(start, start + len(pixels)) if self.small else None
        for k, picture in enumerate(pixels, start=start):
            if k < self.count:
                continue
            if drawn.noise is not None:
                arrays.write_npy(self._noise(k), drawn.noise[k - start].float().numpy(), durable=False)
            if small is not None:
                images.save_png(self.job.folder / "small" / f"{k:05d}.png", small[k - start], durable=False)
            label = None if self.labels is None else int(self.labels[k])
            given = self.given and self.job.given / f"{k % len(self.given.pictures.pixels):05d}.png"
            told = metadata.of_picture(
                self.settings, self.config, self.sample, k, label, given and given.absolute(), self.told
            )
            if broken[k - start]:
                told = {**told, "not_finite": broken[k - start]}  # values of the image that are black in their place
                self._warn_of(k)
            images.save_png(self._picture(k), picture, told, durable=False)
            self.newest.append(picture)
            self.count = k + 1

    def _warn_of(self, number: int) -> None:
        """Say that an image has values that are NaN or infinite; the first time in the log too."""
        self.broken.append(number)
        count = len(self.broken)
        said = (
            f"{formatting.plural(count, 'image')} of {self.sample.num_samples} came out with values that are NaN or"
            f" infinite, and {'is' if count == 1 else 'are'} black there, first image {self.broken[0]}: the network was"
            " trained with other settings, or its training diverged."
        )
        if count == 1:
            log.warning("Image %d came out with values that are NaN or infinite, and is black there.", number)
        self.worker.beat(warning=" ".join(filter(None, (self.warned, said))))

    def _preview(self, drawn: Drawn) -> None:
        waiting = [] if drawn.finished else list(pixels_of(drawn.step.x_start)[max(0, self.count - drawn.start) :])
        pixels = np.stack([*self.newest, *waiting])
        images.save_png(
            self.job.preview,
            _in_one(pixels, self.labels, self.beside, self.most, self.count - len(self.newest)),
            durable=False,
        )

    def _read(self, stop: int) -> Iterator[np.ndarray]:
        """Pictures 0 ... stop - 1 from disk, one at a time: uint8 [1, H, W, C]."""
        for k in range(stop):
            self.worker.beat()
            yield images.read_pixels(self._picture(k), self.shape)[None]

    def finish(self) -> None:
        """Write what is made of all pictures: the grid, the pairs, what an inversion found, improved-diffusion's npz.

        That is arr_0 uint8 [N, H, W, C], and arr_1 int64 [N], the labels.  It comes last: with it a drawing is whole.
        """
        if not self.count:
            return
        shown = min(self.count, _most(GRID_IMAGES, GRID_BYTES, self.shape))
        pixels = np.empty((shown, *self.shape), np.uint8)
        for k, picture in enumerate(self._read(shown)):
            pixels[k] = picture[0]
        images.save_png(self.job.grid, images.grid(pixels, classes.columns(self.labels)), self.settings)
        if self.beside is not None:
            images.save_png(self.job.pairs, images.pairs(self.beside.turn(0, shown), pixels), self.settings)
        del pixels
        if self.sample.task == "invert":
            self._finish_inversion()
        streams = [Stream((self.count, *self.shape), np.uint8, self._read(self.count))]
        if self.labels is not None:
            streams.append(Stream((self.count,), np.int64, [self.labels[: self.count]]))
        before = set(self.job.folder.glob("samples_*.npz"))
        path = self.job.folder / ("samples_" + "x".join(map(str, (self.count, *self.shape))) + ".npz")
        arrays.write_npz(path, *streams)
        for partial in before - {path}:
            partial.unlink(missing_ok=True)
        if self.count == self.sample.num_samples:
            shutil.rmtree(self.job.folder / "noise", ignore_errors=True)  # it is all in noise.npz

    def _finish_inversion(self) -> None:
        """Write the noise of every picture, float32 [N, C, H, W], and how well the pictures come back from it."""
        assert self.given is not None
        height, width, channels = self.shape
        noise = (np.load(self._noise(k))[None] for k in range(self.count))
        arrays.write_npz(self.job.noise, Stream((self.count, channels, height, width), np.float32, noise))
        rmse = [
            float(np.sqrt(np.mean((picture.astype(float) - self.given.pictures.turn(k, k + 1)) ** 2)))
            for k, picture in enumerate(self._read(self.count))
        ]
        mean = sum(rmse) / len(rmse)
        files.write_json(
            self.job.folder / "result.json", {"rmse": rmse, "mean": mean, "unit": "pixel values, 0 to 255"}
        )
        self.said = f"Drawn again from the noise found, a picture differs by {mean:.2g} of 255 in the root mean square"
        self.said += "." if len(rmse) == 1 else f", the mean over {len(rmse):,} of them."


def _most(count: int, bytes: int, shape: tuple[int, ...]) -> int:
    """At most `count` pictures of this shape, and fewer where they are large."""
    return max(1, min(count, bytes // int(np.prod(shape))))


def _reading(worker: Worker, which: str = "small") -> low_res.Progress:
    """Tells the worker how many pictures to begin with are read; raises Stopped when asked to stop."""

    def progress(done: int, total: int) -> None:
        distributed.raise_peer_error()
        worker.beat(message=f"Reading the {which} pictures: {done} of {total}")
        if "stop" in worker.poll_requests():
            raise Stopped

    return progress


def _in_one(
    pixels: np.ndarray, labels: np.ndarray | None, beside: LowRes | None, most: int, start: int = 0
) -> np.ndarray:
    """The newest of the pictures drawn so far, about `most` of them: pairs, or a grid with a column a class.

    pixels: uint8 [n, H, W, C], of the pictures from number `start` on.
    """
    columns = classes.columns(labels)
    row, stop = columns or 1, start + len(pixels)
    first = max(0, -(-(stop - max(most, row)) // row) * row)  # whole rows, so that a class keeps its column
    first = max(first, start)
    if beside is not None:
        return images.pairs(beside.turn(first, stop), pixels[first - start :])
    return images.grid(pixels[first - start :], columns)


def settings_of(
    config: Config, sample: SampleConfig, weights: Weights, about: Mapping[str, Any], told: list[str]
) -> dict[str, Any]:
    """The recipe: everything that makes the same pictures again.  about: `origin`.  told: `flags_of`."""
    return {
        "format": metadata.FORMAT,
        "sample": dataclasses.asdict(sample),
        "checkpoint": dict(about),
        "class_names": list(config.class_names),
        "command": metadata.command(about["path"], sample, told),
        **({"config": codec.to_json(config)} if weights.config is None else {}),
    }
