"""Watches whether a network learns its training images by heart: near-copies among the previews."""

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import cached_property

import numpy as np

from ddpm.data.datasets import Dataset
from ddpm.data.encoded import Encoded
from ddpm.errors import UserError, as_user_error
from ddpm.quality import copies, memorisation
from ddpm.runs import near_copies
from ddpm.runs.near_copies import NearCopies
from ddpm.runs.runs import Run
from ddpm.runs.worker import Stopped, Worker
from ddpm.storage import files

log = logging.getLogger("ddpm")

SHARE, LAST_SHARE = 0.01, 0.05  # of the training time that it may take; after the last step
MOST_BYTES = 2**29  # of training images; of more, so many are chosen at random
MOST_DECODED = 2000  # of those that are decoded each time they are taken, so many
TIMED = 8  # of these are decoded to see how long one takes
MOST_PREVIEWS = 64  # that are compared
UNSEEN = 200  # training images that are compared with the others, as previews are
SHOWN = 16  # pairs that are kept
# Seconds on one slow core per pixel value: of training images that are read, of images that are compared with them.
READING, COMPARING = 1.5e-8, 4e-6


class CopyWatch:
    """Compares previews with training images: copies.json, copies.png and a warning.

    It waits while what it is about to do would take more than SHARE of the training time so far.  It leaves the random
    state of the training alone.
    """

    def __init__(self, run: Run, worker: Worker, dataset: Dataset):
        self._run, self._worker, self._dataset = run, worker, dataset
        self._began = time.monotonic()
        self._spent = 0.0  # seconds
        self._references: copies.References | None = None
        self._unseen = np.empty(0)  # scores
        self._gave_up = False
        self._cancelled: Callable[[], bool] = lambda: False
        self.notice = ""  # a sentence where previews are near-copies

    def check(
        self, pixels: np.ndarray, step: int, last: bool = False, cancelled: Callable[[], bool] | None = None
    ) -> bool:
        """Compares the previews of a step, uint8 [N, H, W, C], and returns whether there is another notice now.

        last: no step follows.  cancelled: asked again and again; what is left is not compared once it says so.
        """
        self._cancelled = cancelled or (lambda: False)
        pixels = pixels[:MOST_PREVIEWS]
        began = time.monotonic()
        most = (LAST_SHARE if last else SHARE) * (began - self._began)
        before = self.notice
        try:
            if self._gave_up or self._spent + self._estimate(len(pixels)) > most:
                return False
            self._check(pixels, step)
        except Stopped:
            log.info("The previews are not compared with the training images, as the training was asked to stop")
        except UserError as error:
            log.warning("The previews are not compared with the training images. %s", error)
            self._gave_up = error.code == "too-few-images"  # that stays so; a disk that is full does not
        except OSError as error:
            log.warning("The previews are not compared with the training images. %s", as_user_error(error))
        self._worker.beat(message="")
        self._spent += time.monotonic() - began
        return self.notice != before

    def _estimate(self, count: int) -> float:
        """Seconds that the next check takes."""
        values = self._dataset.values
        if self._references is not None:
            return COMPARING * values * count
        return self._reading * self._most + COMPARING * values * (count + UNSEEN)

    @cached_property
    def _most(self) -> int:
        """How many training images are compared with."""
        most = MOST_DECODED if isinstance(self._dataset.images, Encoded) else MOST_BYTES // self._dataset.values
        return min(len(self._dataset), most)

    @cached_property
    def _reading(self) -> float:
        """Seconds that reading a training image takes."""
        if not isinstance(self._dataset.images, Encoded):
            return READING * self._dataset.values
        some = np.linspace(0, len(self._dataset) - 1, TIMED).astype(np.int64)
        began = time.monotonic()
        self._dataset.take(some)
        return (time.monotonic() - began) / TIMED

    def _beat(self, done: int, total: int) -> None:
        self._worker.beat()
        if self._cancelled():
            raise Stopped

    def _read(self) -> copies.References:
        """Reads the training images, and compares some with the others."""
        total = len(self._dataset)
        rng = np.random.default_rng(0)
        chosen = None if total <= self._most else np.sort(rng.choice(total, self._most, replace=False))
        references = copies.References(self._dataset, chosen, self._beat)
        count = len(references.numbers)
        places = rng.choice(count, min(UNSEEN, count), replace=False)
        scores = references.nearest_others(places, self._beat).scores
        self._unseen = scores[scores > copies.EQUAL]  # one that equals another, mirrored, says nothing of unseen ones
        if not len(self._unseen):
            raise UserError(
                "All training images that were looked at have a double, so nothing says what is usual: use data without"
                " doubles.",
                code="too-few-images",
            )
        return references

    def _check(self, pixels: np.ndarray, step: int) -> None:
        self._worker.beat(message="Comparing the preview with the training images")
        references = self._references = self._references or self._read()
        found = references.nearest(pixels, self._beat)
        threshold = copies.calibrate(self._unseen)
        order = np.argsort(found.scores, kind="stable")[:SHOWN]
        copied = found.scores < threshold
        result = NearCopies(
            checked=len(pixels),
            copied=int(copied.sum()),
            threshold=threshold,
            training=len(self._dataset),
            compared=references.looked_at,
            duplicates=references.duplicates,
            unseen=len(self._unseen),
            unseen_copied=int((self._unseen < threshold).sum()),
            held_out=False,
            crops=self._dataset.scaled is not None,
            step=step,
            pairs=memorisation.pairs_of(found, order, threshold),
        )
        near_copies.save_pairs(
            self._run.folder / near_copies.PAIRS, pixels[order], self._dataset.take(found.numbers[order])[0]
        )
        files.write_json(self._run.folder / near_copies.NAME, dataclasses.asdict(result))
        said = near_copies.words(result)
        log.info("Step %d: %s", step, said)
        self.notice = said if result.copied else ""
