"""Our numbers against those of improved-diffusion, computed elsewhere and stored as arrays.

    python -m pytest tests/test_golden.py --golden DIR

runs it on any folder of the same format and prints, per file, how many arrays were compared, and what was
skipped and why.

Processors add in different orders, so no two agree to the last bit.  What that may make of a result is measured against
the same computation in double precision, which all of them agree on: ours may be FURTHER times as far from it as the
stored array is.  No step begins where our own last one ended: an optimiser or a sampler would make more of the
rounding with every step.
"""

import copy
import importlib.util
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm import schedules
from ddpm.analysis import bound
from ddpm.checkpoints import checkpoint_files, probe
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data.datasets import Dataset
from ddpm.diffusion import denoiser, losses, process
from ddpm.diffusion.denoiser import Denoiser, Network
from ddpm.diffusion.losses import Batch
from ddpm.diffusion.timestep_samplers import LossSecondMoment
from ddpm.diffusion.variances import VARIANCES
from ddpm.interop import import_openai
from ddpm.models import unet
from ddpm.models.unet import UNet
from ddpm.planning import variances
from ddpm.runs import metrics, openai_folder
from ddpm.sampling import samplers
from ddpm.sampling.samplers import SampleStep
from ddpm.schedules import Schedule
from ddpm.storage import images
from ddpm.training.trainer import Trainer

FURTHER = 5  # measured, with AVX-512, AVX2 and SSE: up to 2.4


class Tally:
    """How much was compared, and what was not.  Every comparison fails for an array that is off by 1 %."""

    def __init__(self) -> None:
        self.compared: defaultdict[str, set[str]] = defaultdict(set)  # file -> arrays
        self.skipped: dict[str, tuple[int, str]] = {}

    def close(self, file: str, name: str, ours: Any, theirs: Any, **tolerance: float) -> None:
        def check(theirs: np.ndarray) -> None:
            np.testing.assert_allclose(
                np.asarray(ours), theirs, **{"rtol": 0, "atol": 0, **tolerance}, err_msg=f"{file}: {name}"
            )

        self._compare(file, name, np.asarray(theirs), check)

    def norm_close(self, file: str, name: str, ours: Any, theirs: Any, rtol: float) -> None:
        """The length of the difference against the length of the array.

        Adam divides tiny gradients by themselves, so that single weights carry the rounding of the machine.
        """

        def check(theirs: np.ndarray) -> None:
            distance = apart(ours, theirs)
            assert distance <= rtol, f"{file}: {name} differs by {distance:.2e} of its length, more than {rtol:.0e}"

        self._compare(file, name, np.asarray(theirs), check)

    def near_exact(self, file: str, name: str, ours: Any, theirs: Any, exact: Any) -> None:
        """Ours lies FURTHER times as far from the result in double precision as the stored array does, or nearer."""

        def check(theirs: np.ndarray) -> None:
            mine, stored = apart(ours, exact), apart(theirs, exact)
            assert stored <= 1e-4, f"{file}: {name} differs by {stored:.2e} of its length from double precision"
            assert mine <= FURTHER * stored, (
                f"{file}: ours differs by {mine:.2e} from double precision, {name} by {stored:.2e}"
            )

        self._compare(file, name, np.asarray(theirs), check)

    def _compare(self, file: str, name: str, theirs: np.ndarray, check: Callable[[np.ndarray], None]) -> None:
        check(theirs)
        if np.nan_to_num(theirs).any():
            with pytest.raises(AssertionError):
                check(theirs * 1.01)
        self.compared[file].add(name)

    def skip(self, file: str, count: int, why: str) -> None:
        self.skipped[file] = (count, why)


