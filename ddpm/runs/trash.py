"""runs/.trash: deleted runs and samples, which can be restored."""

from pathlib import Path

from ddpm.errors import UserError
from ddpm.runs import run_names
from ddpm.runs.exclusive import guard
from ddpm.runs.jobs import ACTIVE, Job
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import files, folders


def trash_run(run: Run) -> Path:
    """Moves a run to runs/.trash and returns its new path.  Raises UserError if it is active."""
    return _trash(run, run.folder.parent, run.name)


def trash_samples(job: SampleJob) -> Path:
    """Moves samples of a run to runs/.trash and returns their new path, for `restore_samples`.

    Raises UserError if they are being sampled.
    """
    run = job.folder.parent.parent
    return _trash(job, run.parent, f"{run.name}-samples-{job.name}")


def _trash(job: Job, runs_dir: Path, name: str) -> Path:
    bin_folder = runs_dir / ".trash"
    with guard(job.folder.parent):
        if not job.folder.is_dir():
            raise UserError(f"{job.folder} no longer exists: look for it in {bin_folder}.", code="not-found")
        state = job.state()
        if state in ACTIVE or (state == "unreadable" and job.alive()):
            raise UserError(f"{job.name} is still {state}: stop it before deleting it.", code="still-running")
        folders.make(bin_folder)
        target = bin_folder / run_names.untaken(bin_folder, name)
        try:
            files.rename(job.folder, target)
        except OSError as error:
            raise UserError(
                f"{job.name} cannot be moved away ({error.strerror}): close programs that have its files open.",
                code="not-writable",
            ) from error
    return target


def restore_samples(trashed: Path, job: SampleJob) -> None:
    """Moves samples from the trash back to their folder.  Raises UserError if that is not possible."""
    with guard(job.folder.parent):
        if job.folder.exists():
            raise UserError(f"{job.folder} exists already: move it away first.", code="already-exists")
        try:
            files.rename(trashed, job.folder)
        except OSError as error:
            raise UserError(
                f"{trashed.name} cannot be moved back ({error.strerror}): look for it in {trashed.parent}.",
                code="not-writable",
            ) from error
