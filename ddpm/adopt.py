"""Training on from what another program, or another run, has left: a file to begin from, or a whole folder as a run."""

import contextlib
import dataclasses
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm import checkpoint as checkpoints
from ddpm import config as configs
from ddpm import data, files, foreign, losses, metrics, parallel, presets, probe, runs, unet, validation
from ddpm.checkpoint import Weights
from ddpm.config import Config
from ddpm.errors import UserError
from ddpm.foreign import Files, Folder
from ddpm.jobs import Status
from ddpm.recognise import recognise
from ddpm.runs import Checkpoint, Run
from ddpm.words import plural

log = logging.getLogger("ddpm")

ASKED = (*probe.NAMES, "num_heads_upsample", "image_size", "small_size")  # settings that a probe is told
Progress = Callable[[str, int, int], None]  # (what is being done, files done, files in all)


class Start(NamedTuple):
    """Everything that a training goes on from."""

    weights: dict[str, dict[str, Tensor]]  # "model", "ema_0.9999" -> name -> tensor
    optimizer: dict[str, Any] | None
    state: dict[str, Any]  # as Trainer.state() gives it, but with random states fresh from the seed
    told: list[str]  # sentences: what was found, and what was not
    config: Config | None = None  # with which the file says that it was trained
    seen: dict[str, Any] | None = None  # the digest of what it was trained on, where the file says so
    learnt: np.ndarray | None = None  # who was ever trained on, where the state beside it says so

    @property
    def step(self) -> int:
        """Updates that were done."""
        return self.state["step"]


def start_from(path: Path, config: Config) -> Start:
    """What `train.resume_checkpoint` begins with: a model file with the averages and the optimiser of its step.

    A file of averages is begun from as it is, without an optimiser.  Raises UserError for what cannot be read, or has
    no steps left to do.
    """
    weights, beside = checkpoints.load_weights(path), foreign.beside(path)
    told: list[str] = []
    if rate := foreign.rate_of(path):
        told.append(f"{path.name} is an average of weights (rate {rate}): training begins from it, with a new optimiser.")  # fmt: skip
        return _start({"model": weights.tensors}, None, weights, beside, config, told)
    found, optimizer = {"model": weights.tensors}, None
    there = {str(float(rate)): file for rate, file in beside.averages.items()} if beside else {}
    for rate in config.train.ema_rates:
        if rate in there:
            found[f"ema_{rate}"] = checkpoints.load_weights(there[rate]).tensors
        else:
            told.append(f"There is no average of rate {rate} beside {path.name}: it begins from the weights.")
    if beside and beside.optimizer:
        optimizer = checkpoints.optimizer_of(beside.optimizer, weights.tensors)
    else:
        told.append(f"There is no optimiser's file beside {path.name}: it begins anew.")
    return _start(found, optimizer, weights, beside, config, told)


def _start(found: dict[str, dict[str, Tensor]], optimizer: dict[str, Any] | None, weights: Weights, beside: Files | None, config: Config, told: list[str]) -> Start:  # fmt: skip
    step = updates(optimizer) or weights.step or (beside.step if beside else 0)
    name, total = Path(config.train.resume_checkpoint).name, config.train.total_steps
    if step >= total:
        raised = "lr_anneal_steps, and total_steps to the same" if config.train.lr_anneal_steps else "total_steps"
        raise UserError(f"{name} has {plural(step, 'update')} behind it, and training would end at step {total}: raise {raised}.")  # fmt: skip
    what = restored(found, optimizer)
    known = _known(Path(config.train.resume_checkpoint), weights.config)
    if known and config.model.class_cond and config.model.cond_drop_prob and not known.model.cond_drop_prob:
        told.append(f"Its last label, {config.model.num_classes}, stands for no class from now on, whatever it was trained as.")  # fmt: skip
    told = [*told, f"Beginning at step {step}: {what}"]
    learnt = checkpoints.learnt_beside(Path(config.train.resume_checkpoint), weights.step) if weights.data else None
    return Start(found, optimizer, fresh_state(step, config), told, weights.config, weights.data, learnt)


def restored(found: Mapping[str, Any], optimizer: Mapping[str, Any] | None) -> str:
    """What there was, for the log."""
    averages = [kind.removeprefix("ema_") for kind in found if kind != "model"]
    parts = ["weights", f"averages {' and '.join(averages)}" if averages else "no averages", "optimiser" if optimizer else "no optimiser"]  # fmt: skip
    return ", ".join(parts) + "; random state fresh from the seed"


