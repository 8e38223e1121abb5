"""Drawing pictures: from weights and settings to samples, and into a folder."""

import dataclasses
import io
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm import checkpoint as checkpoints
from ddpm import config as configs
from ddpm import diffusion, files, images, recognise, samplers, schedules
from ddpm.checkpoint import Weights
from ddpm.config import Config, DiffusionConfig, ModelConfig, SampleConfig
from ddpm.diffusion import Condition
from ddpm.errors import UserError
from ddpm.jobs import Worker
from ddpm.runs import Run, SampleJob
from ddpm.samplers import ImageNoise, SampleStep
from ddpm.unet import UNet, build

PREVIEW_INTERVAL = 0.7  # seconds between two looks at pictures in the making
PREVIEW_IMAGES = 64
GRID_IMAGES = 256


class Drawn(NamedTuple):
    """Progress of drawing many pictures: one denoising step of one batch."""

    start: int  # number of the batch's first picture
    done: int  # denoising steps done, over all batches
    total: int
    step: SampleStep  # of this batch

    @property
    def finished(self) -> bool:
        """Whether the batch's pictures are ready."""
        return self.step.done == self.step.total


def process(config: Config, sample: SampleConfig) -> tuple[schedules.Schedule, schedules.Schedule]:
    """The full process of a model, and the one that `sample` walks.  Raises UserError for an impossible respacing."""
    full = schedules.named(config.diffusion.noise_schedule, config.diffusion.diffusion_steps)
    return full, schedules.respaced(full, configs.sampling_timesteps(config, sample))


def labels_for(config: Config, sample: SampleConfig) -> np.ndarray | None:
    """The class of each picture, int64 [num_samples]: those asked for in turn.  None without classes."""
    if not config.model.class_cond:
        if sample.classes:
            raise UserError(f"classes {sample.classes!r} was asked of a model without classes: leave it empty.")
        return None
    known = config.class_names or tuple(str(i) for i in range(config.model.num_classes))
    chosen = []
    for word in (part.strip() for part in sample.classes.split(",") if part.strip()):
        if word in known:
            chosen.append(known.index(word))
        elif word.isdecimal() and int(word) < config.model.num_classes:
            chosen.append(int(word))
        else:
            some = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            raise UserError(f"There is no class {word!r}: choose among {some}, or a number below {config.model.num_classes}.")  # fmt: skip
    return np.resize(chosen or np.arange(len(known)), sample.num_samples).astype(np.int64)


