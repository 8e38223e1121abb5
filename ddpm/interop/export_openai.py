"""Export of a run's checkpoint as the files that improved-diffusion writes, loads and resumes from."""

import math
import shlex
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm import weightings
from ddpm.checkpoints import checkpoint_files
from ddpm.config import ema_rates, reference_names
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.runs import metrics, openai_log
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.storage import files

PROGRESS, FLAGS = OTHER_FILES = ("progress.csv", "flags.txt")  # next to the checkpoint's files
LABELS = 1000  # rows of the label embedding in its class-conditional networks, always
EMBEDDING = "label_emb.weight"
DEFAULTS = {32: (1, 2, 2, 2), 64: (1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}  # the sizes and levels that its scripts build
NETWORK_FLAGS = (
    "image_size",
    "num_channels",
    "num_res_blocks",
    "num_heads",
    "num_heads_upsample",
    "attention_resolutions",
    "dropout",
    "learn_sigma",
    "class_cond",
    "use_checkpoint",
    "use_scale_shift_norm",
    "diffusion_steps",
    "noise_schedule",
    "timestep_respacing",
    "use_kl",
    "predict_xstart",
    "rescale_timesteps",
    "rescale_learned_sigmas",
    "sigma_small",
)
TRAIN_FLAGS = (
    "schedule_sampler",
    "lr",
    "weight_decay",
    "lr_anneal_steps",
    "batch_size",
    "microbatch",
    "ema_rate",
    "log_interval",
    "save_interval",
    "use_fp16",
    "fp16_scale_growth",
)


def export_checkpoint(run: Run, folder: Path, step: int = 0) -> list[str]:
    """Exports the checkpoint of `step` (0: the newest) and the log to `folder`; returns notes for the user.

    model, ema and opt files are plain state_dicts, numbered by the optimiser updates done, which is the step from which
    improved-diffusion resumes; progress.csv has its columns; flags.txt has the command lines.  Raises UserError if the
    checkpoint is damaged, if there are more labels than its networks have, or if `folder` has such files already.
    """
    config = run.config
    hidden = config.model.label_slots - config.model.num_classes if config.model.class_cond else 0
    if config.model.label_slots > LABELS:
        none = " and a label for none" if hidden else ""
        raise UserError(
            f"{run.name} has {config.model.num_classes:,} classes{none}, and improved-diffusion's networks have"
            f" {LABELS:,} labels: it cannot load this one.",
            code="not-exportable",
        )
    if config.model.use_new_attention_order or config.model.num_head_channels != -1:
        raise UserError(
            f"{run.name} splits attention as guided-diffusion does (num_head_channels, use_new_attention_order), and"
            " improved-diffusion's networks cannot: it cannot load this one.",
            code="not-exportable",
        )
    if config.model.patch_size > 1:
        raise UserError(
            f"{run.name} has patch_size {config.model.patch_size}, and improved-diffusion's networks have no patches:"
            " it cannot load this one.",
            code="not-exportable",
        )
    if config.model.augment:
        raise UserError(
            f"{run.name} was trained with augment {config.model.augment:g}, on which its network is conditioned, and"
            " improved-diffusion's networks cannot be: it cannot load this one.",
            code="not-exportable",
        )
    if config.diffusion.prediction == "v":
        raise UserError(
            f"{run.name} predicts v, and improved-diffusion's networks cannot: it cannot load this one.",
            code="not-exportable",
        )
    if config.diffusion.zero_terminal_snr or config.diffusion.noise_schedule not in ("linear", "cosine"):
        zero = " with zero_terminal_snr" if config.diffusion.zero_terminal_snr else ""
        raise UserError(
            f"{run.name} has the noise schedule {config.diffusion.noise_schedule}{zero}, and improved-diffusion knows"
            " linear and cosine: it cannot load this one.",
            code="not-exportable",
        )
    taken = sorted(path.name for path in folder.glob("*") if path.suffix == ".pt" or path.name in OTHER_FILES)
    if taken:
        raise UserError(
            f"{folder} holds {taken[0]} already: choose another folder for --openai.", code="already-exists"
        )
    weights, optimizer, done = checkpoint_files.with_checkpoint(run, step, lambda checkpoint: _read(run, checkpoint))
    converted = _optimizer(optimizer, list(weights["model"]), hidden) if optimizer else None
    for kind, tensors in weights.items():
        separator = "_" if kind.startswith("ema") else ""
        _save(
            folder / f"{kind}{separator}{done:06d}.pt",
            OrderedDict((n, _pad_labels(n, t, hidden)) for n, t in tensors.items()),
        )
    notes = list(_limits(config))
    if optimizer and _uses_mixed_precision(config):
        notes.append(
            "Its --use_fp16 has AdamW work on a single flat tensor, so it cannot resume from this optimiser's file: the"
            " flag is left out; to train with it, move the file away."
        )
    if converted:
        _save(folder / f"opt{done:06d}.pt", converted)
    else:
        notes.append("There is no optimiser's file: improved-diffusion begins a new one.")
    frame = openai_log.to_openai_columns(metrics.MetricReader(run.progress_path).read(), _last_step_of_theirs(run))
    if not frame.empty:
        text = frame.to_csv(index=False, lineterminator="\n")
        files.write_bytes(folder / PROGRESS, text.encode())
    files.write_bytes(folder / FLAGS, _flags(config, weights, done, notes, optimizer is not None).encode())
    return notes


def _read(run: Run, checkpoint: Checkpoint) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any] | None, int]:
    """Reads the weights, the optimiser's state (None if not saved) and the number of updates done."""
    if wrong := checkpoint_files.damage(checkpoint):
        raise UserError(f"{wrong} Export another checkpoint, with --step.", code="damaged-checkpoint")
    if checkpoint.path("state").name not in checkpoint.files:
        raise UserError(
            f"{run.name} holds only {', '.join(checkpoint.weights)} of step {checkpoint.step}, enough to sample from"
            " but not to export: train a run of your own.",
            code="missing-weights",
        )
    weights = {kind: checkpoint_files.load_weights(checkpoint.path(kind)).tensors for kind in checkpoint.weights}
    there = checkpoint.path("opt").name in checkpoint.files
    optimizer = checkpoint_files.read(checkpoint.path("opt")) if there else None
    return weights, optimizer, checkpoint_files.read(checkpoint.path("state"))["trainer"]["step"]