def fresh_state(step: int, config: Config) -> dict[str, Any]:
    """Trainer.state() after `step` updates of another program: the place in the data follows, nothing random does."""
    rng = torch.Generator().manual_seed(config.train.seed)
    return {
        "fresh": True,  # nothing random goes on, with however many processes
        "step": step,
        "position": step * config.train.batch_size * parallel.size(),
        "ema_updates": step,
        "rng": rng.get_state(),
        "torch_rng": rng.get_state(),
    }


def updates(optimizer: Mapping[str, Any] | None) -> int:
    """How many updates AdamW has made: the true number, whatever file names say; 0 where it cannot tell."""
    return max((int(entry["step"]) for entry in (optimizer or {}).get("state", {}).values()), default=0)


def check_start(config: Config) -> Config:
    """`config` with train.resume_checkpoint looked at: weights that fit and go on as they began, with steps left to do.

    A class-conditional network keeps the number of labels that its file has; with cond_drop_prob, the last of them stands
    for no class.  A file that knows its settings, or a
    released one, tells the process that it was trained on; any other is probed, and what is said of it goes to the log.
    Raises UserError.
    """
    path = Path(config.train.resume_checkpoint)
    start = start_from(path, config)
    tensors = start.weights["model"]
    labels = tensors.get("label_emb.weight")
    if config.model.class_cond and labels is not None:
        classes = len(labels) - (config.model.cond_drop_prob > 0)
        if classes >= len(config.class_names):
            config = configs.replace(config, {"num_classes": classes})
    with torch.device("meta"):
        network = unet.build(config.model)
    checkpoints.compare(network, tensors, path.name)
    if known := _known(path, start.config):
        _same_process(path, known, config)
    else:
        flags = {name: getattr(config.model if hasattr(config.model, name) else config.diffusion, name) for name in ASKED}  # fmt: skip
        for sentence in recognise(tensors, {**flags, **vars(config.data)}, path).told:
            log.warning("%s", sentence)
    return config


def _known(path: Path, config: Config | None) -> Config | None:
    """The settings that a file was trained with: its own, or a released model's; None where nobody says."""
    preset = presets.of_file(path)
    return config or (presets.PRESETS[preset].config if preset else None)


def _same_process(path: Path, known: Config, config: Config) -> None:
    """Raises UserError where `config` asks a network otherwise than it was trained, which no shape tells."""
    was, wanted = _process(known), _process(config)
    if known.model.class_cond and known.model.cond_drop_prob and not config.model.cond_drop_prob:
        was["cond_drop_prob"], wanted["cond_drop_prob"] = known.model.cond_drop_prob, 0.0  # or no class became one
    if differ := [name for name in was if was[name] != wanted[name]]:
        wrong = ", ".join(f"{name} {wanted[name]}" for name in differ)
        right = " ".join(f"--{name} {was[name]}" for name in differ)
        raise UserError(f"{path.name} was not trained with {wrong}: use {right}.")


def _process(config: Config) -> dict[str, Any]:
    """What a network is asked by, as far as it makes a difference."""
    model, diffusion = config.model, config.diffusion
    found = {name: getattr(diffusion, name) for name in probe.PROCESS}
    if diffusion.diffusion_steps == 1000:
        found["rescale_timesteps"] = True  # to the same scale
    return {
        **found,
        "learned_range": diffusion.learned_range or not model.learn_sigma,
        "num_heads": model.num_heads,
        "num_heads_upsample": model.heads_up,
        "num_head_channels": model.num_head_channels,
        "use_new_attention_order": model.use_new_attention_order,
        "use_scale_shift_norm": model.use_scale_shift_norm,
    }


class Adopted(NamedTuple):
    """A run made of a folder, and what there is to say about it."""

    run: Run
    told: list[str]


class Wish(NamedTuple):
    """What is wanted of an import besides settings."""

    name: str = ""
    class_names: tuple[str, ...] = ()
    in_place: bool = False
    ask: bool = True  # whether a probe finds out and checks what shapes do not tell


def adopt(folder: Folder, runs_dir: Path, flags: Mapping[str, Any], wish: Wish, progress: Progress) -> Adopted:
    """Make a run of a folder that improved-diffusion wrote.

    `flags`: settings by name.  In place, the folder itself becomes the run, under a link in `runs_dir`, and gets
    config.json, status.json, saves/ and state files; otherwise everything is copied, and steps are numbered by the
    updates done.  Raises UserError with nothing left behind.
    """
    name = wish.name or runs.free_name(runs_dir, folder.path.absolute().name)
    runs.check_name(name)
    if (runs_dir / name).exists():
        raise UserError(f"There is already a run named {name}: choose another name.")
    progress("Reading the newest checkpoint", 0, len(folder.steps))
    newest, told = _newest(folder)
    run = Run(runs_dir / name)
    config, said = _settings(run, folder, newest, flags, wish, progress)
    told += said
    if not config.data.data_dir:
        run.config = config
        goes_on = flags.get("total_steps") or flags.get("lr_anneal_steps")  # it is finished otherwise
        again = run.shell("train", "--resume", more=["--data_dir", "DATA"]) if goes_on else run.anew(newest.model)
        told.append(f"To train on, name its data: `{again}`.")
    make = _open_in_place if wish.in_place else _copy
    return Adopted(make(folder, runs_dir, name, config, told, progress), told)


