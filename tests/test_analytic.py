"""The analytic variance: exact for a Gaussian, better than both fixed ones for a trained network."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raising import raises_error
from torch import Tensor

from ddpm import schedules, spacings
from ddpm.analysis import likelihood
from ddpm.checkpoints import variance_file
from ddpm.checkpoints.variance_file import PredictionErrors
from ddpm.config import codec
from ddpm.config.model import DiffusionConfig, ModelConfig
from ddpm.config.tasks import EvalConfig, SampleConfig
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.data.datasets import Dataset
from ddpm.diffusion.denoiser import Prediction
from ddpm.diffusion.process import at
from ddpm.errors import Code
from ddpm.planning import variances
from ddpm.planning.resolve import resolve_evaluation
from ddpm.runs.worker import Stopped
from ddpm.sampling import analytic_variance, engine, samplers
from ddpm.sampling.request import resolve_request
from ddpm.storage import files
from ddpm.training.trainer import Trainer

pytestmark = pytest.mark.slow

STD = 0.2
FULL = schedules.named("cosine", 1000)


def exact(x: Tensor, t: Tensor) -> Prediction:
    """E[x_0 | x_t] for pixels from N(0, STD^2)."""
    a = at(FULL.alphas_cumprod, t, x)
    return Prediction(a.sqrt() * STD**2 / (a * STD**2 + 1 - a) * x)


def exact_errors() -> np.ndarray:
    """Var[x_0 | x_t] abar / (1 - abar), in closed form."""
    abar = FULL.alphas_cumprod
    return STD**2 * abar / (abar * STD**2 + 1 - abar)


def test_the_best_variance_of_a_gaussian_is_the_exact_one() -> None:
    """The reverse step of a Gaussian is one too, whose variance follows from x_{t-1} and x_t being jointly normal."""
    for spec in ("1000", "50", "7"):
        schedule = schedules.respaced(FULL, schedules.space_timesteps(1000, spec))
        abar, before = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
        now, prev = abar * STD**2 + 1 - abar, before * STD**2 + 1 - before
        true = prev - (1 - schedule.betas) * prev**2 / now
        np.testing.assert_allclose(analytic_variance.table(schedule, exact_errors()), true, rtol=1e-6)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_few_ancestral_steps_have_the_right_spread(steps: int) -> None:
    schedule = schedules.respaced(FULL, schedules.space_timesteps(1000, str(steps)))
    start = torch.randn(4096, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    off = {}
    rows = {
        "analytic": analytic_variance.variance(exact_errors()),
        **{n: engine.VARIANCES[n] for n in ("fixed_small", "fixed_large")},
    }
    for name, variance in rows.items():
        rng = torch.Generator().manual_seed(1)
        fresh = lambda x, rng=rng: torch.randn(x.shape, generator=rng)  # noqa: E731
        *_, last = samplers.ddpm(exact, start, schedule, variance, to_zero=False, randn_like=fresh)
        abar = FULL.alphas_cumprod[0]
        off[name] = abs(float(last.x.std()) / (abar * STD**2 + 1 - abar) ** 0.5 - 1)
    assert off["analytic"] < 0.05
    assert min(off["fixed_small"], off["fixed_large"]) > 2 * off["analytic"]


def test_steps_between_timesteps_have_one_too() -> None:
    schedule = schedules.respaced(FULL, spacings.logsnr(FULL.curve, 12, 999))
    assert (analytic_variance.table(schedule, exact_errors()) > schedule.posterior_variance).all()


# --- a trained network


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Config, Dataset]:
    """Shapes at 8 x 8, learned for some hundred steps."""
    wanted = dict(
        data_dir="shapes",
        image_size=8,
        num_channels=32,
        num_res_blocks=1,
        channel_mult="1,2",
        attention_resolutions="4",
        num_heads=2,
        noise_schedule="cosine",
        lr=2e-3,
        batch_size=32,
        total_steps=400,
        ema_rate="0.98",
        precision="fp32",
        kernels="native",
    )
    config = datasets.resolve(codec.replace(Config(), wanted))
    dataset = datasets.open_dataset(config.data, config.model)
    trainer = Trainer(config, dataset)
    for _ in trainer.steps(400):
        pass
    return trainer.network(), config, dataset


@pytest.fixture(scope="module")
def errors(trained: tuple[Any, Config, Dataset]) -> PredictionErrors:
    network, config, dataset = trained
    *_, last = analytic_variance.estimate(network, config, dataset)
    assert last.mse is not None
    return PredictionErrors(last.mse.tolist(), {})


def test_its_errors_are_those_that_evaluation_finds(trained: Any, errors: PredictionErrors) -> None:
    """The same network measured at every timestep, on other images and noise; between those looked at it fits too."""
    network, config, dataset = trained
    *_, last = likelihood.measure(
        network, resolve_evaluation(config, EvalConfig(num_samples=24, rows=256, seed=5)), dataset
    )
    assert len(errors.mse) == 1000
    found, measured = np.array(errors.mse), last.so_far.terms()["mse"]
    for part in np.array_split(np.arange(1000), 8):
        assert found[part].mean() == pytest.approx(measured[part].mean(), rel=0.25)


def test_better_bits_per_dimension_than_both_fixed_ones(trained: Any, errors: PredictionErrors) -> None:
    network, config, dataset = trained
    for spec in ("", "50", "10"):
        bits = {}
        for name in ("fixed_small", "fixed_large", "analytic"):
            settings = EvalConfig(num_samples=16, rows=256, seed=9, variance=name, timestep_respacing=spec)
            *_, last = likelihood.measure(
                network,
                dataclasses.replace(resolve_evaluation(config, settings), analytic_mse=tuple(errors.mse)),
                dataset,
            )
            bits[name] = last.so_far.mean
        print(spec or "1000", {name: round(value, 3) for name, value in bits.items()})
        assert bits["analytic"] < min(bits["fixed_small"], bits["fixed_large"])


def test_better_samples_in_few_steps_than_both_fixed_ones(trained: Any, errors: PredictionErrors) -> None:
    """By the energy distance (Szekely & Rizzo 2013) to as many images of the data; 0 between equal distributions."""
    network, config, dataset = trained
    count = 256
    pixels, _ = dataset.take(np.arange(count))
    real = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).flatten(1)
    for steps in (5, 10):
        distance = {}
        for name in ("fixed_small", "fixed_large", "analytic"):
            settings = SampleConfig(
                num_samples=count, batch_size=64, sampler="ddpm", steps=steps, variance=name, precision="fp32"
            )
            sampled = engine.sample(network, resolve_request(config, settings, analytic_mse=tuple(errors.mse)))
            x = torch.cat([d.step.x for d in sampled if d.finished]).permute(0, 2, 3, 1).flatten(1)
            among = (torch.cdist(x, x).sum() + torch.cdist(real, real).sum()) / (count * (count - 1))
            distance[name] = float(2 * torch.cdist(x, real).mean() - among)
        print(steps, {name: round(value, 4) for name, value in distance.items()})
        assert distance["analytic"] < min(distance["fixed_small"], distance["fixed_large"])


# --- the file beside the weights, and what is said


class Calm:
    """A worker that is never asked to stop, or always."""

    def __init__(self, stop: bool = False):
        self.stop, self.beats = stop, []  # type: ignore[var-annotated]

    def beat(self, **changes: Any) -> None:
        self.beats.append(changes)

    def poll_requests(self) -> set[str]:
        return {"stop"} if self.stop else set()


def test_it_is_estimated_once_and_again_for_other_weights(trained: Any, tmp_path: Path) -> None:
    network, config, _ = trained
    weights = tmp_path / "ema_0.98_000400.pt"
    files.write_bytes(weights, b"weights")
    worker = Calm()
    first = analytic_variance.for_weights(network, config, weights, "abc", worker)  # type: ignore[arg-type]
    assert worker.beats[-1]["step"] == worker.beats[-1]["total_steps"] == len(worker.beats)
    assert json.loads((tmp_path / "analytic_ema_0.98_000400.json").read_text())["about"]["pictures"] == 32
    worker = Calm()
    assert analytic_variance.for_weights(network, config, weights, "abc", worker) == first  # type: ignore[arg-type]
    assert not worker.beats
    assert variance_file.read(weights, "another", config.diffusion) is None
    assert variance_file.read(weights, "abc", config.diffusion) == first
    other = dataclasses.replace(config.diffusion, noise_schedule="sigmoid")
    assert variance_file.read(weights, "abc", other) is None, "of another process"
    files.write_bytes(variance_file.path_for(weights), b"{damaged")
    assert variance_file.read(weights, "abc", config.diffusion) is None


def test_a_table_that_is_not_of_this_process_is_not_used(tmp_path: Path) -> None:
    weights = tmp_path / "model.pt"
    variance_file.write(weights, "abc", PredictionErrors([0.5] * 10, {}))
    ten = DiffusionConfig(diffusion_steps=10)
    assert variance_file.read(weights, "abc", ten) is not None
    assert variance_file.read(weights, "abc", DiffusionConfig()) is None
    files.write_json(variance_file.path_for(weights), {"format": variance_file.FORMAT, "sha256": "abc"})
    assert variance_file.read(weights, "abc", ten) is None


def test_a_folder_that_cannot_be_written_costs_but_the_estimate(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network, config, _ = trained

    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(variance_file, "write", refused)
    found = analytic_variance.for_weights(network, config, tmp_path / "model.pt", "abc", Calm())  # type: ignore[arg-type]
    assert len(found.mse) == 1000
    assert "estimated again next time" in caplog.text


def test_a_stop_is_heard_after_one_call(trained: Any, tmp_path: Path) -> None:
    network, config, _ = trained
    worker = Calm(stop=True)
    with pytest.raises(Stopped):
        analytic_variance.for_weights(network, config, tmp_path / "model000400.pt", "abc", worker)  # type: ignore[arg-type]
    assert len(worker.beats) == 1
    assert not variance_file.path_for(tmp_path / "model000400.pt").exists()


def test_data_that_is_not_there_is_said(trained: Any, tmp_path: Path) -> None:
    network, config, _ = trained
    codes: dict[str, Code] = {"": "no-data-named", str(tmp_path / "gone"): "unreadable-data"}
    for where, code in codes.items():
        other = codec.replace(config, {"data_dir": where})
        with raises_error(code, "ddpm analytic --model_path"):
            analytic_variance.for_weights(network, other, tmp_path / "model.pt", "abc", Calm())  # type: ignore[arg-type]


REFUSED: list[tuple[ModelConfig, dict[str, Any], str]] = [
    (ModelConfig(), dict(variance="fixed_small", sigma_small=False), ("conflicting-settings",)),
    (ModelConfig(learn_sigma=True), dict(variance="analytic"), ("not-applicable",)),
    (
        ModelConfig(),
        dict(variance="analytic", sampler="heun", steps=9),
        ("not-applicable", "Heun"),
    ),
]


@pytest.mark.parametrize(("model", "values", "error"), REFUSED)
def test_what_does_not_go_together_is_said(model: ModelConfig, values: dict[str, Any], error: tuple[Any, ...]) -> None:
    with raises_error(*error):
        variances.resolve_variance(Config(model=model), SampleConfig(**values))


def test_as_trained_unless_it_is_said() -> None:
    plain, learned = Config(), Config(model=ModelConfig(learn_sigma=True))
    assert variances.resolve_variance(plain, SampleConfig()) == "fixed_large"
    assert variances.resolve_variance(plain, SampleConfig(sigma_small=True)) == "fixed_small"
    assert variances.resolve_variance(plain, EvalConfig(variance="analytic")) == "analytic"
    assert variances.resolve_variance(learned, SampleConfig(sigma_small=True)) == "learned_range"
    small = Config(diffusion=dataclasses.replace(plain.diffusion, sigma_small=True))
    assert variances.resolve_variance(small, EvalConfig()) == "fixed_small"
