"""Our numbers against those of improved-diffusion, computed elsewhere and stored as arrays.

    python -m pytest tests/test_golden.py --golden DIR

runs it on any folder of the same format and prints, per file, how many arrays were compared, and what was
skipped and why.
"""

import importlib.util
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm import config as configs
from ddpm import diffusion, images, losses, samplers, schedules
from ddpm.config import Config, DiffusionConfig
from ddpm.data import Dataset
from ddpm.diffusion import Prediction
from ddpm.ema import Ema
from ddpm.losses import Batch
from ddpm.schedules import Schedule
from ddpm.train import Trainer
from ddpm.unet import SuperResUNet, UNet

LATER = {
    "importance.npz": "importance-sampled timesteps are not in this version",
    "likelihood.npz": "likelihoods are not in this version",
    "training_hybrid.npz": "the hybrid objective is not in this version",
}


class Tally:
    """How much was compared, and what was not."""

    def __init__(self) -> None:
        self.compared: Counter[str] = Counter()
        self.skipped: dict[str, tuple[int, str]] = {}

    def close(self, file: str, name: str, ours: Any, theirs: Any, **tolerance: float) -> None:
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), **{"rtol": 0, "atol": 0, **tolerance}, err_msg=f"{file}: {name}")  # fmt: skip
        self.compared[file] += 1

    def norm_close(self, file: str, name: str, ours: Any, theirs: Any, rtol: float) -> None:
        """The length of the difference against the length of the array.

        Adam divides tiny gradients by themselves, so that single weights carry the rounding of the machine.
        """
        ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
        assert ours.shape == theirs.shape
        distance = np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-12)
        assert distance <= rtol, f"{file}: {name} differs by {distance:.2e} of its length, more than {rtol:.0e}"
        self.compared[file] += 1

    def skip(self, file: str, count: int, why: str) -> None:
        self.skipped[file] = (count, why)


@pytest.fixture(scope="session")
def tally(summary: list[str], golden: Path) -> Iterator[Tally]:
    found = Tally()
    yield found
    lines = [f"Golden numbers in {golden}:"]
    for file in sorted({*found.compared, *found.skipped}):
        line = f"  {file}: {found.compared[file]} arrays agree"
        if file in found.skipped:
            line += "; {} skipped: {}".format(*found.skipped[file])
        lines.append(line)
    summary.extend(lines)


def arrays(golden: Path, name: str) -> Mapping[str, np.ndarray]:
    if not (golden / name).exists():
        pytest.skip(f"{name} is not in the folder")
    with np.load(golden / name) as file:
        return dict(file)


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def networks(golden: Path) -> dict[str, Any]:
    path = golden / "networks.json"
    return json.loads(path.read_text()) if path.exists() else {}


def config_of(entry: Mapping[str, Any]) -> Config:
    """The settings of a network in networks.json; flags of the reference that we have no use for are left out."""
    flags = dict(entry["flags"])
    if entry["super_res"]:
        flags["image_size"] = flags["large_size"]
    if "label_emb.weight" in entry["tensors"]:
        flags["num_classes"] = entry["tensors"]["label_emb.weight"][0]
    known = {s.name for cls in (configs.ModelConfig, DiffusionConfig) for s in configs.settings(cls)}
    return configs.replace(Config(), {k: v for k, v in flags.items() if k in known})


def network(golden: Path, name: str) -> UNet:
    entry = networks(golden)[name]
    model = (SuperResUNet if entry["super_res"] else UNet)(config_of(entry).model)
    model.load_state_dict(module(golden / "weights.py").fill(model.state_dict()))
    return model.eval()


def test_schedules(golden: Path, tally: Tally) -> None:
    for key, theirs in arrays(golden, "schedules.npz").items():
        name, T, table = key.split(".")
        tally.close("schedules.npz", key, getattr(schedules.named(name, int(T)), table), theirs, rtol=1e-12)


def test_respacing(golden: Path, tally: Tally) -> None:
    for key, theirs in arrays(golden, "respacing.npz").items():
        T, spec, what = key.split("|")
        full = schedules.named("linear", int(T))
        kept = schedules.space_timesteps(full.T, spec)
        if what == "steps":
            tally.close("respacing.npz", key, kept, theirs)
        else:
            tally.close("respacing.npz", key, schedules.respaced(full, kept).betas, theirs, rtol=1e-12)