def _newest(folder: Folder) -> tuple[Files, list[str]]:
    """The newest step whose weights can be read, and what is wrong with those after it."""
    told: list[str] = []
    for found in reversed(folder.steps):
        try:
            assert found.model, "a folder lists steps with a model"
            checkpoints.load_weights(found.model)
            return found, told
        except UserError as error:
            told.append(str(error))
    raise UserError(told[0])


def _settings(run: Run, folder: Folder, newest: Files, flags: Mapping[str, Any], wish: Wish, progress: Progress) -> tuple[Config, list[str]]:  # fmt: skip
    assert newest.model
    weights = checkpoints.load_weights(newest.model)
    if weights.config:
        run.config = weights.config
        raise UserError(f"{newest.model} was written by this program and knows its settings: begin from it with `{run.anew(newest.model)}`.")  # fmt: skip
    optimizer = checkpoints.optimizer_of(newest.optimizer, weights.tensors) if newest.optimizer else None
    done = updates(optimizer) or max(1, newest.step)
    learnt, told = _training(folder, newest, optimizer)
    progress("Denoising a few pictures, to find out what it was trained on" if wish.ask else "Reading settings", 0, len(folder.steps))  # fmt: skip
    found = recognise(weights.tensors, {**learnt, **flags}, newest.model, wish.ask)
    config = configs.replace(
        found.config, {"total_steps": flags.get("total_steps") or flags.get("lr_anneal_steps") or done}
    )
    config = _with_classes(config, found.labels, wish.class_names)
    for problem in validation.problems(config):
        if problem.name != "data_dir" or config.data.data_dir:
            raise UserError(problem.sentence)
    return config, told + found.told


