"""Import of a folder that improved-diffusion wrote, as a run."""

import contextlib
import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddpm.checkpoints import checkpoint_files, fitting
from ddpm.checkpoints.identify import identify
from ddpm.config import codec, validation
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.diffusion import losses
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.models import unet
from ddpm.runs import manifests, openai_log, progress_log, run_folder, run_names, runs
from ddpm.runs.jobs import Status
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.openai_folder import Files, Folder
from ddpm.runs.runs import Run
from ddpm.storage import files, folders, untrusted
from ddpm.training import warm_start

log = logging.getLogger("ddpm")

Progress = Callable[[str, int, int], None]  # (what is being done, files done, files in all)


class Imported(NamedTuple):
    """The run made from a folder, and notes for the user."""

    run: Run
    notes: list[str]


class ImportOptions(NamedTuple):
    """Options of an import, apart from settings of the model and the training."""

    name: str = ""  # of the run; by default from the folder
    class_names: tuple[str, ...] = ()  # in the order of the labels
    in_place: bool = False  # leave the files where they are and link to the folder
    probe: bool = True  # infer and check by denoising a few images what the shapes of the weights do not say


def import_folder(
    folder: Folder, runs_dir: Path, flags: Mapping[str, Any], options: ImportOptions, progress: Progress
) -> Imported:
    """Makes a run of a folder that improved-diffusion wrote.

    `flags`: settings by name.  In place, the folder itself becomes the run, under a link in `runs_dir`, and gets
    config.json, status.json, saves/ and state files; otherwise everything is copied, and steps are numbered by the
    optimiser updates done.  Raises UserError with nothing left behind.
    """
    name = options.name or run_names.free_name(runs_dir, folder.path.absolute().name)
    run_names.check_name(name)
    if (runs_dir / name).exists():
        raise UserError(f"There is already a run named {name}: choose another name.", code="already-exists")
    progress("Reading the newest checkpoint", 0, len(folder.steps))
    newest, notes = _newest(folder)
    run = Run(runs_dir / name)
    config, more = _settings(run, folder, newest, flags, options, progress)
    notes += more
    if not config.data.data_dir:
        run.with_config(config)
        continues = flags.get("total_steps") or flags.get("lr_anneal_steps")  # it is finished otherwise
        again = (
            run.shell("train", "--resume", more=["--data_dir", "DATA"])
            if continues
            else run.restart_command(newest.model)
        )
        notes.append(f"To train on, name its data: `{again}`.")
    make = _open_in_place if options.in_place else _copy
    return Imported(make(folder, runs_dir, name, config, notes, progress), notes)


def _newest(folder: Folder) -> tuple[Files, list[str]]:
    """Finds the newest step whose weights can be read; also returns what is wrong with those after it."""
    notes: list[str] = []
    for found in reversed(folder.steps):
        try:
            assert found.model, "a folder lists steps with a model"
            checkpoint_files.load_weights(found.model)
            return found, notes
        except UserError as error:
            notes.append(str(error))
    raise UserError(notes[0], code="damaged-checkpoint")


def _settings(
    run: Run, folder: Folder, newest: Files, flags: Mapping[str, Any], options: ImportOptions, progress: Progress
) -> tuple[Config, list[str]]:
    assert newest.model
    weights = checkpoint_files.load_weights(newest.model)
    if weights.config:
        run.with_config(weights.config)
        raise UserError(
            f"{newest.model} was written by this program and knows its settings: begin from it with"
            f" `{run.restart_command(newest.model)}`.",
            code="own-run",
        )
    optimizer = checkpoint_files.optimizer_of(newest.optimizer, weights.tensors) if newest.optimizer else None
    done = max(1, warm_start.updates(optimizer, newest.step))
    recovered, notes = _training(folder, newest, optimizer)
    progress(
        "Denoising a few images, to infer settings" if options.probe else "Reading settings",
        0,
        len(folder.steps),
    )
    found = identify(weights.tensors, {**recovered, **flags}, newest.model, options.probe)
    config = codec.replace(
        found.config, {"total_steps": flags.get("total_steps") or flags.get("lr_anneal_steps") or done}
    )
    config = _with_classes(config, found.labels, options.class_names)
    for problem in validation.problems(config):
        if problem.name != "data_dir" or config.data.data_dir:
            raise UserError(problem.sentence, code=problem.code)
    return config, notes + found.notes