def test_pictures(golden: Path, tally: Tally) -> None:
    stored = arrays(golden, "pictures.npz")
    for key, theirs in stored.items():
        if key.startswith("output"):
            _, number, size = key.split("_")
            pixels = images.prepare(Image.fromarray(stored[f"input_{number}"]), int(size), 3)
            tally.close("pictures.npz", key, images.to_float(pixels[None])[0], theirs)


def test_networks_have_the_same_tensors(golden: Path, tally: Tally) -> None:
    for entry in networks(golden).values():
        model = (SuperResUNet if entry["super_res"] else UNet)(config_of(entry).model)
        ours = [(name, list(tensor.shape)) for name, tensor in model.state_dict().items()]
        assert ours == [(name, list(shape)) for name, shape in entry["tensors"].items()]
        tally.compared["networks.json"] += len(ours)


def test_unets(golden: Path, tally: Tally) -> None:
    for name, entry in networks(golden).items():
        file = f"unet_{name}.npz"
        stored = arrays(golden, file)
        inputs = {k: torch.from_numpy(v) for k, v in stored.items() if k in ("x", "t", "y", "low_res")}
        model = network(golden, name)
        with torch.no_grad():
            output = model(**inputs)
        tally.close(file, f"output of {entry['flags']}", output, stored["output"], atol=1e-4)


