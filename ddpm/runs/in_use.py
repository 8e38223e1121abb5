"""Who works in a run: its training, its results that are being made, other trainings that begin from its files.

A folder in which nobody works may be moved.
"""

import time
from pathlib import Path

from ddpm.errors import UserError
from ddpm.runs import runs
from ddpm.runs.jobs import ACTIVE, FINAL, Job, State
from ddpm.runs.results import KINDS
from ddpm.runs.runs import Run
from ddpm.storage import files, leases

LOOK = 0.5  # seconds between two looks at what may be lost


def check_idle(job: Job, doing: str) -> None:
    """Raises UserError if a process works in a job, or in a result of a run, or begins from a file in the run.

    One that was last heard of long ago, from another machine or before this one started anew, is watched until it is
    known to be lost.  doing: what is about to be done, as in "deleting it".
    """
    state = _settled_state(job)
    if state in ACTIVE or (state == "unreadable" and job.alive()):
        raise UserError(f"{job.name} is still {state}: stop it before {doing}.", code="still-running")
    if not isinstance(job, Run):
        return
    for result in _working(job):
        raise UserError(
            f"{result.folder.parent.name}/{result.name} of {job.name} is still {result.state()}: stop it, or wait, "
            f"before {doing}.",
            code="still-running",
        )
    for name in sorted({name for names in begun_from(job).values() for name in names}):
        raise UserError(
            f"{name} is about to begin from a file of {job.name}: wait until it has saved its first checkpoint, or"
            f" stop it, before {doing}.",
            code="still-running",
        )


def _settled_state(job: Job) -> State:
    """Its state, once it is known whether a process that is not on this machine still works: in EXPIRY seconds."""
    until = time.monotonic() + 2 * leases.EXPIRY
    while (state := job.state()) in ACTIVE and (job.unseen() or 0) > leases.EXPIRY and time.monotonic() < until:
        time.sleep(LOOK)
    return state


def move(folder: Path, target: Path, cannot: str, remedy: str = "close programs that have its files open") -> None:
    """Moves the folder of a job on its disk.  Raises UserError if the system refuses.

    cannot: what cannot be done then, as in "renamed".
    """
    try:
        files.rename(folder, target)
    except OSError as error:
        raise UserError(
            f"{folder.name} cannot be {cannot} ({error.strerror}): {remedy}.", code="not-writable"
        ) from error


def begun_from(run: Run) -> dict[Path, list[str]]:
    """Files of a run that other trainings are about to begin from, each with the names of these."""
    found: dict[Path, list[str]] = {}
    here = run.folder.absolute()
    for other in runs.list_runs(run.folder.parent):
        if other == run or not _may_begin(other):
            continue
        try:
            start = Path(other.config.train.resume_checkpoint)
            if start.parent == here and not other.checkpoints():
                found.setdefault(start, []).append(other.name)
        except (UserError, OSError):  # it cannot begin
            continue
    return found


def _may_begin(run: Run) -> bool:
    """True if a training is active; its status is asked first, which is cheap."""
    status = run.status()
    return status is not None and status.state not in FINAL and run.state() in ACTIVE


def _working(run: Run) -> list[Job]:
    """Results of a run that are being made."""
    jobs = [job for kind in KINDS for job in run.results(kind)]
    return [job for job in jobs if (s := job.status()) and s.state not in FINAL and job.state() in ACTIVE]
