"""Start of a training: its settings and data are checked before there is a run, and its log goes to log.txt."""

import contextlib
import logging
import platform
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import ddpm
from ddpm.config import validation
from ddpm.config.training import Config
from ddpm.data import datasets, sources
from ddpm.data.datasets import Dataset
from ddpm.data.decoded import Progress
from ddpm.errors import UserError, translated
from ddpm.planning import starting, training_cost
from ddpm.runs import log_file
from ddpm.runs.worker import Stopped

log = logging.getLogger("ddpm")

DECIDED_LATER = ("small-images", "nothing-left", "broken-image")  # by all images, by the content of a file


def settle(config: Config, progress: Progress | None = None) -> Config:
    """Adds to the settings of a new training what follows from them and the data: total_steps, the classes.

    No image is read.  Raises UserError for settings that do not go together and for data that is not there.
    """
    validation.check(config)
    return datasets.resolve(training_cost.with_steps(config), progress)


@sources.opened_once()
def prepare(config: Config, progress: Progress | None = None) -> tuple[Config, Dataset]:
    """Checks the settings of a new training and reads its data, before there is a run that it could leave behind.

    Returns the config with what follows from the data (total_steps, num_classes, class_names), and the training images.
    Raises UserError for settings that do not go together, for data that cannot be read, and for a file to begin from
    that does not fit.
    """
    from ddpm.training import held_out

    config = settle(config, progress)
    dataset = datasets.open_dataset(config.data, config.model, progress, seed=config.train.seed, training=True)
    held_out.open_part(config, progress)
    if config.train.resume_checkpoint:
        from ddpm.training import warm_start

        config = warm_start.check_start(config)
    return config, dataset


@sources.opened_once()
def warnings(config: Config, folder: Path, progress: Progress | None = None) -> list[str]:
    """Sentences on what hardly works as intended in a new training in `folder`, as the Train page reports it too.

    Raises UserError for what would fail, before anything is read.
    """
    config = settle(config, progress)
    found = list(starting.problems(config, folder, datasets.describe(config.data.data_dir)))
    for problem in found:
        if not problem.keep and problem.code not in DECIDED_LATER:
            raise UserError(problem.sentence, code=problem.code)
    return [problem.sentence for problem in found if problem.keep]


def log_versions() -> None:
    """Logs which versions of the program, Python and torch train."""
    log.info("DDPM Workbench %s, Python %s, torch %s", ddpm.__version__, platform.python_version(), version("torch"))


@contextlib.contextmanager
def failures_in(handler: logging.Handler | None) -> Iterator[None]:
    """Writes an error that ends the block to a log file as well: one sentence, or the traceback of a fault of ours."""
    try:
        yield
    except Exception as error:
        if handler and not isinstance(error, Stopped):
            known = translated(error)
            text = str(known) if isinstance(known, UserError) else traceback.format_exc()
            handler.emit(logging.makeLogRecord({"msg": text}))
        raise


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Logs to a run's log.txt, as far as the disk allows, while the block lasts, with the error that ends it."""
    level, handler = log.level, log_file.opened(path) or logging.NullHandler()
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        with failures_in(handler):
            yield
    finally:
        log.removeHandler(handler)
        handler.close()
        log.setLevel(level)
