"""The queue of trainings in one folder of runs: one at a time, first come, first served."""

import time

from ddpm.runs.jobs import guard
from ddpm.runs.runs import Run, list_runs
from ddpm.runs.worker import Stopped, Worker


def wait_in_queue(run: Run, worker: Worker) -> None:
    """Wait, in state "queued", until no other training runs in the same folder; first come, first served.

    Raises Stopped when asked to stop meanwhile.
    """
    while True:
        with guard(run.folder.parent):
            ahead = _ahead(run, worker.status.queued_at)
            if ahead is None:
                worker.beat(state="starting", message="", now=True)
                return
        worker.beat(message=f"Waiting for {ahead.name} to end")
        if "stop" in worker.poll_requests():
            raise Stopped
        time.sleep(0.5)


def _ahead(run: Run, queued_at: float) -> Run | None:
    """A run that is training, or that waits for longer."""
    for other in list_runs(run.folder.parent):
        status = other.status()
        if other != run and status and other.alive() and (status.state != "queued" or status.queued_at < queued_at):
            return other
    return None
