"""Drawing pictures: from weights and settings to samples."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm import schedules
from ddpm.checkpoints import checkpoint_files, identify, probe
from ddpm.checkpoints.checkpoint_files import Weights
from ddpm.compute import distributed
from ddpm.config import codec, fields
from ddpm.config.model import DiffusionConfig, ModelConfig
from ddpm.config.tasks import FromCheckpoint, SampleConfig
from ddpm.config.training import Config
from ddpm.diffusion import process as diffusion
from ddpm.diffusion.process import Condition
from ddpm.errors import UserError
from ddpm.models import backend
from ddpm.models.unet import UNet, build
from ddpm.planning import classes, guidance, inputs, low_res, memory, timesteps, variances
from ddpm.planning.inputs import Given
from ddpm.planning.low_res import LowRes
from ddpm.planning.variances import Errors
from ddpm.runs.runs import Checkpoint, Run
from ddpm.sampling import analytic_variance, editing, samplers
from ddpm.sampling.samplers import ImageNoise, SampleStep
from ddpm.solvers import SOLVERS
from ddpm.storage import files, images

ROUNDING = 1e-6  # what is kept of a given picture must not fall below its level, as pixels are rounded down


class Drawn(NamedTuple):
    """Progress of drawing many pictures: one denoising step of one batch."""

    start: int  # number of the batch's first picture
    done: int  # denoising steps done, over all batches
    total: int
    step: SampleStep  # of this batch
    noise: Tensor | None = None  # task invert, of a finished batch: what was found, [N, C, H, W]

    @property
    def finished(self) -> bool:
        """Whether the batch's pictures are ready."""
        return self.step.done == self.step.total


def process(config: Config, sample: FromCheckpoint) -> tuple[schedules.Schedule, schedules.Schedule]:
    """The full process of a model, and the one that `sample` walks.  Raises UserError for an impossible respacing."""
    full = schedules.named(config.diffusion.noise_schedule, config.diffusion.diffusion_steps)
    return full, timesteps.shortened(full, config, sample)


def labels_for(config: Config, sample: SampleConfig, small: LowRes | None = None) -> np.ndarray | None:
    """The class of each picture, int64 [num_samples].  None without classes.

    Those asked for in turn; those that the given pictures came with, when none is asked for; or else all in turn.
    An interpolation stays with the first class.
    """
    if small is not None and small.labels is not None and not sample.classes:
        labels = small.labels
    else:
        labels = np.array(classes.parse_classes(config, sample.classes))
        labels = labels[:1] if sample.task == "interpolate" else labels
    return np.resize(labels, sample.num_samples).astype(np.int64) if config.model.class_cond else None


def check(config: Config, sample: SampleConfig) -> None:
    """Raises UserError for what this model cannot draw so, before anything is read or begun."""
    timesteps.calls(config, sample)
    guidance.of(config, sample)
    variances.chosen(config, sample)


def steps_of(
    network: diffusion.Network,
    config: Config,
    sample: SampleConfig,
    numbers: range,
    condition: Condition | None = None,
    device: torch.device | str = "cpu",
    given: Given | None = None,
    errors: Errors | None = None,
) -> Iterator[SampleStep]:
    """Draw one batch, the pictures of these numbers, a network call at a time."""
    full, schedule = process(config, sample)
    guided = guidance.of(config, sample)
    denoise = diffusion.denoiser(
        network, full, config.diffusion, condition, sample.clip_denoised, sample.dynamic_threshold, guided
    )
    if sample.analytic_first_step:
        denoise = samplers.first_step_spared(denoise, schedule)
    noise = noise_of(sample, numbers)
    sampler = sampler_of(config, sample, errors)
    if given is None:
        model = config.model
        x = noise.start((model.image_channels, model.image_size, model.image_size)).to(device)
        steps = sampler(denoise, x, schedule, to_zero=sample.denoise_to_zero, randn_like=noise)
        return _counted(steps) if sample.analytic_first_step else steps
    pixels = images.to_float(given.pictures.turn(numbers.start, numbers.stop))
    pictures = torch.from_numpy(pixels).to(device) + ROUNDING
    match sample.task:
        case "vary":
            return editing.vary(sampler, denoise, pictures, schedule, to_zero=sample.denoise_to_zero, randn_like=noise)
        case "inpaint":
            mask = torch.from_numpy(given.mask).to(pictures)[None, None]
            moves = list(timesteps.repaint_moves(len(schedule), sample.jump, sample.resample))
            return editing.inpaint(sampler, denoise, pictures, mask, schedule, moves, randn_like=noise)
        case _:
            return editing.invert(denoise, pictures, schedule)


