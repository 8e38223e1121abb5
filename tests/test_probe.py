"""What the probe says of networks whose training is known, and that it never overrules anyone.

tests/bench/probe_set.py has many more of them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm.checkpoints import denoising_bench, identify, probe
from ddpm.checkpoints.probe import Heads, Process, Verdict
from ddpm.config import codec
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import datasets
from ddpm.models import unet
from ddpm.training.trainer import Trainer

pytestmark = pytest.mark.slow

NETWORK: dict[str, Any] = dict(
    data_dir="cifar10-mini",
    enlarge=True,
    image_size=8,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1",
    attention_resolutions="",
    num_heads=4,
    batch_size=8,
    lr=3e-3,
    ema_rate="0.9",
    threads=1,
    precision="fp32",
)
TRUTHS: dict[str, dict[str, Any]] = {
    "eps": dict(noise_schedule="cosine", diffusion_steps=4000, rescale_timesteps=False),
    "x_start": dict(prediction="x_start"),
    "x_prev": dict(prediction="x_prev"),
}
STEPS = {"eps": 150, "x_start": 200, "x_prev": 200}
FILE = Path("unknown.pt")
LEVELS = np.ones(len(denoising_bench.LEVELS), bool)
USUAL = Process("linear", 1000, True)


@pytest.fixture(scope="module")
def networks(cache: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Weights, by what they predict."""
    found = {}
    for name, truth in TRUTHS.items():
        config = datasets.resolve(codec.replace(Config(), {**NETWORK, **truth}))
        trainer = Trainer(config, datasets.open_dataset(config.data, config.model))
        for _ in trainer.steps(STEPS[name]):
            pass
        found[name] = trainer.weights()["model"]
    return found


def asked(tensors: dict[str, torch.Tensor], **given: object) -> tuple[Config, str]:
    found = identify.identify(tensors, {"image_size": 8, **given}, FILE)
    return found.config, " ".join(found.notes)


@pytest.fixture(scope="module")
def verdicts(networks: dict[str, dict[str, torch.Tensor]]) -> dict[str, Verdict]:
    """What the probe says of them when it is told nothing."""
    config = codec.replace(Config(), {**NETWORK, "data_dir": ""})
    return {name: probe.verdict(tensors, config, probe.images_for(config)) for name, tensors in networks.items()}


@pytest.mark.parametrize("name", TRUTHS)
def test_what_is_predicted_is_found(name: str, verdicts: dict[str, Verdict]) -> None:
    """And nothing that is not so."""
    found = verdicts[name].found
    assert found["prediction"] == name
    truth = {"noise_schedule": "linear", "diffusion_steps": 1000, "rescale_timesteps": True, **TRUTHS[name]}
    assert {key: found[key] for key in truth if key in found}.items() <= truth.items()


def test_a_scale_of_timesteps_is_found(verdicts: dict[str, Verdict]) -> None:
    found = verdicts["eps"].found
    assert (found["diffusion_steps"], found["rescale_timesteps"]) == (4000, False)
    assert verdicts["eps"].score < 0.6  # a linear filter's error is 1


@pytest.mark.parametrize("name", TRUTHS)
def test_what_is_given_is_never_overruled(
    name: str,
    networks: dict[str, dict[str, torch.Tensor]],
    verdicts: dict[str, Verdict],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "verdict", lambda *_: verdicts[name])
    config, reported = asked(networks[name])
    assert config.diffusion.prediction == name
    assert "as it was given" not in reported
    config, reported = asked(networks[name], **{**TRUTHS[name], "prediction": name, "num_heads": 2})
    assert {key: getattr(config.diffusion, key) for key in TRUTHS[name]} == TRUTHS[name]
    assert config.model.num_heads == 2
    assert f"prediction {name} is used" not in reported
    wrong = {"prediction": "eps" if name == "x_start" else "x_start", "noise_schedule": "linear"}
    config, reported = asked(networks[name], **wrong)
    assert {key: getattr(config.diffusion, key) for key in wrong} == wrong
    assert f"prediction {wrong['prediction']} is used, as it was given" in reported


