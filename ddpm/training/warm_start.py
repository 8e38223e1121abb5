"""Beginning a training from weights that are there: a model file with the averages and the optimiser of its step."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm.checkpoints import checkpoint_files, fitting, probe
from ddpm.checkpoints.checkpoint_files import Weights
from ddpm.checkpoints.identify import identify
from ddpm.compute import distributed
from ddpm.config import codec, ema_rates, learning_rate, presets
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.models import unet
from ddpm.runs import openai_folder
from ddpm.runs.openai_folder import Files
from ddpm.training.trainer import Trainer

log = logging.getLogger("ddpm")

ASKED = (*probe.NAMES, "num_heads_upsample", "image_size", "small_size")  # settings that the probe compares with
Progress = Callable[[str, int, int], None]  # (what is being done, files done, files in all)


class Start(NamedTuple):
    """Everything that training starts from."""

    weights: dict[str, dict[str, Tensor]]  # "model", "ema_0.9999" -> name -> tensor
    optimizer: dict[str, Any] | None
    state: dict[str, Any]  # as Trainer.state() gives it, but with random states fresh from the seed
    notes: list[str]  # sentences for the log: what was found, and what was not
    config: Config | None = None  # with which the file says that it was trained
    seen: dict[str, Any] | None = None  # the digest of what it was trained on, where the file says so
    train_ids: np.ndarray | None = (
        None  # hashes of the images it was trained on, uint64 [M], where its state file is there
    )

    @property
    def step(self) -> int:
        """Updates that were done."""
        return self.state["step"]


def start_from(path: Path, config: Config) -> Start:
    """Reads what training starts from: a model file, with the averages and the optimiser of its step.

    A file of averages is used as it is, without an optimiser.  Raises UserError for what cannot be read, or has
    no steps left to do.
    """
    weights, siblings = checkpoint_files.load_weights(path), openai_folder.files_of_same_step(path)
    notes: list[str] = []
    if rate := openai_folder.ema_rate_of(path):
        notes.append(
            f"{path.name} is an average of weights (rate {rate}): training starts from it, with a new optimiser."
        )
        return _start({"model": weights.tensors}, None, weights, siblings, config, notes)
    found, optimizer = {"model": weights.tensors}, None
    there = {ema_rates.normalized(rate): file for rate, file in siblings.averages.items()} if siblings else {}
    for rate in config.train.ema_rates:
        if rate in there:
            found[f"ema_{rate}"] = checkpoint_files.load_weights(there[rate]).tensors
        else:
            notes.append(f"There is no average of rate {rate} with {path.name}: it starts from the weights.")
    if siblings and siblings.optimizer:
        optimizer = checkpoint_files.optimizer_of(siblings.optimizer, weights.tensors)
    else:
        notes.append(f"There is no optimiser file with {path.name}: AdamW starts anew.")
    return _start(found, optimizer, weights, siblings, config, notes)


def _start(
    found: dict[str, dict[str, Tensor]],
    optimizer: dict[str, Any] | None,
    weights: Weights,
    siblings: Files | None,
    config: Config,
    notes: list[str],
) -> Start:
    step = updates(optimizer, weights.step or (siblings.step if siblings else 0))
    name, total = Path(config.train.resume_checkpoint).name, config.train.total_steps
    if step >= total and not config.train.train_for:
        raised = "lr_anneal_steps, and total_steps to the same" if config.train.lr_anneal_steps else "total_steps"
        raise UserError(
            f"{name} has {plural(step, 'update')} behind it, and training would end at step {total}: raise {raised}.",
            code="nothing-left",
        )
    if not config.train.train_for and (sentence := learning_rate.cooled_before(config.train, total, step)):
        raise UserError(sentence, code="conflicting-settings")
    what = restored(found, optimizer)
    known = _known(Path(config.train.resume_checkpoint), weights.config)
    if known and config.model.class_cond and config.model.cond_drop_prob and not known.model.cond_drop_prob:
        notes.append(
            f"Its last label, {config.model.num_classes}, stands for no class from now on, whatever it was trained as."
        )
    notes = [*notes, f"Beginning at step {step}: {what}"]
    train_ids = (
        checkpoint_files.train_ids_at_step(Path(config.train.resume_checkpoint), weights.step) if weights.data else None
    )
    state = fresh_state(step, config)
    if optimizer is None:
        state["warmed_from"] = step  # AdamW begins anew, and the warm-up of its learning rate with it
    return Start(found, optimizer, state, notes, weights.config, weights.data, train_ids)


def begin(trainer: Trainer, start: Start) -> None:
    """Gives a trainer the weights, the averages, the optimiser and the number of steps of a file."""
    fitting.fit(trainer.model, start.weights["model"], Path(trainer.config.train.resume_checkpoint).name)
    trainer.load(start.weights, start.optimizer, start.state)
    for sentence in start.notes:
        log.info("%s", sentence)


def restored(found: Mapping[str, Any], optimizer: Mapping[str, Any] | None) -> str:
    """Lists what was found, for the log."""
    averages = [kind.removeprefix("ema_") for kind in found if kind != "model"]
    parts = [
        "weights",
        f"averages {' and '.join(averages)}" if averages else "no averages",
        "optimiser" if optimizer else "no optimiser",
    ]
    return ", ".join(parts) + "; random state fresh from the seed"


def fresh_state(step: int, config: Config) -> dict[str, Any]:
    """Trainer.state() after `step` updates of another program: the place in the data follows, nothing random does."""
    rng = torch.Generator().manual_seed(config.train.seed)
    return {
        "fresh": True,  # nothing random goes on, with however many processes
        "step": step,
        "position": step * config.train.batch_size * distributed.world_size(),
        "ema_updates": step,
        "rng": rng.get_state(),
        "torch_rng": rng.get_state(),
    }


def updates(optimizer: Mapping[str, Any] | None, named: int) -> int:
    """How many updates were made: as AdamW counted them, or as the file is `named` where it began anew on the way."""
    entries = (optimizer or {}).get("state", {}).values()
    return max([named, *(int(entry["step"]) for entry in entries)])


def check_start(config: Config) -> Config:
    """`config` with train.resume_checkpoint looked at: weights that fit and go on as they began, with steps left to do.

    A class-conditional network keeps the number of labels that its file has; with cond_drop_prob, the last one stands
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
            config = codec.replace(config, {"num_classes": classes})
    if config.train.train_for:
        least = learning_rate.least_total(config.train, start.step)
        config = codec.replace(config, {"total_steps": max(config.train.total_steps, least)})
    with torch.device("meta"):
        network = unet.build(config.model)
    fitting.compare(network, tensors, path.name)
    if known := _known(path, start.config):
        _same_process(path, known, config)
    else:
        flags = {
            name: getattr(config.model if hasattr(config.model, name) else config.diffusion, name) for name in ASKED
        }
        for sentence in identify(tensors, {**flags, **vars(config.data)}, path).notes:
            log.warning("%s", sentence)
    return config


def _known(path: Path, config: Config | None) -> Config | None:
    """The settings that a file was trained with: its own, or a released model's; None where nobody says."""
    preset = presets.preset_of_file(path)
    return config or (presets.PRESETS[preset].config if preset else None)


def _same_process(path: Path, known: Config, config: Config) -> None:
    """Raises UserError where `config` asks a network otherwise than it was trained, which no shape tells."""
    was, wanted = _process(known), _process(config)
    if known.model.class_cond and known.model.cond_drop_prob and not config.model.cond_drop_prob:
        was["cond_drop_prob"], wanted["cond_drop_prob"] = known.model.cond_drop_prob, 0.0  # or no class became one
    if differ := [name for name in was if was[name] != wanted[name]]:
        wrong = ", ".join(f"{name} {wanted[name]}" for name in differ)
        right = " ".join(f"--{name} {was[name]}" for name in differ)
        raise UserError(f"{path.name} was not trained with {wrong}: use {right}.", code="wrong-flags")


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