def sampler_of(
    config: Config, sample: SampleConfig, errors: Errors | None = None
) -> Callable[..., Iterator[SampleStep]]:
    """The sampler that the settings mean, with what it alone takes."""
    name = timesteps.solver(sample)
    variances.chosen(config, sample)  # also where it is of no use, so that this is said
    takes = {name: getattr(sample, name) for name in SOLVERS[name].takes if name not in ("variance", "sigma_small")}
    if "variance" in SOLVERS[name].takes:
        takes["variance"] = variance_of(config, sample, errors)
    return partial(samplers.named(name), **takes)


def variance_of(config: Config, wanted: FromCheckpoint, errors: Errors | None = None) -> diffusion.Variance:
    """The variance that the settings mean.  errors: those of these weights, which the analytic one needs."""
    name = variances.chosen(config, wanted)
    if name != "analytic":
        return diffusion.VARIANCES[name]
    assert errors is not None, "analytic.for_weights has them"
    return analytic_variance.variance(np.array(errors.mse))


def noise_of(sample: SampleConfig, numbers: range) -> ImageNoise:
    """Everything random of the pictures of these numbers: of picture k from seed + k, or on the way between two seeds."""
    if sample.task == "interpolate":
        weights = editing.interpolation_weights(sample.num_samples)
        return editing.Between(sample.seed, sample.to_seed, [weights[k] for k in numbers])
    return ImageNoise([sample.seed + k for k in numbers])


def _counted(steps: Iterator[SampleStep]) -> Iterator[SampleStep]:
    """The steps of a sampler whose first one took no call, without that one."""
    next(steps)
    for step in steps:
        yield step._replace(done=step.done - 1, total=step.total - 1)


def draw(
    network: diffusion.Network,
    config: Config,
    sample: SampleConfig,
    device: torch.device | str = "cpu",
    small: LowRes | None = None,
    given: Given | None = None,
    first: int = 0,
    errors: Errors | None = None,
) -> Iterator[Drawn]:
    """Draw `num_samples` pictures, batch by batch.  Picture k depends on seed + k alone, not on the batches.

    It begins with the batch that holds picture `first`.  A batch_size of 0 is as many as `memory.drawn_at_once` says.
    Several processes take the batches in turn, as many at a time as there are processes.  All yield equally often,
    and all finished batches; of those in the making, their own.  A super-resolution model enlarges the pictures
    `small` in turn, and a task that begins with pictures takes those `given`; without, they are what `sample` names.
    errors: those that `variance` analytic needs.
    """
    if small is None:
        small = distributed.run_on_all_ranks(lambda: low_res.read(config, sample))
    if given is None:
        given = distributed.run_on_all_ranks(lambda: inputs.read(config, sample))
    labels = labels_for(config, sample, given.pictures if given else small)
    network = backend.resolve_backend(sample.kernels, sample.precision, torch.device(device)).prepared(network)
    calls = timesteps.calls(config, sample)
    size = sample.batch_size or distributed.broadcast_object(memory.drawn_at_once(config, sample))
    starts = range(first - first % size, sample.num_samples, size)
    total = len(starts) * calls
    for before in range(0, len(starts), distributed.world_size()):
        now = starts[before : before + distributed.world_size()]
        start = now[min(distributed.rank(), len(now) - 1)]  # with nothing left of its own, it draws the last one too
        noise: Tensor | None = None
        numbers = range(start, min(start + size, sample.num_samples))
        condition = {} if labels is None else {"y": torch.from_numpy(labels[numbers.start : numbers.stop]).to(device)}
        if small is not None:
            low = images.to_float(small.turn(numbers.start, numbers.stop))
            condition["low_res"] = torch.from_numpy(low).to(device)
        for step in steps_of(network, config, sample, numbers, condition, device, given, errors):
            if sample.task == "invert" and 2 * step.done == calls:
                noise = step.x.cpu()
            if step.done < calls:
                yield Drawn(start, before * calls + step.done * len(now), total, step)
        whole = distributed.all_gather_object((step.x.cpu(), step.x_start.cpu(), noise))
        for place, (start, (x, x_start, found)) in enumerate(zip(now, whole, strict=False), start=1):
            yield Drawn(start, (before + place) * calls, total, SampleStep(calls, calls, x, x_start, step.t), found)


def pictures(
    network: diffusion.Network,
    config: Config,
    sample: SampleConfig,
    device: torch.device | str = "cpu",
    small: LowRes | None = None,
) -> np.ndarray:
    """All of them at once: uint8 [N, H, W, C]."""
    return np.concatenate([pixels_of(d.step.x) for d in draw(network, config, sample, device, small) if d.finished])


