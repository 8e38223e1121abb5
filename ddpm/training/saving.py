"""Saving a checkpoint on a disk that may refuse."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ddpm.checkpoints import checkpoint_files
from ddpm.errors import UserError, as_user_error
from ddpm.runs.runs import Run
from ddpm.storage import files
from ddpm.storage.files import Written
from ddpm.training.trainer import Trainer

MUST_WAITS = (1.0, 3.0)  # seconds between tries of a save without which steps would be lost


def try_to_save(
    run: Run, trainer: Trainer, state: Mapping[str, Any], log: Written, seconds: float, waits: Sequence[float] = ()
) -> UserError | None:
    """Saves a checkpoint; returns the error where the disk refuses, after a further try after each of `waits` seconds.

    log: length and checksum of progress.csv.  seconds: of training so far.  Raises UserError for values that are not
    finite.
    """
    for wait in (*waits, None):
        try:
            saved = checkpoint_files.save(
                run,
                trainer.step,
                trainer.weights(),
                trainer.optimizer.state_dict(),
                state,
                log.bytes,
                seconds,
                log.sha256,
            )
        except (files.DiskFull, OSError) as error:
            if wait is None:
                return as_user_error(error) if isinstance(error, OSError) else error
            time.sleep(wait)
            continue
        if saved.theirs and (wrong := checkpoint_files.fault(saved)):
            return UserError(
                f"{wrong} Another program wrote it, so it is not replaced: move it away.", code="damaged-checkpoint"
            )
        break
    return None