def _training(folder: Folder, newest: Files, optimizer: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """What a folder tells about how it was trained."""
    settings: dict[str, Any] = {"ema_rate": ",".join(newest.averages), "ema_warmup": False}
    told = []
    if folder.progress and (batch := foreign.batch_size(foreign.curves(folder.progress))):
        settings["batch_size"] = batch
    else:
        told.append("Its log does not tell the batch size: --batch_size says it.")
    if optimizer:
        group = optimizer["param_groups"][0]
        settings["weight_decay"] = float(group["weight_decay"])
        lr = float(group["lr"])
        if lr > 0 and float(f"{lr:.3g}") == lr:
            settings["lr"] = lr
        else:
            told.append(f"Its learning rate was falling, and {lr:.3g} at last: --lr and --lr_anneal_steps say how to go on (lr 0.0001 if not).")  # fmt: skip
    return settings, told


def _with_classes(config: Config, labels: tuple[int, ...], names: tuple[str, ...]) -> Config:
    """`config` with the names of its classes: those given, those of the data, or the numbers of trained labels."""
    if names and not config.model.class_cond:
        raise UserError(f"class_names {','.join(names)} were given, but the network has no classes: leave them out.")
    if names:
        most = max(labels, default=len(names) - 1) + 1
        if not most <= len(names) <= config.model.num_classes:
            raise UserError(f"class_names has {plural(len(names), 'name')}, and labels 0 to {most - 1} were trained: give {most}, in the order of the labels.")  # fmt: skip
        config = configs.replace(config, {"class_names": names})
    return data.attach(config, config.data.data_dir) if config.data.data_dir else config


def _sets(folder: Folder, config: Config, told: list[str], progress: Progress) -> Iterator[tuple[Files, Start]]:
    """Every step that can be read, the oldest first."""
    for number, found in enumerate(folder.steps):
        assert found.model
        progress(f"Reading {found.model.name}", number, len(folder.steps))
        try:
            weights = {kind: checkpoints.load_weights(path).tensors for kind, path in found.weights.items()}
            optimizer = checkpoints.optimizer_of(found.optimizer, weights["model"]) if found.optimizer else None
            with torch.device("meta"):
                network = unet.build(config.model)
            for kind, tensors in weights.items():
                checkpoints.compare(network, tensors, found.weights[kind].name)
        except UserError as error:
            told.append(f"Step {found.step} is left out: {error}")
            continue
        step = updates(optimizer) or max(1, found.step)
        yield found, Start(weights, optimizer, fresh_state(step, config), [])


def _state_of(start: Start) -> dict[str, Any]:
    """What a state file holds."""
    return {"trainer": start.state, "means": {}, "restored": restored(start.weights, start.optimizer)}


def _copy(folder: Folder, runs_dir: Path, name: str, config: Config, told: list[str], progress: Progress) -> Run:
    run = runs.create(runs_dir, name, config)
    try:
        frame = foreign.curves(folder.progress) if folder.progress else None
        wanted = metrics.columns_for(losses.parts(config))
        extra = [column for column in (frame.columns if frame is not None else ()) if column not in wanted]
        writer = metrics.MetricWriter(run.progress_path, (*wanted, *extra))
        rows = frame.to_dict("records") if frame is not None else []
        step, written = 0, 0
        for _, start in _sets(folder, config, told, progress):
            while written < len(rows) and rows[written]["step"] <= start.step:
                _write_row(writer, rows[written])
                written += 1
            checkpoints.save(run, start.step, start.weights, start.optimizer, _state_of(start), writer.sync(), 0.0)
            step = start.step
        for row in rows[written:]:
            _write_row(writer, row)
        writer.sync()
        writer.close()
        _conclude(run, step, rows[-1] if rows else {}, told, _log_of(folder))
    except BaseException:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise
    return run


def _write_row(writer: metrics.MetricWriter, row: Mapping[Any, float]) -> None:
    writer.write({name: value for name, value in row.items() if value == value})  # what is NaN here was empty there


def _open_in_place(folder: Folder, runs_dir: Path, name: str, config: Config, told: list[str], progress: Progress) -> Run:  # fmt: skip
    run = Run(folder.path.absolute())
    made: list[Path] = []
    length = folder.progress.read_bytes().rfind(b"\n") + 1 if folder.progress else 0  # a torn line gives way to ours
    try:
        step = 0
        for found, start in _sets(folder, config, told, progress):
            state = run.folder / f"state{found.step:06d}.pt"
            made.append(state)
            written = files.write(state, lambda file, start=start: torch.save(_state_of(start), file))  # type: ignore[misc]
            theirs = [*found.weights.values(), *([found.optimizer] if found.optimizer else [])]
            listed = {p.name: {"bytes": p.stat().st_size, "sha256": files.sha256(p)} for p in theirs}
            checkpoint = Checkpoint(
                run.folder, found.step, {**listed, state.name: written._asdict()}, length, 0.0, True
            )
            made.append(checkpoints.manifest_path(checkpoint))
            checkpoints.commit(checkpoint)
            step = start.step
        last = foreign.curves(folder.progress).iloc[-1].to_dict() if folder.progress else {}
        made += [run.folder / "status.json", run.folder / "config.json"]
        files.write_json(run.folder / "config.json", configs.to_json(config))
        _conclude(run, step, last, told)
        runs_dir.mkdir(parents=True, exist_ok=True)
        files.link(run.folder, runs_dir / name)
    except BaseException as error:
        _take_back(made)
        if isinstance(error, OSError):
            raise UserError(
                f"{run.folder} cannot be opened in place ({error.strerror or error}): import it by copying, without "
                "--in_place, or make the folder writable."
            ) from error
        raise
    return Run(runs_dir / name)


def _take_back(made: list[Path]) -> None:
    for path in made:
        path.unlink(missing_ok=True)
    if made:
        with contextlib.suppress(OSError):  # not there, or with manifests of others
            (made[0].parent / "saves").rmdir()


def _log_of(folder: Folder) -> bytes:
    log = folder.path / "log.txt"
    return log.read_bytes() if log.exists() else b""


def _conclude(run: Run, step: int, row: Mapping[Any, float], told: list[str], log: bytes | None = None) -> None:
    """Status and log of a run that nobody works on."""
    if not step:
        raise UserError(" ".join(told[-1:]))
    total = run.config.train.total_steps
    values: dict[str, float | None] = {str(name): value for name, value in row.items() if value == value}
    status = Status("finished" if step >= total else "stopped", step, total, metrics=values, updated_at=time.time())
    files.write_json(run.folder / "status.json", dataclasses.asdict(status))
    if log is not None:
        lines = [f"Imported from improved-diffusion after {plural(step, 'update')}", *told]
        files.write_bytes(run.log_path, b"".join([log, *(f"{line}\n".encode() for line in lines)]))