def test_a_network_that_knows_nothing_is_taken_for_the_usual_one() -> None:
    tensors = unet.build(ModelConfig(image_size=8, num_channels=32, num_res_blocks=1)).state_dict()
    config, reported = asked(tensors, noise_schedule="cosine")
    assert config.diffusion == codec.replace(Config(), {"noise_schedule": "cosine"}).diffusion
    assert "cannot tell what the network was trained on" in reported
    assert "finds" not in reported


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("look", ["plain", "nearly plain", "copies"])
@pytest.mark.parametrize("name", TRUTHS)
def test_images_that_tell_nothing_find_nothing(
    name: str, look: str, count: int, networks: dict[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """The filter makes no error on plain ones, and a few have no standard error."""
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pixels = {
        "plain": np.full((count, 8, 8, 3), 255, np.uint8),
        "nearly plain": rng.integers(254, 256, (count, 8, 8, 3), dtype=np.uint8),
        "copies": np.stack([one] * count),
    }[look]
    np.savez(tmp_path / "images.npz", pixels)
    config = codec.replace(Config(), {**NETWORK, "data_dir": str(tmp_path / "images.npz")})
    verdict = probe.verdict(networks[name], config, probe.images_for(config))
    assert (verdict.found, verdict.images) == ({}, count)


def test_a_network_that_is_not_a_number_is_asked_in_vain(networks: dict[str, dict[str, torch.Tensor]]) -> None:
    config = codec.replace(Config(), {**NETWORK, "data_dir": ""})
    for name, tensors in networks.items():
        broken = {key: t * float("nan") for key, t in tensors.items()}
        assert probe.verdict(broken, config, probe.images_for(config)).found == {}, name


@pytest.mark.parametrize(
    ("found", "T", "rescale", "against"),
    [
        ({"rescale_timesteps": True}, 1000, False, set()),
        ({"rescale_timesteps": True}, 4000, False, {"rescale_timesteps"}),
        ({"rescale_timesteps": True, "diffusion_steps": 1000}, 1000, False, set()),
        ({"rescale_timesteps": True, "diffusion_steps": 1000}, 4000, False, {"rescale_timesteps", "diffusion_steps"}),
        ({"rescale_timesteps": False, "diffusion_steps": 4000}, 1000, True, {"rescale_timesteps", "diffusion_steps"}),
        ({"rescale_timesteps": False, "diffusion_steps": 4000}, 4000, False, set()),
    ],
)
def test_both_scales_of_a_thousand_timesteps_are_one(
    found: dict[str, Any], T: int, rescale: bool, against: set[str]
) -> None:
    verdict = Verdict(found, 0.5, {("rescale_timesteps", False): 1.21}, 8, {})
    given = {"diffusion_steps": T, "rescale_timesteps": rescale}
    chosen = {name: getattr(Config().diffusion, name, None) for name in probe.NAMES} | given
    assert verdict.against(chosen, given).keys() == against
    reported = " ".join(probe.sentences(verdict, chosen, given))
    assert reported.count("as it was given") == len(against)


@pytest.mark.parametrize("given", [(), ("num_heads", "num_head_channels"), probe.NAMES])
def test_what_cannot_be_reported_is_said_of_what_was_given_too(given: tuple[str, ...]) -> None:
    config = codec.replace(Config(), {"noise_schedule": "cosine", "num_heads": 2})
    chosen = {n: getattr(config.model if hasattr(config.model, n) else config.diffusion, n) for n in probe.NAMES}
    found = {name: value for name, value in chosen.items() if name not in probe.ATTENTION}
    verdict = Verdict(found, 0.5, {}, 8, {"num_heads": [1, 2, 4], "noise_schedule": ["cosine", "linear"]})
    untold, tried = list(probe.sentences(verdict, chosen, {name: chosen[name] for name in given}))[1:]
    assert untold.startswith(f"It cannot tell {', '.join(probe.ATTENTION)}: ")
    assert ("used is num_heads 2, as set" in untold) == ("num_heads" in given)
    assert ("assumed is num_heads 2" in untold) == ("num_heads" not in given)
    assert ("assumed" in untold) == (set(given) != set(probe.NAMES))
    assert tried.startswith("Tried were num_heads 1, 2, 4,")
    nothing = next(probe.sentences(verdict._replace(found={}), chosen, {name: chosen[name] for name in given}))
    assert ("as set" in nothing, "assumed" in nothing) == (bool(given), set(given) != set(probe.NAMES))


def test_one_way_beats_another_where_it_is_better_everywhere_and_by_enough() -> None:
    rng = np.random.default_rng(0)
    errors = rng.normal(0, 1, (len(LEVELS), 32))
    small = rng.normal(0, 0.01, errors.shape)
    assert probe._beats(errors, errors + 0.1 + small, LEVELS, 0.05)
    assert not probe._beats(errors, errors + 0.04 + small, LEVELS, 0.05)  # too little
    assert not probe._beats(errors, errors + 0.1 + 100 * small, LEVELS, 0.05)  # too little for so few images
    mixed = np.where(np.arange(len(LEVELS)) == 2, -0.2, 0.3)[:, None]
    assert not probe._beats(errors, errors + mixed + small, LEVELS, 0.05)  # another one is better somewhere
    assert probe._beats(errors, errors + mixed + small, np.arange(len(LEVELS)) != 2, 0.05)


def test_only_settings_that_all_good_candidates_share_are_inferred() -> None:
    other, raw = Process("cosine", 1000, True), Process("linear", 4000, False)
    errors = {p: np.zeros((len(LEVELS), 2)) for p in (USUAL, other, raw)}
    assert probe._agreed_settings(errors, USUAL, {USUAL, other}) == {"rescale_timesteps": True}
    assert probe._agreed_settings(errors, USUAL, {USUAL, raw}) == {"noise_schedule": "linear"}
    assert probe._agreed_settings(errors, raw, {raw}) == {
        "noise_schedule": "linear",
        "rescale_timesteps": False,
        "diffusion_steps": 4000,
    }


def test_heads_that_differ_by_level_and_both_orders_are_tried() -> None:
    config = codec.replace(
        Config(), {**NETWORK, "image_size": 16, "channel_mult": "1,2", "attention_resolutions": "16,8"}
    )
    candidates = list(denoising_bench.heads_to_try(config))
    assert len(set(candidates)) == len(candidates)
    assert candidates[0] == Heads(4, -1, False)
    assert {Heads(1, -1, False), Heads(2, -1, True), Heads(4, 16, False), Heads(4, 16, True)} <= set(candidates)
    assert Heads(1, -1, True) not in candidates  # the same as without
    alike = codec.replace(config, {"channel_mult": "1,1"})
    assert not [heads for heads in denoising_bench.heads_to_try(alike) if heads.num_head_channels != -1]


@pytest.mark.parametrize(
    ("count", "reported"), [(6, set()), (15, set()), (16, {"diffusion_steps", "rescale_timesteps"})]
)
def test_T_of_a_step_back_is_reported_on_many_images_alone(
    count: int,
    reported: set[str],
    networks: dict[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    np.savez(tmp_path / "noise.npz", np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8))
    config = codec.replace(Config(), {**NETWORK, "data_dir": str(tmp_path / "noise.npz")})
    monkeypatch.setattr(probe, "_beats", lambda *_: True)  # as if the best were beyond doubt
    found = probe.verdict(networks["x_prev"], config, probe.images_for(config)).found
    assert found["prediction"] == "x_prev"
    assert {"noise_schedule", *reported} == found.keys() & {"noise_schedule", "diffusion_steps", "rescale_timesteps"}


def test_a_small_network_is_asked_with_every_T_however_few_the_images() -> None:
    config = codec.replace(Config(), NETWORK)
    pixels = datasets.open_dataset(DataConfig(data_dir="cifar10-mini", enlarge=True), config.model).images[:4]
    bench = denoising_bench.DenoisingBench({}, config, datasets.Dataset(pixels, None, (), ()), ())
    assert bench.steps == [1000, 4000, 250, 100, 50]
    assert len(bench.x_start) == 4


def test_large_networks_are_asked_in_the_usual_ways_alone() -> None:
    config = codec.replace(Config(), dict(image_size=64, num_channels=128, diffusion_steps=300))
    dataset = datasets.open_dataset(DataConfig(data_dir="cifar10-mini", enlarge=True), config.model)
    bench = denoising_bench.DenoisingBench({}, config, dataset, ())
    assert bench.steps == [300, 1000, 4000]
    assert len(bench.x_start) < denoising_bench.FEW