def _last_step_of_theirs(run: Run) -> float:
    """Newest step that improved-diffusion itself logged in the run's folder; -1 for a run of ours.

    Rows added since the folder was opened are ours; where both logged a step, ours counts.
    """
    opened = [checkpoint.log_bytes for checkpoint in run.checkpoints() if checkpoint.theirs]
    if not opened:
        return -1
    ours = metrics.steps_after(run.progress_path, max(opened))
    return min(ours) - 1 if len(ours) else math.inf


def _save(path: Path, content: Any) -> None:
    files.write(path, lambda file: torch.save(content, file))


def _pad_labels(name: str, tensor: Tensor, hidden: int) -> Tensor:
    """Pads the label embedding [num_classes + hidden, C] with zero rows to the [1000, C] of improved-diffusion.

    `hidden`: rows for the label of no class, 0 or 1; they stay last.  Other tensors are returned as they are.
    """
    if name != EMBEDDING or len(tensor) >= LABELS:
        return tensor
    classes, none = tensor[: len(tensor) - hidden], tensor[len(tensor) - hidden :]
    return torch.cat([classes, tensor.new_zeros(LABELS - len(tensor), tensor.shape[1]), none])


def _optimizer(state: Mapping[str, Any], names: list[str], hidden: int) -> dict[str, Any]:
    """Converts AdamW's state_dict to what improved-diffusion loads: not fused, and padded where the weights are."""
    padded = {
        place: {
            key: _pad_labels(names[place], value, hidden) if isinstance(value, Tensor) and value.ndim else value
            for key, value in entry.items()
        }
        for place, entry in state["state"].items()
    }
    return {"state": padded, "param_groups": [{**group, "fused": None} for group in state["param_groups"]]}


