"""What a stopped run goes on from: its newest whole checkpoint, and the data that it is given."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ddpm.checkpoints import checkpoint_files
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data import datasets, sources
from ddpm.data.lineage import Remedy
from ddpm.errors import AlreadyDone, UserError
from ddpm.runs import extending, lost_checkpoints
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files
from ddpm.training import warm_start

log = logging.getLogger("ddpm")


def check_unfinished(run: Run) -> None:
    """Raises AlreadyDone for a run whose last step is saved, and whole; its folder stays as it is."""
    if run.is_complete() and is_done(run):
        raise AlreadyDone(run.finished_message)


def is_done(run: Run) -> bool:
    """Whether its last step is saved, and whole."""
    found, _ = checkpoint_files.newest_intact(run)
    return found is not None and found.step >= run.config.train.total_steps


def ready(run: Run, given: Mapping[str, Any], worker: Worker) -> Run:
    """The run with the data that is `given` now, and where it has a file to begin from, that looked at.

    Raises UserError where there is no data, or where the file does not fit.
    """
    config = _with_data(run, given)
    if run.config.train.resume_checkpoint and not run.checkpoints():
        worker.beat(message="Looking at the file to begin from", now=True)
        config = warm_start.check_start(config)
    run.with_config(config)  # kept by the Session, once the data is seen to be good
    return run


def _with_data(run: Run, given: Mapping[str, Any]) -> Config:
    """The run's settings, with those of its data that are given."""
    config, place = run.config, given.get("data_dir", run.config.data.data_dir)
    remedy = f"`{run.shell('train', '--resume', more=['--data_dir', 'FOLDER'])}`"
    if not place:
        raise UserError(f"{run.name} has no data to train on yet: {remedy} names it.", code="no-data-named")
    if not sources.exists(place):
        raise UserError(
            f"There is no folder or file {place}, on which {run.name} was trained: {remedy} says where the images are"
            " now.",
            code="not-found",
        )
    if not config.data.data_dir:
        config = datasets.attach(config, place)
    return codec.checked(codec.replace(config, given))


def elsewhere(run: Run) -> str:
    """What can be done where the data of a run is not what it was, as the middle of a sentence."""
    return f"restore the data, say where it is now (`{run.shell('train', '--resume', more=['--data_dir', 'FOLDER'])}`)"


def remedy(run: Run, found: Checkpoint) -> Remedy:
    """What can be done where the data of a run is not what it was."""
    anew = f"egin a new run from its weights: `{run.restart_command(found.path('model'))}`."
    return Remedy(f"R{elsewhere(run)[1:]}, or b{anew}", f"B{anew}")


class Newest(NamedTuple):
    """What a run goes on from."""

    checkpoint: Checkpoint | None  # None for a run that has saved nothing yet
    notice: str = ""  # what is wrong with later checkpoints, and with config.json and progress.csv; empty without any
    bad: frozenset[int] = frozenset()  # steps of checkpoints that cannot be gone on from


def newest(run: Run) -> Newest:
    """Finds the checkpoint to go on from, and removes what was left of unfinished ones.

    Raises UserError where all steps are done, where nothing whole is left of what was saved, and where a newer version
    saved.
    """
    lost_checkpoints.check(run)
    found, wrong = checkpoint_files.newest_intact(run)
    if found is None:
        if not wrong:
            return Newest(None)
        for sentence in wrong:
            log.warning("%s", sentence)
        weights = ((c, c.path(kind).name) for c in run.checkpoints() for kind in c.weights)
        good = {name for c, name in weights if not checkpoint_files.fault(c, name)}
        raise UserError(
            f"No checkpoint of {run.name} can be gone on from: {wrong[0]}"
            f" {lost_checkpoints.remedy(run, lost_checkpoints.newest_weights(run, good))}",
            code="lost-checkpoints",
        )
    if checkpoint_files.read(found.path("state"))["trainer"]["step"] >= run.config.train.total_steps:
        raise AlreadyDone(run.finished_message)
    last = lost_checkpoints.last_saved_step(run)
    if found.step < last and not wrong:
        log.warning("The checkpoint of step %d is not there any more.", last)
    notes = [f"{' '.join(wrong)} The run goes back to step {found.step}."] if wrong else []
    notes += filter(None, (checkpoint_files.log_damage(found), _changed_settings(run, found)))
    for sentence in notes:
        log.warning("%s", sentence)
    checkpoint_files.sweep_unfinished(run)
    bad = {c.step for c in run.checkpoints() if c.step > found.step}
    return Newest(found, " ".join(notes), frozenset(bad))


def _changed_settings(run: Run, found: Checkpoint) -> str:
    """Names in a sentence the settings in config.json that are not those of a checkpoint; empty where all are.

    How long it trains is no such setting: who trains a run further says so.
    """
    path = run.folder / "config.json"
    if not found.config_sha256 or files.sha256(path) == found.config_sha256:
        return ""
    then = checkpoint_files.load_weights(found.path("model")).config
    if then is None or then == (now := Run(run.folder).config):
        return ""
    changed = codec.differences(then, now)
    if not set(changed) - extending.CHANGED:
        return ""
    named = [f"{name} {new!r} (was {old!r})" for name, (old, new) in changed.items() if name != "class_names"]
    return f"{path} was changed after step {found.step}: {', '.join(named) or 'class_names'}; training goes on with it."


def _is_newer(config: Path) -> bool:
    """Whether the settings in a config.json are of a newer version."""
    try:
        data = files.read_json(config)
    except UserError:
        return False
    number = data.get("format") if isinstance(data, dict) else None
    return type(number) is int and number > codec.FORMAT


def restore_settings(run: Run) -> None:
    """Writes config.json anew from the newest whole checkpoint where it is lost or damaged.

    A damaged one is kept under another name.  Nothing is done where no file holds the settings, or where a newer
    version wrote them.
    """
    path, code = run.folder / "config.json", ""
    try:
        Run(run.folder).with_config()
    except UserError as error:
        code = error.code
    if not code or _is_newer(path) or run.manifests().newer:
        return
    for checkpoint in reversed(run.checkpoints()):
        if code == "unknown-setting" and path.exists() and files.sha256(path) == checkpoint.config_sha256:
            return  # as it was saved, by a newer version
        for file in map(checkpoint.path, () if checkpoint.theirs else checkpoint.weights):
            if not checkpoint_files.fault(checkpoint, file.name) and (
                config := checkpoint_files.load_weights(file).config
            ):
                checkpoint_files.set_aside(path)
                files.write_json(path, codec.to_json(config))
                log.warning("%s was lost or damaged: it is written anew, with the settings in %s.", path, file.name)
                return