def apart(one: Any, other: Any) -> float:
    """The length of the difference, as a share of the other's."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    assert one.shape == other.shape
    return float(np.linalg.norm(one - other) / max(np.linalg.norm(other), 1e-12))


@pytest.fixture(scope="session")
def tally(summary: list[str], golden: Path) -> Iterator[Tally]:
    found = Tally()
    yield found
    lines = [f"Golden numbers in {golden}:"]
    for file in sorted({*found.compared, *found.skipped}):
        line = f"  {file}: {len(found.compared[file])} arrays agree"
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
    """The settings of a network in networks.json."""
    flags = dict(entry["flags"])
    if entry["super_res"]:
        flags["image_size"] = flags.pop("large_size")
    if "label_emb.weight" in entry["tensors"]:
        flags["num_classes"] = entry["tensors"]["label_emb.weight"][0]
    return codec.replace(Config(), flags)


def network(golden: Path, name: str) -> UNet:
    entry = networks(golden)[name]
    model = unet.build(config_of(entry).model)
    model.load_state_dict(module(golden / "weights.py").fill(model.state_dict()))
    return model.eval()


def in_double(model: UNet) -> Network:
    """The network, computing in double precision whatever it is given."""
    model.double()
    model.time_embed.register_forward_pre_hook(lambda _, given: (given[0].double(),))

    def network(x: torch.Tensor, t: torch.Tensor, **condition: torch.Tensor) -> torch.Tensor:
        return model(x.double(), t, **{k: v.double() if v.is_floating_point() else v for k, v in condition.items()})

    return network


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


def test_images(golden: Path, tally: Tally) -> None:
    stored = arrays(golden, "pictures.npz")
    for key, theirs in stored.items():
        if key.startswith("output"):
            _, number, size = key.split("_")
            pixels = images.prepare(Image.fromarray(stored[f"input_{number}"]), int(size), 3)
            tally.close("pictures.npz", key, images.to_float(pixels[None])[0], theirs)


def test_networks_have_the_same_tensors(golden: Path, tally: Tally) -> None:
    for network_name, entry in networks(golden).items():
        model = unet.build(config_of(entry).model)
        ours = [(name, list(tensor.shape)) for name, tensor in model.state_dict().items()]
        assert ours == [(name, list(shape)) for name, shape in entry["tensors"].items()]
        tally.compared["networks.json"] |= {f"{network_name}.{name}" for name, _ in ours}


def test_unets(golden: Path, tally: Tally) -> None:
    for name, entry in networks(golden).items():
        file = f"unet_{name}.npz"
        stored = arrays(golden, file)
        inputs = {k: torch.from_numpy(v) for k, v in stored.items() if k in ("x", "t", "y", "low_res")}
        model = network(golden, name)
        with torch.no_grad():
            output, exact = model(**inputs), in_double(network(golden, name))(**inputs)
        theirs, what = stored["output"], f"output of {entry['flags']}"
        tally.close(file, what, output, theirs, atol=3e-5 * float(np.abs(theirs).max()))
        tally.near_exact(file, what, output, theirs, exact)


def toy_network(learn_sigma: bool) -> Network:
    """The denoiser that process.json describes."""

    def network(x: torch.Tensor, t: torch.Tensor, **condition: torch.Tensor) -> torch.Tensor:
        mean = torch.sin(1.3 * x + 0.01 * t[:, None, None, None])
        return torch.cat([mean, 0.9 * torch.cos(0.7 * x)], dim=1) if learn_sigma else mean

    return network


def test_process(golden: Path, tally: Tally) -> None:
    stored = arrays(golden, "process.npz")
    steps = json.loads((golden / "process.json").read_text())["steps"]
    for case in sorted({key.split("|")[0] for key in stored}):
        flags = {k: v == "True" for k, v in (pair.split("=") for pair in case.split(","))}
        values = {key.split("|")[1]: v for key, v in stored.items() if key.split("|")[0] == case}
        _compare_process(tally, case, values, flags, steps)


def _compare_process(
    tally: Tally, case: str, values: dict[str, np.ndarray], flags: dict[str, bool], steps: int
) -> None:
    full = schedules.named("cosine" if flags["rescale_learned_sigmas"] else "linear", steps)
    config = codec.replace(Config(), {"diffusion_steps": steps, **flags})
    settings, network = config.diffusion, toy_network(flags["learn_sigma"])
    x_start, noise, t, x_t = (torch.from_numpy(values[name]) for name in ("x_start", "noise", "t", "x_t"))
    unclipped = denoiser.make_denoiser(network, full, settings, clip=False)(x_t, t)
    clipped = denoiser.make_denoiser(network, full, settings, clip=True)(x_t, t)
    log_variance = VARIANCES[variances.trained_variance(settings, flags["learn_sigma"])](full, t, clipped)
    found = losses.training_losses(network, full, full, config, Batch(x_start, t, noise))
    ours = {
        "x_start": x_start,
        "noise": noise,
        "t": t,
        "x_t": process.q_sample(full, x_start, t, noise),
        "posterior_mean": process.q_posterior_mean(full, x_start, x_t, t),
        "posterior_variance": process.at(full.posterior_variance, t, x_t).expand_as(x_t),
        "p_mean": process.q_posterior_mean(full, clipped.x_start, x_t, t),
        "p_log_variance": log_variance.expand_as(x_t),
        "pred_xstart": clipped.x_start,
        "pred_xstart_unclipped": unclipped.x_start,
        **{f"loss.{name}": value for name, value in found.items()},
    }
    if "bpd_noise" in values:  # a smaller copy of the file has it for some cases only
        sampled = torch.from_numpy(values.pop("bpd_noise")).flip(0)  # t = 0 first
        bits = bound.bits_per_dim(network, full, full, settings, x_start, lambda k, t: sampled[t, k], rows=7)
        terms = {name: getattr(bits, name).flip(1) for name in ("vb", "xstart_mse", "mse")}
        ours |= {f"bpd.{name}": value for name, value in terms.items()}
        ours |= {"bpd.total_bpd": bits.total, "bpd.prior_bpd": bits.prior}
    assert set(values) <= set(ours)
    for name, theirs in values.items():
        if name not in ("x_start", "noise", "t"):
            scale = float(np.abs(theirs).max())
            tally.close("process.npz", f"{case}|{name}", ours[name], theirs, rtol=1e-4, atol=1e-6 * scale)


def test_importance(golden: Path, tally: Tally) -> None:
    stored = arrays(golden, "importance.npz")
    sampler = LossSecondMoment(len(stored["weights_cold"]))
    t, values = torch.from_numpy(stored["timesteps"]), torch.from_numpy(stored["losses"])
    tally.close("importance.npz", "cold", sampler.weights(), stored["weights_cold"], rtol=1e-12)
    for seen, begin in ((300, 0), (900, 300)):
        sampler.update(t[begin:seen], values[begin:seen])
        tally.close("importance.npz", f"after {seen}", sampler.weights(), stored[f"weights_{seen}"], rtol=1e-12)


def test_likelihood(golden: Path, tally: Tally) -> None:
    stored = arrays(golden, "likelihood.npz")
    x, means, log_scales = (torch.from_numpy(stored[name]) for name in ("x", "means", "log_scales"))
    found = losses.discretized_gaussian_log_likelihood(x, means, log_scales)
    tally.close("likelihood.npz", "log-likelihood", found, stored["log_likelihood"], rtol=1e-5, atol=1e-5)
    kl = losses.normal_kl(means, log_scales, means / 2, log_scales + 0.3)
    tally.close("likelihood.npz", "KL", kl, stored["kl"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["ancestral", "ddim", "ddim_eta"])
def test_sampling(golden: Path, tally: Tally, case: str) -> None:
    stored = {k.split("|")[1]: v for k, v in arrays(golden, "sampling.npz").items() if k.split("|")[0] == case}
    full, *denoisers = _plain_denoisers(golden)
    schedule = schedules.respaced(full, schedules.space_timesteps(full.T, str(stored["respacing"])))
    half = len(schedule) // 2  # after this step the middle is stored

    def walk(denoise: Denoiser, x: torch.Tensor, noise: np.ndarray, schedule: Schedule) -> list[SampleStep]:
        given = iter(torch.from_numpy(noise).to(x.dtype))
        if case == "ancestral":
            return list(samplers.ddpm(denoise, x, schedule, randn_like=lambda _: next(given)))
        eta = float(stored["eta"])
        return list(samplers.ddim(denoise, x, schedule, eta=eta, randn_like=lambda _: next(given)))

    found = []
    for denoise, dtype in zip(denoisers, (torch.float32, torch.float64), strict=True):
        start, middle = (torch.from_numpy(x).to(dtype) for x in (stored["noise"][0], stored["middle"]))
        steps = walk(denoise, start, stored["noise"][1:], schedule)
        rest = schedules.respaced(full, schedule.timesteps[: len(schedule) - 1 - half])
        *_, last = walk(denoise, middle, stored["noise"][half + 2 :], rest)
        found.append({"first_pred_xstart": steps[0].x_start, "middle": steps[half].x, "final": last.x})
    ours, exact = found
    for name in ours:
        tally.near_exact("sampling.npz", f"{case} {name}", ours[name], stored[name], exact[name])
        # Asked at pure noise, a network's rounding is divided by sqrt(abar): the first answer alone has no
        # bound of its own.
        if name != "first_pred_xstart":
            tally.close("sampling.npz", f"{case} {name}", ours[name], stored[name], atol=1e-3)


@pytest.mark.slow
def test_inversion(golden: Path, tally: Tally) -> None:
    stored = arrays(golden, "sampling.npz")
    full, *denoisers = _plain_denoisers(golden)
    schedule = schedules.respaced(full, schedules.space_timesteps(full.T, "ddim10"))
    x, theirs = torch.from_numpy(stored["ddim_reverse|x_start"]), stored["ddim_reverse|encoded"]
    ours, exact = (
        list(samplers.ddim_inversion(denoise, x.to(dtype), schedule))[-1].x
        for denoise, dtype in zip(denoisers, (torch.float32, torch.float64), strict=True)
    )
    tally.close("sampling.npz", "encoded", ours, theirs, atol=1e-3)
    tally.near_exact("sampling.npz", "encoded", ours, theirs, exact)


def _plain_denoisers(golden: Path) -> tuple[Schedule, Denoiser, Denoiser]:
    """The process of the network `plain`, its denoiser, and the same in double precision."""
    settings = config_of(networks(golden)["plain"]).diffusion
    full = schedules.named(settings.noise_schedule, settings.diffusion_steps)
    models = network(golden, "plain"), in_double(network(golden, "plain"))
    ours, exact = (denoiser.make_denoiser(model, full, settings) for model in models)
    return full, ours, exact


TRAININGS = {
    "simple": ("plain", {}),
    "hybrid": ("learned_class", dict(num_heads=4, noise_schedule="cosine", weight_decay=0.05, lr_anneal_steps=10)),
}


def _trainer(golden: Path, name: str, stored: Mapping[str, np.ndarray], **settings: Any) -> Trainer:
    """At the start of a stored training."""
    network_name, training = TRAININGS[name]
    flags = dict(lr=1e-3, ema_rate="0.9", ema_warmup=False, batch_size=len(stored["0|x"]), precision="fp32")
    config = codec.replace(config_of(networks(golden)[network_name]), {**flags, **training, **settings})
    size = config.model.image_size
    trainer = Trainer(config, Dataset(np.zeros((1, size, size, 3), np.uint8), None, (), ()))
    trainer.model.load_state_dict(module(golden / "weights.py").fill(trainer.model.state_dict()))
    trainer.ema.load("0.9", dict(trainer.model.state_dict()))
    return trainer


def _batches(stored: Mapping[str, np.ndarray]) -> list[Batch]:
    steps = sum(key.endswith("|x") for key in stored)
    keys = [[f"{step}|{part}" for part in ("x", "t", "noise", "y")] for step in range(steps)]
    return [Batch(*(torch.from_numpy(stored[key]) for key in of_one if key in stored)) for of_one in keys]


@pytest.fixture(scope="module", params=TRAININGS)
def training(
    request: pytest.FixtureRequest, golden: Path
) -> tuple[str, Mapping[str, np.ndarray], list[dict[str, Any]]]:
    """A stored training, and where it stands before each step and after the last, computed in double precision.

    The stored losses alone would not do: Adam's first steps are as long for gradients that are nothing but rounding.
    The loss itself is in single precision, as the reference's: it decides which likelihoods count as none.
    """
    name = request.param
    stored = arrays(golden, f"training_{name}.npz")
    torch.set_default_dtype(torch.float64)
    try:
        trainer = _trainer(golden, name, stored, kernels="torch")
    finally:
        torch.set_default_dtype(torch.float32)
    network = in_double(trainer.model)
    trainer.forward = lambda x, t, **condition: network(x, t, **condition).float()

    def single(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: single(value) for key, value in content.items()}
        if isinstance(content, torch.Tensor):
            return content.to(torch.float32 if content.is_floating_point() else content.dtype, copy=True)
        return content

    def now() -> dict[str, Any]:
        return single(dict(weights=trainer.weights(), optimizer=trainer.optimizer.state_dict(), state=trainer.state()))

    states = [now()]
    for batch in _batches(stored):
        trainer.update(batch)
        states.append(now())
    return name, stored, states


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["torch", "native"])
@pytest.mark.parametrize("microbatch", [-1, 1], ids=["whole batch", "microbatches"])
def test_training(
    golden: Path,
    tally: Tally,
    training: tuple[str, Mapping[str, np.ndarray], list[dict[str, Any]]],
    microbatch: int,
    kernels: str,
) -> None:
    name, stored, states = training
    file, tensors = f"training_{name}.npz", list(map(str, stored["probe_names"]))
    trainer = _trainer(golden, name, stored, microbatch=microbatch, kernels=kernels)
    for step, batch in enumerate(_batches(stored)):
        if step:
            before = copy.deepcopy(states[step])
            trainer.load(before["weights"], before["optimizer"], {**before["state"], "fresh": True})
        report = trainer.update(batch)
        for part in ("loss", "mse", "vb"):
            if f"{step}|{part}" in stored:
                tally.close(file, f"{step}|{part}", report.losses[part], stored[f"{step}|{part}"], rtol=1e-4)
        # The hybrid's stored norms carry the reference's own rounding: 2.1e-4 from double precision after two steps.
        rtol = 1e-3 if step and name == "hybrid" else 1e-4
        tally.close(file, f"{step}|grad_norm", report.grad_norm, stored[f"{step}|grad_norm"], rtol=rtol)
        for kind, weights in trainer.weights().items():
            for tensor in tensors:
                assert apart(weights[tensor], states[step + 1]["weights"][kind][tensor]) <= 1e-3
    weights, average = trainer.model.state_dict(), trainer.ema.weights("0.9")
    for tensor in tensors:
        tally.norm_close(file, f"param|{tensor}", weights[tensor], stored[f"param|{tensor}"], 1e-4)
        tally.norm_close(file, f"ema|{tensor}", average[tensor], stored[f"ema|{tensor}"], 1e-4)
    tally.close(file, "param_norm", trainer.parameter_norm(), stored["param_norm"], rtol=1e-4)


def test_openai_run(golden: Path, tally: Tally, tmp_path: Path) -> None:
    """A folder that improved-diffusion wrote: imported, every number of its log and every tensor compared."""
    if not (golden / "openai_run").exists():
        pytest.skip("openai_run is not in the folder")
    folder = openai_folder.read_folder(golden / "openai_run")
    assert (folder.newest.step, list(folder.newest.averages)) == (1000, ["0.99", "0.999"])
    imported = import_openai.import_folder(
        folder, tmp_path / "runs", {"noise_schedule": "cosine"}, import_openai.ImportOptions("theirs"), lambda *_: None
    )
    run, settings = imported.run, imported.run.config
    assert (settings.diffusion.noise_schedule, settings.diffusion.diffusion_steps, settings.model.num_heads) == (
        "cosine",
        1000,
        4,
    )
    assert settings.diffusion.prediction == "eps"
    assert settings.class_names == tuple("0123456789")
    assert (settings.train.batch_size, settings.train.ema_rate) == (8, "0.99,0.999")
    assert folder.progress is not None
    with open(folder.progress) as file:
        header, *rows = ([cell.strip() for cell in line.split(",")] for line in file)
    frame = metrics.MetricReader(run.progress_path).read()
    for name, *column in zip(header, *rows, strict=True):
        theirs = np.array([float(cell or "nan") for cell in column])
        tally.close("openai_run", name, frame[name], theirs + (name == "step"))
    saved = run.checkpoint()
    assert saved.step == 1001
    for kind, path in [*folder.newest.weights.items(), ("opt", folder.newest.optimizer)]:
        ours, stored = (torch.load(file, weights_only=True) for file in (saved.path(kind), path))
        flat = [{str(k): v for k, v in _flat(content)} for content in (ours, stored)]
        assert list(flat[0]) == list(flat[1])
        for name, theirs in flat[1].items():
            tally.close("openai_run", f"{kind} {name}", flat[0][name], theirs)
    tensors = checkpoint_files.load_weights(saved.path("model")).tensors
    verdict = probe.verdict(tensors, settings, probe.images_for(settings))
    assert (verdict.found["prediction"], verdict.found.get("noise_schedule", "cosine")) == ("eps", "cosine")


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in a checkpoint's nested dicts."""
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{name}{key}", value.detach()
        elif isinstance(value, dict):
            yield from _flat(value, f"{name}{key}.")


def test_every_file_is_read(golden: Path) -> None:
    known = {
        f"{name}.npz"
        for name in ("schedules", "respacing", "pictures", "process", "sampling", "importance", "likelihood")
    }
    known |= {f"training_{name}.npz" for name in TRAININGS} | {f"unet_{name}.npz" for name in networks(golden)}
    assert {path.name for path in golden.glob("*.npz")} <= known, "a golden file that no test reads"