def _training(folder: Folder, newest: Files, optimizer: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """Infers settings of the training from its log and optimiser; also returns notes on what could not be inferred."""
    settings: dict[str, Any] = {"ema_rate": ",".join(newest.averages), "ema_warmup": False}
    notes = []
    if folder.progress and (batch := openai_log.batch_size(openai_log.read_progress(folder.progress))):
        settings["batch_size"] = batch
    else:
        notes.append("The batch size cannot be inferred from its log: give it with --batch_size.")
    if optimizer:
        group = optimizer["param_groups"][0]
        settings["weight_decay"] = float(group["weight_decay"])
        lr = float(group["lr"])
        if lr > 0 and float(f"{lr:.3g}") == lr:
            settings["lr"] = lr
        else:
            notes.append(
                f"Its learning rate was falling, and {lr:.3g} at the end: give --lr and --lr_anneal_steps to resume"
                " with (otherwise lr is 0.0001)."
            )
    return settings, notes


def _with_classes(config: Config, labels: tuple[int, ...], names: tuple[str, ...]) -> Config:
    """Adds the names of the classes to `config`: those given, those of the data, or the numbers of trained labels."""
    if names and not config.model.class_cond:
        raise UserError(
            f"class_names {','.join(names)} were given, but the network has no classes: leave them out.",
            code="not-applicable",
        )
    if names:
        most = max(labels, default=len(names) - 1) + 1
        if not most <= len(names) <= config.model.num_classes:
            raise UserError(
                f"class_names has {plural(len(names), 'name')}, and labels 0 to {most - 1} were trained: give {most},"
                " in the order of the labels.",
                code="bad-value",
            )
        config = codec.replace(config, {"class_names": names})
    return datasets.attach(config, config.data.data_dir) if config.data.data_dir else config


def _checkpoints(
    folder: Folder, config: Config, notes: list[str], progress: Progress
) -> Iterator[tuple[Files, warm_start.Start]]:
    """Yields every step that can be read, the oldest first."""
    for number, found in enumerate(folder.steps):
        assert found.model
        progress(f"Reading {found.model.name}", number, len(folder.steps))
        try:
            weights = {kind: checkpoint_files.load_weights(path).tensors for kind, path in found.weights.items()}
            optimizer = checkpoint_files.optimizer_of(found.optimizer, weights["model"]) if found.optimizer else None
            with torch.device("meta"):
                network = unet.build(config.model)
            for kind, tensors in weights.items():
                fitting.compare(network, tensors, found.weights[kind].name)
        except UserError as error:
            notes.append(f"Step {found.step} is left out: {error}")
            continue
        step = max(1, warm_start.updates(optimizer, found.step))
        yield found, warm_start.Start(weights, optimizer, warm_start.fresh_state(step, config), [])


def _state_of(start: warm_start.Start) -> dict[str, Any]:
    """Content of a state file."""
    return {"trainer": start.state, "means": {}, "restored": warm_start.restored(start.weights, start.optimizer)}


def _copy(folder: Folder, runs_dir: Path, name: str, config: Config, notes: list[str], progress: Progress) -> Run:
    """Builds the run beside its place, where nobody sees or takes it up before it is whole."""
    target = runs_dir / name
    building = files.temporary_path(target)
    run = Run(building)
    try:
        files.write_json(building / "config.json", codec.to_json(config))
        frame = openai_log.read_progress(folder.progress) if folder.progress else None
        wanted = progress_log.columns_for(losses.parts(config))
        extra = [column for column in (frame.columns if frame is not None else ()) if column not in wanted]
        writer = progress_log.MetricWriter(run.progress_path, (*wanted, *extra))
        rows = frame.to_dict("records") if frame is not None else []
        step, written = 0, 0
        for _, start in _checkpoints(folder, config, notes, progress):
            while written < len(rows) and rows[written]["step"] <= start.step:
                _write_row(writer, rows[written])
                written += 1
            checkpoint_files.save(run, start.step, start.weights, start.optimizer, _state_of(start), writer.sync(), 0.0)
            step = start.step
        for row in rows[written:]:
            _write_row(writer, row)
        writer.sync()
        writer.close()
        _write_status(run, step, rows[-1] if rows else {}, notes, _log_of(folder))
        if not (building / "config.json").exists():  # another machine took the folder for one that was left behind
            raise UserError(
                f"{building} was removed while the run was built there: import it again.", code="changed-file"
            )
        return runs.publish(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_row(writer: progress_log.MetricWriter, row: Mapping[Any, float]) -> None:
    writer.write({name: value for name, value in row.items() if value == value})  # what is NaN here was empty there


def _open_in_place(
    folder: Folder, runs_dir: Path, name: str, config: Config, notes: list[str], progress: Progress
) -> Run:
    run = Run(folder.path.absolute())
    made: list[Path] = []
    length = folder.progress.read_bytes().rfind(b"\n") + 1 if folder.progress else 0  # a torn line gives way to ours
    try:
        step = 0
        for found, start in _checkpoints(folder, config, notes, progress):
            state = run.folder / f"state{found.step:06d}.pt"
            made.append(state)
            content = _state_of(start)
            written = files.write(state, lambda file, content=content: torch.save(content, file))  # type: ignore[misc]
            theirs = [*found.weights.values(), *([found.optimizer] if found.optimizer else [])]
            listed = {p.name: {"bytes": p.stat().st_size, "sha256": files.sha256(p)} for p in theirs}
            checkpoint = Checkpoint(
                run.folder, found.step, {**listed, state.name: written._asdict()}, length, 0.0, True
            )
            made.append(checkpoint.manifest_path)
            manifests.commit(checkpoint)
            step = start.step
        rows = openai_log.read_progress(folder.progress) if folder.progress else None
        last = {} if rows is None or rows.empty else rows.iloc[-1].to_dict()
        made += [run.folder / "status.json", run.folder / "config.json"]
        files.write_json(run.folder / "config.json", codec.to_json(config))
        _write_status(run, step, last, notes)
        folders.make(runs_dir)
        files.link(run.folder, runs_dir / name)
    except BaseException as error:
        _remove(made)
        if isinstance(error, OSError):
            raise UserError(
                f"{run.folder} cannot be opened in place ({error.strerror or error}): import it by copying, without "
                "--in_place, or make the folder writable.",
                code="not-writable",
            ) from error
        raise
    return Run(runs_dir / name)


def _remove(made: list[Path]) -> None:
    for path in made:
        path.unlink(missing_ok=True)
    if made:
        with contextlib.suppress(OSError):  # not there, or with manifests of others
            (made[0].parent / "saves").rmdir()


def _log_of(folder: Folder) -> bytes:
    """Its log.txt; nothing where there is none, or no file of a size that a log has."""
    try:
        return untrusted.Folder(Path(os.path.realpath(folder.path))).read("log.txt", run_folder.MOST_LOG)
    except (UserError, OSError):
        return b""


def _write_status(run: Run, step: int, row: Mapping[Any, float], notes: list[str], log: bytes | None = None) -> None:
    """Writes status.json, and log.txt if its text `log` is given, as a training that ended leaves them."""
    if not step:
        raise UserError(" ".join(notes[-1:]), code="damaged-checkpoint")
    total = run.config.train.total_steps
    values: dict[str, float | None] = {str(name): value for name, value in row.items() if value == value}
    status = Status("finished" if step >= total else "stopped", step, total, metrics=values, updated_at=time.time())
    files.write_json(run.folder / "status.json", dataclasses.asdict(status))
    if log is not None:
        lines = [f"Imported from improved-diffusion after {plural(step, 'update')}", *notes]
        files.write_bytes(run.log_path, b"".join([log, *(f"{line}\n".encode() for line in lines)]))