def toy_network(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    """The denoiser that process.json describes."""
    return torch.sin(1.3 * x + 0.01 * t[:, None, None, None])


def test_process(golden: Path, tally: Tally) -> None:
    stored = arrays(golden, "process.npz")
    steps = json.loads((golden / "process.json").read_text())["steps"]
    skipped = 0
    for case in sorted({key.split("|")[0] for key in stored}):
        flags = {k: v == "True" for k, v in (pair.split("=") for pair in case.split(","))}
        values = {key.split("|")[1]: v for key, v in stored.items() if key.split("|")[0] == case}
        if flags["learn_sigma"] or flags["use_kl"]:
            skipped += len(values)
            continue
        skipped += sum(name.startswith("bpd") for name in values)
        _compare_process(tally, case, values, flags, steps)
    if skipped:
        tally.skip("process.npz", skipped, "bits per dimension and the objectives with a variational bound are not in this version")  # fmt: skip


def _compare_process(
    tally: Tally, case: str, values: dict[str, np.ndarray], flags: dict[str, bool], steps: int
) -> None:
    full = schedules.named("cosine" if flags["rescale_learned_sigmas"] else "linear", steps)
    settings = DiffusionConfig(
        diffusion_steps=steps, predict_xstart=flags["predict_xstart"], sigma_small=flags["sigma_small"]
    )
    x_start, noise, t, x_t = (torch.from_numpy(values[name]) for name in ("x_start", "noise", "t", "x_t"))
    unclipped = diffusion.denoiser(toy_network, full, settings, clip=False)(x_t, t)
    clipped = diffusion.denoiser(toy_network, full, settings, clip=True)(x_t, t)
    log_variance = diffusion.VARIANCES[diffusion.variance_name(settings, False)](full, t, clipped)
    found = losses.simple(toy_network, full, Config(diffusion=settings), Batch(x_start, t, noise))
    ours = {
        "x_t": diffusion.q_sample(full, x_start, t, noise),
        "posterior_mean": diffusion.q_posterior_mean(full, x_start, x_t, t),
        "posterior_variance": diffusion.at(full.posterior_variance, t, x_t).expand_as(x_t),
        "p_mean": diffusion.q_posterior_mean(full, clipped.x_start, x_t, t),
        "p_log_variance": log_variance.expand_as(x_t),
        "pred_xstart": clipped.x_start,
        "pred_xstart_unclipped": unclipped.x_start,
        "loss.mse": found["mse"],
        "loss.loss": found["loss"],
    }
    for name, theirs in values.items():
        if name in ours:
            scale = float(np.abs(theirs).max())
            tally.close("process.npz", f"{case}|{name}", ours[name], theirs, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize("case", ["ancestral", "ddim", "ddim_eta"])
def test_sampling(golden: Path, tally: Tally, case: str) -> None:
    stored = {k.split("|")[1]: v for k, v in arrays(golden, "sampling.npz").items() if k.split("|")[0] == case}
    denoise, full = _plain_denoiser(golden)
    schedule = schedules.respaced(full, schedules.space_timesteps(full.T, str(stored["respacing"])))
    start, *drawn = torch.from_numpy(stored["noise"])
    given = iter(drawn)

    def randn_like(x: torch.Tensor) -> torch.Tensor:
        return next(given)

    if case == "ancestral":
        walk = samplers.ddpm(denoise, start, schedule, randn_like=randn_like)
    else:
        walk = samplers.ddim(denoise, start, schedule, eta=float(stored["eta"]), randn_like=randn_like)
    steps = list(walk)
    tally.close("sampling.npz", f"{case} first", steps[0].x_start, stored["first_pred_xstart"], atol=1e-3)
    tally.close("sampling.npz", f"{case} middle", steps[len(steps) // 2].x, stored["middle"], atol=1e-3)
    tally.close("sampling.npz", f"{case} final", steps[-1].x, stored["final"], atol=1e-3)


def test_inversion(golden: Path, tally: Tally) -> None:
    stored = arrays(golden, "sampling.npz")
    denoise, full = _plain_denoiser(golden)
    schedule = schedules.respaced(full, schedules.space_timesteps(full.T, "ddim10"))
    *_, last = samplers.ddim_inversion(denoise, torch.from_numpy(stored["ddim_reverse|x_start"]), schedule)
    tally.close("sampling.npz", "encoded", last.x, stored["ddim_reverse|encoded"], atol=1e-3)


def _plain_denoiser(golden: Path) -> tuple[diffusion.Denoiser, Schedule]:
    settings = config_of(networks(golden)["plain"]).diffusion
    full = schedules.named(settings.noise_schedule, settings.diffusion_steps)
    model = network(golden, "plain")

    def denoise(x: torch.Tensor, t: torch.Tensor) -> Prediction:
        return diffusion.denoiser(model, full, settings)(x, t)

    return denoise, full


@pytest.mark.parametrize("microbatch", [-1, 1], ids=["whole batch", "microbatches"])
def test_training(golden: Path, tally: Tally, microbatch: int) -> None:
    stored = arrays(golden, "training_simple.npz")
    config = configs.replace(
        config_of(networks(golden)["plain"]),
        dict(lr=1e-3, ema_rate="0.9", ema_warmup=False, batch_size=len(stored["0|x"]), microbatch=microbatch),
    )
    size = config.model.image_size
    trainer = Trainer(config, Dataset(np.zeros((1, size, size, 3), np.uint8), None, (), ()))
    trainer.model.load_state_dict(module(golden / "weights.py").fill(trainer.model.state_dict()))
    trainer.ema = Ema(trainer.model, ("0.9",), warmup=False)
    file = "training_simple.npz"
    # A single pass adds in another order than two; what Adam makes of the difference stays within ten times the rounding.
    rtol = 1e-4 if microbatch < 0 else 1e-3
    for step in range(sum(key.endswith("|x") for key in stored)):
        batch = Batch(*(torch.from_numpy(stored[f"{step}|{name}"]) for name in ("x", "t", "noise")))
        report = trainer.update(batch)
        for name in ("loss", "mse"):
            tally.close(file, f"{step}|{name}", report.losses[name], stored[f"{step}|{name}"], rtol=rtol)
        tally.close(file, f"{step}|grad_norm", report.grad_norm, stored[f"{step}|grad_norm"], rtol=rtol)
    weights, average = trainer.model.state_dict(), trainer.ema.weights("0.9")
    for name in map(str, stored["probe_names"]):
        tally.norm_close(file, f"param|{name}", weights[name], stored[f"param|{name}"], rtol)
        tally.norm_close(file, f"ema|{name}", average[name], stored[f"ema|{name}"], rtol)
    tally.close(file, "param_norm", trainer.parameter_norm(), stored["param_norm"], rtol=rtol)


def test_what_is_left_for_later_is_said(golden: Path, tally: Tally) -> None:
    for file, why in LATER.items():
        if (golden / file).exists():
            with np.load(golden / file) as content:
                tally.skip(file, len(content.files), why)
    if (golden / "openai_run").is_dir():
        tally.skip("openai_run", len(list((golden / "openai_run").iterdir())), "opening a foreign run is not in this version")  # fmt: skip
    known = {*LATER, "schedules.npz", "respacing.npz", "pictures.npz", "process.npz", "sampling.npz", "training_simple.npz"}  # fmt: skip
    known |= {f"unet_{name}.npz" for name in networks(golden)}
    assert {path.name for path in golden.glob("*.npz")} <= known, "a golden file that no test reads"
