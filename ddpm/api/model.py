"""Trained models: loaded from a run or a file, sampled from, evaluated at single points."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm.api.runs import RUNS, expand_path, open_run
from ddpm.api.settings import check_not_loading, parse_section, progress_bar
from ddpm.config.tasks import FromCheckpoint, SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import classes as class_labels
from ddpm.planning import timesteps
from ddpm.runs import example
from ddpm.runs.runs import Run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddpm.checkpoints.loading import OpenedModel
    from ddpm.models.unet import UNet
    from ddpm.sampling.engine import SamplingProgress
    from ddpm.sampling.samplers import SampleStep

Classes = str | int | Sequence[str | int] | np.ndarray


def load(
    source: str | os.PathLike[str] | Run,
    *,
    weights: str = "",
    step: int = 0,
    runs_dir: str | os.PathLike[str] = RUNS,
    device: "str | torch.device | None" = None,
    probe: bool = True,
    **settings: Any,
) -> "Model":
    """Loads a model to sample from.

    Arguments:
        source: a `Run`, the name of a run in `runs_dir`, the folder of one, or a .pt file of this program or of
            improved-diffusion; "example" is the small model that comes with the program.
        weights: "model" for the raw weights, "ema_0.9999" for an average; by default the first average of a run.
        step: training step of the run's checkpoint; 0 is the newest.
        device: where to compute; by default a GPU if there is one.
        probe: infer and check by denoising a few images what a file without settings does not say.
        settings: model and diffusion settings of such a file, by the names that `ddpm sample --help` lists.

    Raises UserError for a file that is missing, damaged or not a checkpoint, and for settings that contradict it.

        model = ddpm.load("runs/quick-start")
        images = model.sample(16, steps=10)
    """
    from ddpm.checkpoints import loading
    from ddpm.compute import distributed

    found = _source(source, runs_dir)
    if isinstance(found, Run) and settings:
        raise UserError(
            f"{found.name} knows its own settings, but {next(iter(settings))} was given too: leave it out.",
            code="settings-are-fixed",
        )
    opened = loading.open_model(found, FromCheckpoint(weights=weights, step=step), settings, run_probe=probe)
    return Model(opened.network(device or distributed.device()), opened.config, opened)


def _source(source: str | os.PathLike[str] | Run, runs_dir: str | os.PathLike[str]) -> Run | Path:
    """The run or the file that is meant."""
    if not isinstance(source, Run) and (path := expand_path(source)).suffix == ".pt":
        return path
    if source == example.NAME and not (Path(runs_dir) / example.NAME).exists():
        return Run(example.ASSET)
    return open_run(source, runs_dir)


class Model:
    """A trained network, ready to sample from.  Made by `load`, or by `Training.model`."""

    network: "UNet"
    """The network, a torch.nn.Module in evaluation mode."""
    config: Config
    """Settings that it was trained with."""

    opened: "OpenedModel | None"
    """The file that it was read from, with its weights; None for a model of a training in progress."""

    def __init__(self, network: "UNet", config: Config, opened: "OpenedModel | None" = None):
        self.network, self.config, self.opened = network, config, opened

    def __repr__(self) -> str:
        model = self.config.model
        source = f" from {self.opened.path}" if self.opened else ""
        return f"<Model {model.image_size} x {model.image_size} x {model.image_channels}{source}>"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels; numbers where they have none; () without classes."""
        return class_labels.names(self.config)

    @property
    def device(self) -> "torch.device":
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """Noise schedule abar_t, float64 [T]: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al. 2020, Eq. 4)."""
        return self.config.diffusion.full_schedule().alphas_cumprod

    def sample(
        self,
        n: int | None = None,
        *,
        steps: int | None = None,
        solver: str = "auto",
        classes: Classes | None = None,
        seed: int = 0,
        noise: "Tensor | np.ndarray | None" = None,
        guidance_scale: float | None = None,
        progress: bool = False,
        **settings: Any,
    ) -> np.ndarray:
        """Samples images: uint8 [N, H, W, C].

        Image k depends on seed + k alone, and is the image that `ddpm sample --seed SEED` writes; in bf16, which
        precision="auto" chooses where the processor has it, the size of a batch may change the last bits.

        Arguments:
            n: number of images; by default 16, or as many as `noise` has.
            steps: model evaluations an image; None: all the timesteps that it was trained with.
            solver: a row of ddpm.solvers.SOLVERS, such as "ddpm", "ddim", "unipc-2"; "auto" is the best for few steps.
            classes: names or labels, taken in turn: "star", 3, ["star", 0], "0-4"; None: all classes in turn.
            noise: float32 [N, C, H, W] ~ N(0, I) to begin with, x_T, in place of that of the seeds.
            guidance_scale: of classifier-free guidance; 1 is the model as it is; None: 2 where it was trained with
                cond_drop_prob, else 1.
            progress: show a progress bar on stderr.
            settings: others, by the names that `ddpm sample --help` lists, such as task="inpaint".

        Raises UserError for settings that this model cannot be sampled with.

            images = model.sample(16, steps=10, classes="star", seed=0)
        """
        from ddpm.sampling import engine

        request = self._request(n, steps, solver, classes, seed, noise, guidance_scale, settings)
        images = []
        with progress_bar(progress) as show:
            for part in self._sample(request, noise):
                show(part.done, part.total)
                if part.finished:
                    images.append(engine.to_pixels(part.step.x))
        return np.concatenate(images)

    def iter_sample(
        self,
        n: int | None = None,
        *,
        steps: int | None = None,
        solver: str = "auto",
        classes: Classes | None = None,
        seed: int = 0,
        noise: "Tensor | np.ndarray | None" = None,
        guidance_scale: float | None = None,
        **settings: Any,
    ) -> Iterator["SampleStep"]:
        """Samples as `sample` does, all images in one batch, and yields every denoising step.

        Yields records of `done` and `total` (model evaluations), `x` (the state after the step) and `x_start` (the
        predicted clean image), both float32 [N, C, H, W], in [-1, 1] at the end; and `t`, the timestep at which the
        model was evaluated.

            for state in model.iter_sample(4, steps=20):
                print(state.t, state.x_start.std())
        """
        request = self._request(n, steps, solver, classes, seed, noise, guidance_scale, settings)
        for part in self._sample(request, noise, batch_size=request.num_samples):
            yield part.step

    def _request(
        self,
        n: int | None,
        steps: int | None,
        solver: str,
        classes: Classes | None,
        seed: int,
        noise: "Tensor | np.ndarray | None",
        guidance_scale: float | None,
        settings: dict[str, Any],
    ) -> SampleConfig:
        """The request that these arguments make.  Raises UserError for settings that are unknown or out of range."""
        check_not_loading(settings)
        model = self.config.model
        shape = (model.image_channels, model.image_size, model.image_size)
        if noise is not None and (tuple(noise.shape[1:]) != shape or (n or len(noise)) != len(noise)):
            wanted = ", ".join(map(str, (n or "N", *shape)))
            raise UserError(
                f"The noise has shape {list(noise.shape)}, and this model takes [{wanted}]: give noise of this shape.",
                code="wrong-size",
            )
        if noise is not None and settings.get("task", "sample") not in ("sample", "draw"):
            raise UserError(
                f"Noise was given, and task {settings['task']} begins with an image or its own noise: leave it out.",
                code="conflicting-settings",
            )
        asked = {
            "num_samples": n if n is not None else 16 if noise is None else len(noise),
            "steps": steps or 0,
            "sampler": solver,
            "classes": _classes_text(self.class_names, classes),
            "seed": seed,
            "guidance_scale": guidance_scale,
        }
        request = parse_section(SampleConfig, {**asked, **settings})
        timesteps.check_typed(request)
        return request

    def _sample(
        self, request: SampleConfig, noise: "Tensor | np.ndarray | None", batch_size: int = 0
    ) -> Iterator["SamplingProgress"]:
        import torch

        from ddpm.models import backend
        from ddpm.sampling import engine
        from ddpm.sampling.request import resolve_request

        if request.threads:
            torch.set_num_threads(request.threads)
        compute = backend.resolve_backend(request.kernels, request.precision, self.device)
        resolved = resolve_request(self.config, request, compute)
        if batch_size:
            resolved = dataclasses.replace(resolved, batch_size=batch_size)
        resolved = dataclasses.replace(resolved, analytic_mse=self.analytic_mse(resolved.variance))
        x_T = None if noise is None else torch.as_tensor(noise, dtype=torch.float32)
        yield from engine.sample(compute.prepared(self.network), resolved, self.device, x_T=x_T)

    def analytic_mse(self, variance: str) -> tuple[float, ...] | None:
        """Mean squared errors that the variance analytic needs, [T]; None for any other variance."""
        if variance != "analytic":
            return None
        from ddpm.checkpoints import variance_file

        found = None
        if opened := self.opened:
            found = variance_file.read(opened.path, opened.sha256, self.config.diffusion)
        if found is None:
            raise UserError(
                "The analytic variance of this model is not estimated yet: run `ddpm analytic --run RUN` on its"
                " checkpoint, or choose another variance.",
                code="missing-value",
            )
        return tuple(found.mse)

    def __call__(
        self,
        x_t: "Tensor",
        t: "int | Tensor",
        classes: Classes | None = None,
        low_res: "Tensor | None" = None,
    ) -> "Tensor":
        """Evaluates the network: its own output, float32 [N, C, H, W], or [N, 2C, H, W] with a learned variance.

        The output is what `prediction` in the settings names: eps, x_start, v or x_prev.

        Arguments:
            x_t: float32 [N, C, H, W], noisy images of this timestep.
            t: timestep in 0 .. T-1, an int or int64 [N]; 0 is the least noisy.
            classes: names or labels, one or N of them; None: of no class, for a model that was trained to do without.
            low_res: float32 [N, C, h, w] in [-1, 1], the small images that a super-resolution model enlarges.

            abar = model.alphas_cumprod[500]
            x_t = abar**0.5 * x_0 + (1 - abar) ** 0.5 * torch.randn_like(x_0)
            eps = model(x_t, 500, classes="star")
        """
        import torch

        from ddpm.diffusion import denoiser
        from ddpm.models import backend

        model, T = self.config.model, self.config.diffusion.diffusion_steps
        shape = (model.image_channels, model.image_size, model.image_size)
        if tuple(x_t.shape[1:]) != shape:
            raise UserError(
                f"The images x_t have shape {list(x_t.shape)}, and this model takes"
                f" [N, {', '.join(map(str, shape))}]: give images of this shape.",
                code="wrong-size",
            )
        index = torch.as_tensor(t, device=self.device)
        if index.is_floating_point() or index.shape not in ((), (1,), (len(x_t),)):
            raise UserError(
                f"The timesteps t are {t}: give one whole number, or one for each of {len(x_t)} images.",
                code="bad-value",
            )
        index = index.long().expand(len(x_t))
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < T:
            raise UserError(
                f"The timesteps t are {t}, and this model has 0 to {T - 1}: give those.", code="out-of-range"
            )
        condition = {}
        small = (len(x_t), model.image_channels, model.small_size, model.small_size)
        if model.super_res != (low_res is not None) or (low_res is not None and tuple(low_res.shape) != small):
            wanted = f"{list(small)}" if model.super_res else "none, as it enlarges no images"
            raise UserError(
                f"The small images low_res are {'None' if low_res is None else list(low_res.shape)}, and this model"
                f" takes {wanted}: give that.",
                code="wrong-size",
            )
        if low_res is not None:
            condition["low_res"] = low_res.to(self.device)
        if model.class_cond or classes is not None:
            labels = torch.tensor(self._labels(classes), device=self.device)
            if len(labels) not in (1, len(x_t)):
                raise UserError(
                    f"There are {len(labels)} classes for {len(x_t)} images: give one, or one for each.",
                    code="bad-value",
                )
            condition["y"] = labels.expand(len(x_t)) if len(labels) == 1 else labels
        time = denoiser.network_time(self.config.diffusion, T, index)
        network = backend.resolve_backend("auto", "fp32", self.device).prepared(self.network)
        with torch.no_grad():
            return network(x_t.to(self.device), time, **condition)

    def _labels(self, classes: Classes | None) -> list[int]:
        """Labels of the classes; of no class for None.  Raises UserError where the model needs a class."""
        if classes is not None:
            return class_labels.parse_classes(self.config, _classes_text(self.class_names, classes))
        if not self.config.model.cond_drop_prob:
            names = ", ".join(self.class_names[:10])
            raise UserError(
                f"This model has classes and was not trained to do without: name them ({names}).", code="missing-value"
            )
        return [self.config.model.num_classes]


def _classes_text(known: Sequence[str], classes: Classes | None) -> str:
    """Classes, some of those known, as the setting `classes` has them."""
    if classes is None or isinstance(classes, str):
        return classes or ""
    entries = [classes] if isinstance(classes, int | np.integer) else list(classes)
    if not entries:
        raise UserError("classes is an empty list: name classes, or leave it out for all.", code="missing-value")
    return class_labels.joined(known, entries)