def _limits(config: Config) -> list[str]:
    """Yields what improved-diffusion's unmodified scripts cannot do with such a network."""
    model, diffusion = config.model, config.diffusion
    notes = []
    hides = model.class_cond and model.cond_drop_prob > 0
    if 0 < model.label_slots < LABELS:
        which = f"from {model.num_classes} to {LABELS - 2}" if hides else f"from {model.num_classes} on"
        notes.append(f"Its networks have {LABELS:,} labels: those {which} are zeros, and nothing was trained on them.")
    if hides:
        notes.append(
            f"Label {LABELS - 1}, the last, stands for no class: its scripts know no guidance and take it for a class;"
            f" here, --cond_drop_prob {model.cond_drop_prob:g} with these files says what it is."
        )
    sizes = [size for size in DEFAULTS if size > 32 or not model.super_res]  # none enlarges to 32 pixels
    if model.image_size not in sizes or DEFAULTS[model.image_size] != model.multipliers or model.image_channels != 3:
        levels = ",".join(map(str, model.multipliers))
        notes.append(
            f"Its scripts build networks for images of {', '.join(map(str, sizes))} pixels in colour, with their own"
            f" channel_mult: for {model.image_size} pixels, {plural(model.image_channels, 'channel')} and channel_mult"
            f" {levels}, change {'sr_' if model.super_res else ''}create_model in them."
        )
    if diffusion.prediction == "x_prev" or (model.learn_sigma and not diffusion.learned_range):
        notes.append(
            "Its scripts have no flag for the prediction of x_prev, or for a variance that is no range: set it in"
            " their code."
        )
    if powers := [rate for rate in config.train.ema_rates if ema_rates.width_of(rate) is not None]:
        notes.append(
            f"Its scripts sample from the averages {' and '.join(powers)}, and cannot go on with them: a training that"
            " is resumed there has the other averages alone."
        )
    if diffusion.loss_weighting != weightings.NONE:
        notes.append(
            "Its scripts know no weighting of the loss: a training that is resumed there goes on without"
            f" {diffusion.loss_weighting}."
        )
    if config.train.noise_offset:
        notes.append("Its scripts know no offset noise: a training that is resumed there goes on with plain noise.")
    if config.train.lr_schedule != "constant":
        notes.append(
            "Its scripts know a constant learning rate and a linear annealing: a training that is resumed there goes on"
            f" without {config.train.lr_schedule}."
        )
    return notes


def _flags(config: Config, weights: Mapping[str, Any], step: int, notes: list[str], optimizer: bool) -> str:
    """Text of flags.txt: command lines for its scripts, with or without an optimiser's file to resume from."""
    prefix = "super_res" if config.model.super_res else "image"
    network = _changed_flags(config, NETWORK_FLAGS)
    if config.model.super_res:
        network["large_size"], network["small_size"] = network.pop("image_size"), str(config.model.small_size)
        network.pop("sigma_small", None)
    if not config.model.attention_sizes:  # its scripts cannot read an empty list, and have no map of that size
        network["attention_resolutions"] = str(2 * config.model.image_size)
    learning = _changed_flags(config, TRAIN_FLAGS)
    learning.pop("use_fp16", None)
    if "ema_rate" in learning:
        learning["ema_rate"] = ",".join(r for r in config.train.ema_rates if ema_rates.width_of(r) is None)
        learning = {name: value for name, value in learning.items() if value}
    if learning.get("schedule_sampler") == "stratified":  # uniform too, and its scripts do not know the word
        del learning["schedule_sampler"]
    if _uses_mixed_precision(config) and not optimizer:
        learning["use_fp16"] = "True"
    best = next((kind for kind in weights if kind != "model"), "model")
    sampled = f"{best}{'_' if best != 'model' else ''}{step:06d}.pt"
    data_dir = {"data_dir": config.data.data_dir or "DATA"}
    lines = [
        *(f"# {sentence}" for sentence in notes),
        _command_line(
            f"{prefix}_train.py", {**data_dir, **network, **learning, "resume_checkpoint": f"model{step:06d}.pt"}
        ),
        _command_line(f"{prefix}_sample.py", {"model_path": sampled, **network}),
    ]
    if not config.model.super_res:
        lines.append(_command_line("image_nll.py", {**data_dir, "model_path": sampled, **network}))
    return "\n".join(lines) + "\n"


def _uses_mixed_precision(config: Config) -> bool:
    """True if it was trained with what improved-diffusion calls use_fp16."""
    train = config.train
    return train.use_fp16 if train.precision == "auto" else train.precision in ("bf16", "fp16")


def _changed_flags(config: Config, names: tuple[str, ...]) -> dict[str, str]:
    """Settings as flags: image_size always, others where they differ from the default, which is the reference's."""
    usual = Config()
    flags = {}
    for section, default in (
        (config.model, usual.model),
        (config.diffusion, usual.diffusion),
        (config.train, usual.train),
    ):
        for name in (name for name in names if hasattr(section, name)):
            value = getattr(section, name)
            if value != getattr(default, name) or name == "image_size":
                flags[name] = str(value)
    switches = reference_names.switches(config.diffusion.prediction).items()
    return flags | {name: str(value) for name, value in switches if value and name in names}


def _command_line(script: str, flags: Mapping[str, str]) -> str:
    return shlex.join(
        ["python", f"scripts/{script}", *(part for name, value in flags.items() for part in (f"--{name}", value))]
    )
