"""Identifies the settings of weights without any: from shapes, flags, names of released models, and a probe."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm.checkpoints import checkpoint_files, fitting, infer_config, probe
from ddpm.config import codec, presets, validation
from ddpm.config.fields import settings
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.models import unet
from ddpm.runs import openai_folder

log = logging.getLogger("ddpm")

MODEL = {s.name for s in settings(ModelConfig)}
TRAINING_ONLY = ("dropout", "use_checkpoint")  # of the model: no trace of them in the weights, and no need of them


class Identified(NamedTuple):
    """Settings of a network, and how they were identified."""

    config: Config
    labels: tuple[int, ...]  # that were trained, as far as is known
    notes: list[str]  # sentences


def identify(
    tensors: Mapping[str, Tensor], flags: Mapping[str, Any], source: Path, run_probe: bool = True
) -> Identified:
    """Identifies the settings of the network in `source`.

    Shapes determine most of the model's settings; `flags` (by setting name) and, for a released model's file, its
    preset give the rest.  run_probe: a probe, on the data that `flags` name or on photographs, infers what shapes do
    not determine, where it was not given, and notes where what was given does not fit.  tensors: name -> [...].
    Raises UserError for flags that contradict the shapes or the preset.
    """
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    hidden = flags.get("cond_drop_prob", 0) > 0
    found = infer_config.model_settings(
        shapes,
        source.name,
        flags.get("image_size", 0),
        flags.get("small_size", 0),
        hidden,
        flags.get("patch_size", 1),
    )
    notes: list[str] = []
    if "image_size" not in flags:
        notes.append(
            f"image_size {found['image_size']} follows from the levels of the network: --image_size says another."
        )
    preset = presets.preset_of_file(source)
    known: dict[str, Any] = {}
    if preset:
        known = {**presets.PRESETS[preset].settings}
        _agree(source, preset, known, flags, run_probe)
        notes.append(f"{source.name} is a released model: its settings are those of the preset {preset}.")
    config = codec.replace(Config(), {**known, "data_dir": "", **found, **_without_open_ends(flags)})
    for problem in validation.network_problems(config):
        raise UserError(problem.sentence, code=problem.code)
    _agree_with_shapes(source, shapes, config)
    with torch.device("meta"):
        network = unet.build(config.model)
    fitting.compare(network, tensors, source.name)
    if config.model.class_cond and hidden:
        if not config.model.num_classes:
            raise UserError(
                f"cond_drop_prob is {flags['cond_drop_prob']:g}, and {source.name} has a single label, which is either"
                " a class or none: leave it out.",
                code="conflicting-settings",
            )
        notes.append(f"Its last label, {config.model.num_classes}, stands for no class, as cond_drop_prob says.")
    labels = tuple(label for label in trained_labels(source, tensors) if label < config.model.num_classes)
    if preset and config.model.class_cond:
        labels = labels or tuple(range(config.model.num_classes))
    if run_probe and not preset:
        config, sentences = _probed(tensors, config, flags, labels)
        notes += sentences
    if config.model.class_cond and labels:
        names = tuple(str(label) for label in range(max(labels) + 1))
        config = codec.replace(config, {"class_names": config.class_names or names})
        notes.append(f"Of {config.model.num_classes:,} labels, {_ranges(labels)} were trained: those can be sampled.")
    return Identified(config, labels, notes)


def settings_of(
    tensors: Mapping[str, Tensor], flags: Mapping[str, Any], source: Path, run_probe: bool = True
) -> Config:
    """Identifies the settings as `identify` does from tensors (name -> [...]), and logs how."""
    found = identify(tensors, flags, source, run_probe)
    for sentence in found.notes:
        log.warning("%s", sentence)
    return found.config


def _without_open_ends(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out the zeros that mean "identify it"."""
    return {name: value for name, value in flags.items() if value or name not in ("num_classes", "small_size")}


def _agree(source: Path, preset: str, known: Mapping[str, Any], flags: Mapping[str, Any], run_probe: bool) -> None:
    settled = codec.replace(Config(), known)
    other = [
        f"--{name} {value}"
        for name, value in flags.items()
        if name not in TRAINING_ONLY
        and name != "num_classes"
        and value != getattr(settled.model if name in MODEL else settled.diffusion, name, value)
    ]
    if other and run_probe:
        raise UserError(
            f"{source.name} is a released model and was trained with other settings than {', '.join(other)}: leave"
            f" these flags out, as the preset {preset} has them, or insist with --probe False.",
            code="wrong-flags",
        )


def _agree_with_shapes(source: Path, shapes: infer_config.Shapes, config: Config) -> None:
    if flags := infer_config.fitting_flags(shapes, config.model):
        given = {name.removeprefix("--") for name in flags[::2]}
        was = ", ".join(f"{name} {getattr(config.model, name)}" for name in sorted(given))
        raise UserError(
            f"{source.name} was not trained with {was}: leave it out, or use {' '.join(flags)}.", code="wrong-flags"
        )


def _probed(
    tensors: Mapping[str, Tensor], config: Config, flags: Mapping[str, Any], labels: tuple[int, ...]
) -> tuple[Config, list[str]]:
    """Replaces settings that were not given by what the probe finds; what was given is kept."""
    verdict = probe.verdict(tensors, config, probe.images_for(config), labels)
    given = {name: flags[name] for name in probe.NAMES if name in flags}
    heads = ("num_heads", "num_head_channels")  # one says both
    if any(name in given for name in heads):
        given |= {name: flags.get(name, _setting(config, name)) for name in heads}
    config = codec.replace(config, {name: value for name, value in verdict.found.items() if name not in given})
    chosen = {name: _setting(config, name) for name in probe.NAMES}
    return config, list(probe.sentences(verdict, chosen, given))


def _setting(config: Config, name: str) -> Any:
    return getattr(config.model if name in MODEL else config.diffusion, name)


def trained_labels(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Finds the labels that the network in `path` was trained on; empty where that cannot be found out.

    AdamW's second moments of an unused embedding stay zero.  Without the optimiser's file (or with a damaged one),
    trained embeddings are those that differ between the weights and an average of them, which shows only without weight
    decay.  tensors: name -> [...]; the embedding is label_emb.weight, [labels, channels].
    """
    embedding = tensors.get("label_emb.weight")
    files = openai_folder.files_of_same_step(path)
    if embedding is None or files is None:
        return ()
    seen = None
    try:
        optimizer = checkpoint_files.optimizer_of(files.optimizer, tensors) if files.optimizer else {"state": {}}
    except UserError as error:  # sampling needs no optimiser
        log.warning("%s", error)
        optimizer = {"state": {}}
    state = optimizer["state"].get(list(tensors).index("label_emb.weight"), {})
    if "exp_avg_sq" in state:
        seen = state["exp_avg_sq"].abs().amax(dim=1) > 0
    if seen is None:
        for other in (file for file in (files.model, *files.averages.values()) if file and file != path):
            try:
                twin = checkpoint_files.load_weights(other).tensors.get("label_emb.weight")
            except UserError as error:
                log.warning("%s", error)
                continue
            if twin is not None and twin.shape == embedding.shape:
                # an average of what never changed differs by rounding alone
                differs = ((twin - embedding).abs() > 1e-5 * embedding.abs()).float().mean(dim=1) > 0.5
                seen = differs if seen is None else seen | differs
    return () if seen is None else tuple(seen.nonzero().flatten().tolist())


def _ranges(numbers: tuple[int, ...]) -> str:
    """Writes (0, 1, 2, 5) as 0-2, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
