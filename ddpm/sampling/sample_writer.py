"""Writes the folder of a sampling job: images as they come, then a grid and arrays made from those files.

Only the newest few images are kept in memory.
"""

import logging
import shutil
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddpm import formatting
from ddpm.compute import distributed
from ddpm.errors import UserError
from ddpm.planning import classes, metadata
from ddpm.planning.resolve import ResolvedSampling
from ddpm.planning.source_images import SourceImages
from ddpm.runs.results import SampleJob
from ddpm.runs.worker import Stopped, Worker
from ddpm.sampling.engine import SamplingProgress, to_pixels
from ddpm.storage import arrays, files, images
from ddpm.storage.arrays import Stream

log = logging.getLogger("ddpm")

PREVIEW_INTERVAL = 0.7  # seconds between two previews
PREVIEW_IMAGES = 64
PREVIEW_BYTES = 2**24  # of pixels, at most, in a preview
GRID_IMAGES = 256
GRID_PIXELS = 2**25  # at most, of the images in a grid: what `image_limits` lets a page read, with room between them


class SampleWriter:
    """Writes the files of a job: images as they are finished, previews, and what is made of all images."""

    def __init__(
        self, job: SampleJob, worker: Worker, resolved: ResolvedSampling, recipe: dict[str, Any], flags: list[str]
    ):
        self.job, self.worker, self.resolved = job, worker, resolved
        worker.follow(job)
        self.recipe, self.flags = recipe, flags
        self.count = 0  # images that are on disk, from the first on
        self.outcome = ""  # a sentence about the result, where there is one
        self._broken: list[int] = []  # images with values that are not finite
        self._earlier_warning = worker.status.warning
        model = resolved.config.model
        self._shape = (model.image_size, model.image_size, model.image_channels)
        self._most = most_images(PREVIEW_IMAGES, PREVIEW_BYTES, self._shape)
        columns = classes.columns(resolved.labels) or 1
        self._newest: deque[np.ndarray] = deque(maxlen=max(self._most, columns))

    def _image_path(self, number: int) -> Path:
        return self.job.folder / "images" / f"{number:05d}.png"

    def _noise_path(self, number: int) -> Path:
        return self.job.folder / "noise" / f"{number:05d}.npy"

    def find(self) -> int:
        """Counts the images that are there and whole, from the first on.  Raises Stopped when asked to stop."""
        while self.count < self.resolved.request.num_samples and self._is_whole(self.count):
            self._newest.append(self._read_image(self.count))
            self.count += 1
            self.worker.beat(message=f"Checking {formatting.plural(self.count, 'image')}")
            if "stop" in self.worker.poll_requests():
                raise Stopped
        return self.count

    def _is_whole(self, number: int) -> bool:
        try:
            self._read_image(number)
            return self.resolved.request.task != "invert" or self._read_noise(number).ndim == 3
        except (UserError, OSError, ValueError, EOFError):  # a power cut may leave a file empty or cut short
            return False

    def _read_image(self, number: int) -> np.ndarray:
        path = self._image_path(number)
        return images.decode_pixels(self.job.read(path), path, self._shape)

    def _read_noise(self, number: int) -> np.ndarray:
        with self.job.open_file(self._noise_path(number)) as file:
            return arrays.read_npy(file)

    def write(self, steps: Iterator[SamplingProgress]) -> None:
        """Saves each image as it is finished, and a preview now and then,
        until all are there or a stop is requested.
        """
        began, looked = time.perf_counter(), time.monotonic()  # the other clock stands still for 16 ms on Windows
        for progress in steps:
            elapsed = time.perf_counter() - began
            self.worker.beat(
                step=progress.done,
                total_steps=progress.total,
                steps_per_second=progress.done / elapsed,
                seconds_left=elapsed / progress.done * (progress.total - progress.done),
            )
            if progress.finished:
                self._save(progress)
            if progress.done in (1, progress.total) or time.monotonic() - looked > PREVIEW_INTERVAL:
                looked = time.monotonic()
                self._preview(progress)
            if distributed.broadcast_object("stop" in self.worker.poll_requests() and progress.done < progress.total):
                return

    def _save(self, progress: SamplingProgress) -> None:
        """Writes the finished images of a batch that are not there yet."""
        start, x, resolved = progress.start, progress.step.x, self.resolved
        pixels, broken = to_pixels(x), (~x.isfinite()).flatten(1).sum(dim=1).tolist()
        small = resolved.low_res.cycle(start, start + len(pixels)) if resolved.low_res else None
        for k, image in enumerate(pixels, start=start):
            if k < self.count:
                continue
            if progress.noise is not None:
                arrays.write_npy(self._noise_path(k), progress.noise[k - start].float().numpy(), durable=False)
            if small is not None:
                images.save_png(self.job.folder / "small" / f"{k:05d}.png", small[k - start], durable=False)
            label = None if resolved.labels is None else int(resolved.labels[k])
            given = resolved.inputs and self.job.given / f"{k % len(resolved.inputs.images.pixels):05d}.png"
            recipe = metadata.of_image(
                self.recipe, resolved.config, resolved.request, k, label, given and given.absolute(), self.flags
            )
            if broken[k - start]:
                recipe = {**recipe, "not_finite": broken[k - start]}  # number of values, which are saved as black
                self._warn_not_finite(k)
            images.save_png(self._image_path(k), image, recipe, durable=False)
            self._newest.append(image)
            self.count = k + 1

    def _warn_not_finite(self, number: int) -> None:
        """Warns that an image has values that are NaN or infinite; the first time in the log too."""
        self._broken.append(number)
        count = len(self._broken)
        sentence = (
            f"{formatting.plural(count, 'image')} of {self.resolved.request.num_samples} came out with values that are"
            f" NaN or infinite, and {'is' if count == 1 else 'are'} black there, first image {self._broken[0]}: the"
            " network was trained with other settings, or its training diverged."
        )
        if count == 1:
            log.warning("Image %d came out with values that are NaN or infinite, and is black there.", number)
        self.worker.beat(warning=" ".join(filter(None, (self._earlier_warning, sentence))))

    def _preview(self, progress: SamplingProgress) -> None:
        unsaved = max(0, self.count - progress.start)
        unfinished = [] if progress.finished else list(to_pixels(progress.step.x_start)[unsaved:])
        pixels = np.stack([*self._newest, *unfinished])
        start, resolved = self.count - len(self._newest), self.resolved
        preview = preview_of(pixels, resolved.labels, resolved.source_images, self._most, start)
        images.save_png(self.job.preview, preview, durable=False)

    def _read(self, stop: int) -> Iterator[np.ndarray]:
        """Reads images 0 ... stop - 1 from disk, one at a time: uint8 [1, H, W, C]."""
        for k in range(stop):
            self.worker.beat()
            yield self._read_image(k)[None]

    def finish(self) -> None:
        """Writes what is made of all images: the grid, the pairs, an inversion's noise, improved-diffusion's npz.

        The npz holds arr_0 uint8 [N, H, W, C], and arr_1 int64 [N], the labels.  It comes last: with it a job is whole.
        """
        if not self.count:
            return
        shown = min(self.count, most_images(GRID_IMAGES, GRID_PIXELS * self._shape[2], self._shape))
        pixels = np.empty((shown, *self._shape), np.uint8)
        for k, image in enumerate(self._read(shown)):
            pixels[k] = image[0]
        images.save_png(self.job.grid, images.grid(pixels, classes.columns(self.resolved.labels)), self.recipe)
        if (sources := self.resolved.source_images) is not None:
            images.save_png(self.job.pairs, images.pairs(sources.cycle(0, shown), pixels), self.recipe)
        del pixels
        if self.resolved.request.task == "invert":
            self._finish_inversion()
        streams = [Stream((self.count, *self._shape), np.uint8, self._read(self.count))]
        if self.resolved.labels is not None:
            streams.append(Stream((self.count,), np.int64, [self.resolved.labels[: self.count]]))
        before = set(self.job.folder.glob("samples_*.npz"))
        path = self.job.folder / ("samples_" + "x".join(map(str, (self.count, *self._shape))) + ".npz")
        arrays.write_npz(path, *streams)
        for partial in before - {path}:
            partial.unlink(missing_ok=True)
        if self.count == self.resolved.request.num_samples:
            shutil.rmtree(self.job.folder / "noise", ignore_errors=True)  # it is all in noise.npz

    def _finish_inversion(self) -> None:
        """Writes the noise of every image, float32 [N, C, H, W], and the error of the images reconstructed from it."""
        assert self.resolved.inputs is not None
        height, width, channels = self._shape
        noise = (self._read_noise(k)[None] for k in range(self.count))
        arrays.write_npz(self.job.noise, Stream((self.count, channels, height, width), np.float32, noise))
        rmse = [
            float(np.sqrt(np.mean((image.astype(float) - self.resolved.inputs.images.cycle(k, k + 1)) ** 2)))
            for k, image in enumerate(self._read(self.count))
        ]
        mean = sum(rmse) / len(rmse)
        files.write_json(
            self.job.folder / "result.json", {"rmse": rmse, "mean": mean, "unit": "pixel values, 0 to 255"}
        )
        self.outcome = (
            f"Reconstructed from the noise found, an image differs by {mean:.2g} of 255 in the root mean square"
        )
        self.outcome += "." if len(rmse) == 1 else f", the mean over {len(rmse):,} of them."


def most_images(count: int, bytes: int, shape: tuple[int, ...]) -> int:
    """Returns `count`, or fewer where that many images of this shape take more than these bytes; at least 1."""
    return max(1, min(count, bytes // int(np.prod(shape))))


def preview_of(
    pixels: np.ndarray, labels: np.ndarray | None, sources: SourceImages | None, most: int, start: int = 0
) -> np.ndarray:
    """Lays out the newest images, about `most` of them, as pairs with their source images or as a grid of classes.

    pixels: uint8 [n, H, W, C], of the images from number `start` on.  labels: int64 [N] of all images.  Returns uint8
    [height, width, C].
    """
    columns = classes.columns(labels)
    row, stop = columns or 1, start + len(pixels)
    first = max(0, -(-(stop - max(most, row)) // row) * row)  # whole rows, so that a class keeps its column
    first = max(first, start)
    if sources is not None:
        return images.pairs(sources.cycle(first, stop), pixels[first - start :])
    return images.grid(pixels[first - start :], columns)