def network_of(
    weights: Weights, config: Config, source: str, device: torch.device | str = "cpu", kernels: str = "auto"
) -> UNet:
    """The U-Net with these weights, ready to draw, and computed in fp32 until told otherwise.

    Raises UserError when they do not fit.
    """
    network = build(config.model)
    checkpoint_files.fit(network, weights.tensors, source)
    network.to(device).eval()
    backend.resolve_backend(kernels, "fp32", torch.device(device)).prepared(network)
    return network


def pixels_of(x: Tensor) -> np.ndarray:
    """float [N, C, H, W] in [-1, 1], wherever it is, as uint8 [N, H, W, C]."""
    return images.to_uint8(x.cpu().numpy())


class Chosen(NamedTuple):
    """Weights to work with."""

    weights: Weights
    config: Config  # with which they were trained
    path: Path  # their file, from the root of the disk
    about: dict[str, Any]  # where they came from, for the record


def chosen(
    source: Run | Path,
    wanted: FromCheckpoint,
    flags: Mapping[str, Any],
    base: Config | None = None,
    ask: bool = True,
    held: Config | None = None,
) -> Chosen:
    """The weights that are wanted of a run, checked against their checksum, or those in a file.

    held: their settings, where a recipe tells them.  Raises UserError.
    """
    if isinstance(source, Path):
        return _read(source, files.sha256(source) if source.is_file() else "", flags, base, ask, held)

    def read(checkpoint: Checkpoint) -> Chosen:
        kind = wanted.weights or checkpoint.weights[0]
        if kind not in checkpoint.weights:
            raise UserError(
                f"{source.name} has no weights {kind!r}: choose among {', '.join(checkpoint.weights)}.",
                code="missing-weights",
            )
        path = checkpoint.path(kind)
        if wrong := checkpoint_files.damage(checkpoint, path.name):
            raise UserError(f"{wrong} Use another checkpoint, with --step.", code="damaged-checkpoint")
        return _read(path, checkpoint.files[path.name]["sha256"], flags, base, ask, held)

    return checkpoint_files.taken(source, wanted.step, read)


def _read(
    path: Path, sha256: str, flags: Mapping[str, Any], base: Config | None, ask: bool, held: Config | None
) -> Chosen:
    """What is in a file that had that checksum just now."""
    path = Path(fields.absolute(str(path)))
    weights = checkpoint_files.load_weights(path)
    config = held or settings_for(weights, flags, path, base, ask)
    about = {"path": str(path), "step": weights.step, "weights": weights.kind, "sha256": sha256}
    try:
        now = files.sha256(path)
    except FileNotFoundError:  # removed as soon as it was read
        now = sha256
    if now != sha256:
        raise UserError(
            f"{path} was replaced while it was being read: start again, now with the new one.", code="changed-file"
        )
    return Chosen(weights, config, path, about)


def settings_for(
    weights: Weights, flags: Mapping[str, Any], source: Path, base: Config | None = None, ask: bool = True
) -> Config:
    """The settings of a file of weights: its own, or where it holds none, what can be found out, and `flags`.

    `base`: its sizes are those of a super-resolution model where `flags` name none.  `ask`: see `recognise`.
    """
    if weights.config is None:
        sizes = (
            {n: getattr(base.model, n) for n in ("image_size", "small_size")} if base and base.model.super_res else {}
        )
        return identify.settings_of(weights.tensors, {**sizes, **flags}, source, ask)
    same = codec.replace(weights.config, flags)
    if same != weights.config:
        names = {s.name for cls in (ModelConfig, DiffusionConfig) for s in fields.settings(cls)}
        was = {n: getattr(weights.config.model, n, getattr(weights.config.diffusion, n, None)) for n in names}
        other = [f"--{n} {flags[n]} (trained with {was[n]})" for n in flags if flags[n] != was[n]]
        raise UserError(
            f"{source.name} was trained with other settings than {', '.join(other)}: leave these flags out, it knows"
            " its own.",
            code="settings-are-fixed",
        )
    return weights.config


def flags_of(config: Config, weights: Weights, section: type[FromCheckpoint]) -> list[str]:
    """The flags by which a file without settings is taken for `config` again; none where the file has its own.

    What shapes do not tell is always said, and no probe is asked: a default might be filled in otherwise another time.
    Settings that `section` has too are left to its own flags.
    """
    if weights.config is not None:
        return []
    flags = ["--probe", "False"]
    for part in (config.model, config.diffusion):
        own = {s.name: getattr(part, s.name) for s in fields.settings(type(part))}
        taken = {s.name: own[s.name] for s in fields.settings(section) if s.name in own}
        base = dataclasses.replace(type(part)(), **taken)
        flags += codec.to_flags(part, base, always=("image_size", *probe.NAMES))
    return flags


def origin(weights: Weights, source: Path) -> dict[str, Any]:
    """Where weights came from, for the record."""
    return {"path": str(source), "step": weights.step, "weights": weights.kind, "sha256": files.sha256(source)}
