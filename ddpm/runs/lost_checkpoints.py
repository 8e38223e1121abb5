"""Detects checkpoints that a run has lost, so that training does not overwrite what is left of it."""

from pathlib import Path

from ddpm.errors import UserError
from ddpm.runs import progress_log, runs
from ddpm.runs.manifests import FILE
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker


def check(run: Run) -> None:
    """Raises UserError if a run has no checkpoint, but its folder shows that it had one; or a newer version saved."""
    runs.check_known(run)
    saved, unreadable, _ = run.manifests()
    if saved:
        return
    begun = {path.stem for path in run.folder.glob("saves/*.begun")}  # these were never complete
    found = (FILE.fullmatch(path.name) for path in run.folder.glob("*.pt"))
    left = {match[0] for match in found if match and match[2] not in begun}
    if left:
        names = ", ".join(sorted(left)[:4]) + (", ..." if len(left) > 4 else "")
        which = (
            unreadable[max(unreadable)]
            if unreadable
            else f"{run.folder / 'saves'} does not list which files are complete."
        )
        raise UserError(
            f"{run.name} holds {names} of earlier training, but {which} {remedy(run, newest_weights(run, left))}",
            code="lost-checkpoints",
        )
    if unreadable:
        raise UserError(
            f"{run.name} has saved before, but {unreadable[max(unreadable)]} {remedy(run)}", code="lost-checkpoints"
        )
    if last := last_saved_step(run):
        raise UserError(
            f"{run.name} has saved a checkpoint at step {last}, but there is none any more. {remedy(run)}",
            code="lost-checkpoints",
        )
    if last := _last_logged_step(run):
        raise UserError(
            f"{run.name} was trained to step {last}, but its status.json does not say what was saved. {remedy(run)}",
            code="lost-checkpoints",
        )


def remedy(run: Run, file: Path | None = None) -> str:
    """The remedy for a run whose checkpoints are incomplete; file: weights that are left."""
    begin = "start a new run from these weights" if file else "start a new run"
    return (
        f"Nothing was overwritten: restore its .pt files and saves/ from a copy, or {begin}:"
        f" `{run.restart_command(file)}`."
    )


def newest_weights(run: Run, names: set[str]) -> Path | None:
    """The newest file of weights among `names`, from which a new run could start; None if there is none."""
    matches = [match for name in names if (match := FILE.fullmatch(name)) and match[1] not in ("opt", "state")]
    found = max(matches, key=lambda match: (int(match[2]), match[1] == "model"), default=None)
    return run.folder / found[0] if found else None


def last_saved_step(run: Run) -> int:
    """The last step at which a checkpoint was saved, from the status, or from the log for earlier versions.

    0 if there is none.
    """
    train, status = run.config.train, run.status()
    if status and status.saved is not None:
        return status.saved
    first, last = progress_log.step_range(run.progress_path)
    if status and status.step > last:
        last = status.step
        first = first or (last if train.resume_checkpoint else 1)
    due = (last - 1) // train.save_interval * train.save_interval
    return due if due >= first > 0 else 0


def _last_logged_step(run: Run) -> int:
    """The last step in the log of a run whose status.json is lost or was reset; 0 if the status is up to date."""
    status = run.status()
    known = status and (status.saved is not None or status.step > 0)
    return 0 if known else progress_log.step_range(run.progress_path)[1]


def report_saved(run: Run, worker: Worker) -> None:
    """Sets the status to the newest checkpoint, from which the run resumes, replacing that of an earlier process."""
    saved = run.checkpoints()[-1:]
    if saved:
        row = progress_log.row_before(run.progress_path, saved[0].log_bytes)
        worker.beat(step=saved[0].step, saved=saved[0].step, metrics=row or worker.status.metrics, now=True)
    else:
        worker.beat(step=0, saved=0, metrics={}, now=True)
