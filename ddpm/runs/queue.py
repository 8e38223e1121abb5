"""The queue of trainings in one folder of runs: one at a time, in order of arrival."""

import logging
import time

from ddpm.errors import UserError
from ddpm.runs.exclusive import guard
from ddpm.runs.runs import Run, list_runs
from ddpm.runs.worker import Stopped, Worker

log = logging.getLogger("ddpm")


def wait_in_queue(run: Run, worker: Worker) -> None:
    """Waits, in state "queued", until no other training runs in the same folder and none has waited longer.

    Says in the log, once each, for whom.  Raises Stopped if asked to stop in the meantime.
    """
    said = ""
    while True:
        try:
            with guard(run.folder.parent):
                ahead = _ahead(run, worker.status.queued_at)
                if ahead is None:
                    worker.beat(state="starting", message="", now=True)
                    return
            message = f"Waiting for {ahead.name} to end"
        except UserError as error:
            if error.code != "busy":
                raise
            message = "Waiting for a process that changes runs"
        worker.beat(message=message)
        if message != said:
            log.info("%s", message)
            said = message
        if "stop" in worker.poll_requests():
            raise Stopped
        time.sleep(0.5)


def _ahead(run: Run, queued_at: float) -> Run | None:
    """A run that is training or has waited longer; None if there is none."""
    for other in list_runs(run.folder.parent):
        status = other.status()
        if other != run and status and other.alive() and (status.state != "queued" or status.queued_at < queued_at):
            return other
    return None