def steps_of(
    network: diffusion.Network,
    config: Config,
    sample: SampleConfig,
    seeds: Sequence[int],
    condition: Condition | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[SampleStep]:
    """Draw one batch, a picture per seed, a denoising step at a time."""
    full, schedule = process(config, sample)
    denoise = diffusion.denoiser(network, full, config.diffusion, condition, clip=sample.clip_denoised)
    noise = ImageNoise(seeds)
    model = config.model
    x = noise.start((model.image_channels, model.image_size, model.image_size)).to(device)
    if sample.use_ddim:
        return samplers.ddim(denoise, x, schedule, eta=sample.eta, randn_like=noise)
    settings = config.diffusion
    if sample.sigma_small is not None:
        settings = dataclasses.replace(settings, sigma_small=sample.sigma_small)
    variance = diffusion.VARIANCES[diffusion.variance_name(settings, model.learn_sigma)]
    return samplers.ddpm(denoise, x, schedule, variance, randn_like=noise)


def draw(
    network: diffusion.Network, config: Config, sample: SampleConfig, device: torch.device | str = "cpu"
) -> Iterator[Drawn]:
    """Draw `num_samples` pictures, batch by batch.  Picture k depends on seed + k alone, not on the batches."""
    labels = labels_for(config, sample)
    steps = len(process(config, sample)[1])
    starts = range(0, sample.num_samples, sample.batch_size)
    for batch, start in enumerate(starts):
        stop = min(start + sample.batch_size, sample.num_samples)
        condition = {} if labels is None else {"y": torch.from_numpy(labels[start:stop]).to(device)}
        seeds = [sample.seed + k for k in range(start, stop)]
        for step in steps_of(network, config, sample, seeds, condition, device):
            yield Drawn(start, batch * steps + step.done, len(starts) * steps, step)


def pictures(network: diffusion.Network, config: Config, sample: SampleConfig, device: torch.device | str = "cpu") -> np.ndarray:  # fmt: skip
    """All of them at once: uint8 [N, H, W, C]."""
    return np.concatenate([_pixels(d.step.x) for d in draw(network, config, sample, device) if d.finished])


def network_of(weights: Weights, config: Config, source: str, device: torch.device | str = "cpu") -> UNet:
    """The U-Net with these weights, ready to draw.  Raises UserError when they do not fit."""
    network = build(config.model)
    checkpoints.fit(network, weights.tensors, source)
    return network.to(device).eval()


def _pixels(x: Tensor) -> np.ndarray:
    return images.to_uint8(x.cpu().numpy())


def draw_source(
    folder: Path, worker: Worker, source: Run | Path, sample: SampleConfig, flags: Mapping[str, Any], ask: bool = True
) -> None:
    """Draw from a run, or from a checkpoint file, into a job's folder.

    `flags` are model and diffusion settings for a file that does not hold its own; where `ask`, a probe checks them.
    Raises UserError when they contradict it.
    """
    if sample.threads:
        torch.set_num_threads(sample.threads)
    if isinstance(source, Run):
        checkpoint = source.checkpoint(sample.step)
        kind = sample.weights or checkpoint.weights[0]
        if kind not in checkpoint.weights:
            raise UserError(f"{source.name} has no weights {kind!r}: choose among {', '.join(checkpoint.weights)}.")
        if wrong := checkpoints.damage(checkpoint):
            raise UserError(f"{wrong} Draw from another checkpoint, with --step.")
        source = checkpoint.path(kind)
    weights = checkpoints.load_weights(source)
    config = settings_for(weights, flags, source, ask)
    draw_into(folder, worker, weights, config, sample, source, "cuda" if torch.cuda.is_available() else "cpu")


def settings_for(weights: Weights, flags: Mapping[str, Any], source: Path, ask: bool = True) -> Config:
    """The settings of a file of weights: its own, or where it holds none, what can be found out, and `flags`.

    `ask`: see `recognise`.
    """
    if weights.config is None:
        return recognise.settings_of(weights.tensors, flags, source, ask)
    same = configs.replace(weights.config, flags)
    if same != weights.config:
        names = {s.name for cls in (ModelConfig, DiffusionConfig) for s in configs.settings(cls)}
        was = {n: getattr(weights.config.model, n, getattr(weights.config.diffusion, n, None)) for n in names}
        other = [f"--{n} {flags[n]} (trained with {was[n]})" for n in flags if flags[n] != was[n]]
        raise UserError(f"{source.name} was trained with other settings than {', '.join(other)}: leave these flags out, it knows its own.")  # fmt: skip
    return weights.config


def draw_into(folder: Path, worker: Worker, weights: Weights, config: Config, sample: SampleConfig, source: Path, device: str) -> None:  # fmt: skip
    """Draw into a job's folder: preview.png as it goes, then images/, grid.png and samples_NxHxWxC.npz.

    Asked to stop, it keeps the batches that are finished.
    """
    job = SampleJob(folder)
    if job.npz or job.grid.exists():
        raise UserError(f"{folder} already holds samples: choose another --out.")
    labels = labels_for(config, sample)
    network = network_of(weights, config, source.name, device)
    files.write_json(folder / "settings.json", settings_of(config, sample, weights, source))
    worker.beat(state="running", message=f"Drawing {sample.num_samples} pictures")
    finished: list[np.ndarray] = []
    began = looked = time.monotonic()
    for drawn in draw(network, config, sample, device):
        elapsed = time.monotonic() - began
        worker.beat(
            step=drawn.done,
            total_steps=drawn.total,
            steps_per_second=drawn.done / elapsed,
            seconds_left=elapsed / drawn.done * (drawn.total - drawn.done),
        )
        if drawn.finished:
            batch = _pixels(drawn.step.x)
            for k, picture in enumerate(batch, start=drawn.start):
                images.save_png(folder / "images" / f"{k:05d}.png", picture)
            finished.append(batch)
        if drawn.done in (1, drawn.total) or time.monotonic() - looked > PREVIEW_INTERVAL:
            looked = time.monotonic()
            waiting = [] if drawn.finished else [_pixels(drawn.step.x_start)]
            shown = np.concatenate([*finished, *waiting])
            images.save_png(job.preview, images.grid(shown[-PREVIEW_IMAGES:] if len(shown) > PREVIEW_IMAGES else shown))
        if "stop" in worker.heard() and drawn.done < drawn.total:
            break
    if finished:
        _keep(job, np.concatenate(finished), labels)
    whole = sum(len(batch) for batch in finished)
    complete = whole == sample.num_samples
    worker.beat(
        state="finished" if complete else "stopped",
        seconds_left=0.0,
        message="" if complete else f"Stopped with {whole} of {sample.num_samples} pictures drawn",
    )


def _keep(job: SampleJob, pixels: np.ndarray, labels: np.ndarray | None) -> None:
    """Write the grid and improved-diffusion's npz: arr_0 uint8 [N, H, W, C], arr_1 the labels."""
    images.save_png(job.grid, images.grid(pixels[:GRID_IMAGES]))
    arrays = [pixels] if labels is None else [pixels, labels[: len(pixels)]]
    name = "samples_" + "x".join(map(str, pixels.shape)) + ".npz"
    packed = io.BytesIO()  # numpy writes only into what can be read as well
    np.savez(packed, *arrays)
    files.write_bytes(job.folder / name, packed.getvalue())


def settings_of(config: Config, sample: SampleConfig, weights: Weights, source: Path) -> dict[str, Any]:
    """Everything that makes the same pictures again."""
    told = [] if weights.config else [*configs.to_flags(config.model), *configs.to_flags(config.diffusion)]
    return {
        "sample": dataclasses.asdict(sample),
        "checkpoint": {
            "path": str(source),
            "step": weights.step,
            "weights": weights.kind,
            "sha256": files.sha256(source),
        },
        "class_names": list(config.class_names),
        "command": shlex.join(["ddpm", "sample", "--model_path", str(source), *configs.to_flags(sample), *told]),
    }
