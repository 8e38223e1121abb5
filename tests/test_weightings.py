"""What is predicted, and how its error is weighted: one error under three names, and the papers' weights of each."""

import numpy as np
import pytest
import torch
from raising import raises_error
from torch import Tensor

from ddpm import schedules, weightings
from ddpm.config import codec, reference_names
from ddpm.config.training import Config
from ddpm.diffusion import denoiser, process
from ddpm.diffusion.losses import Batch, training_losses

SHARED = ("eps", "x_start", "v")  # predictions between which x_t translates
FULL = schedules.named("cosine", 200)
ABAR = FULL.alphas_cumprod
SNR = ABAR / (1 - ABAR)
PUBLISHED = {  # weights as the papers write them, and alpha as it is meant
    ("min-snr", "x_start"): np.minimum(SNR, 5),
    ("min-snr", "eps"): np.minimum(SNR, 5) / SNR,
    ("min-snr", "v"): np.minimum(SNR, 5) / (SNR + 1),
    ("soft-min-snr", "x_start"): 5 * SNR / (5 + SNR),
    ("soft-min-snr", "eps"): 5 / (5 + SNR),
    ("p2", "eps"): 1 / (1 + SNR),
    ("alpha", "v"): np.sqrt(ABAR),
    ("alpha", "eps"): 1 / np.sqrt(ABAR),
}


@pytest.fixture(scope="module")
def batch() -> Batch:
    random = torch.Generator().manual_seed(0)
    shape = (40, 3, 4, 4)
    t = torch.arange(1, 200, 5)
    return Batch(torch.rand(shape, generator=random) * 2 - 1, t, torch.randn(shape, generator=random))


def settings(**values: object) -> Config:
    return codec.replace(Config(), {"diffusion_steps": 200, "noise_schedule": "cosine", **values})


def output_for(prediction: str, x_start: Tensor, batch: Batch) -> Tensor:
    """What a network says that takes `x_start` for the clean image."""
    x_t = process.q_sample(FULL, batch.x_start, batch.t, batch.noise)
    eps = process.eps_from_x_start(FULL, x_t, batch.t, x_start)
    return {"eps": eps, "x_start": x_start, "v": process.v_of(FULL, x_start, batch.t, eps)}[prediction]


@pytest.mark.parametrize(("name", "prediction"), PUBLISHED)
def test_the_weights_are_those_of_the_papers(name: str, prediction: str) -> None:
    np.testing.assert_allclose(weightings.weights(name, 0, prediction, ABAR), PUBLISHED[name, prediction], rtol=1e-12)


@pytest.mark.parametrize("name", weightings.WEIGHTINGS)
def test_a_weighting_says_the_same_of_every_prediction(name: str, batch: Batch) -> None:
    """The same wrong x_start costs the same, whatever the network is said to predict."""
    guess = batch.x_start + 0.1 * torch.randn(batch.x_start.shape, generator=torch.Generator().manual_seed(1))
    costs = []
    for prediction in SHARED:
        output = output_for(prediction, guess, batch)
        config = settings(prediction=prediction, loss_weighting=name)
        costs.append(training_losses(lambda *_, output=output: output, FULL, FULL, config, batch)["loss"])
    for cost in costs[1:]:
        torch.testing.assert_close(cost, costs[0], rtol=2e-4, atol=0)


def test_v_is_a_rotation_of_what_was_mixed(batch: Batch) -> None:
    """(x_t, v) has the length of (x_0, eps), and gives x_0 back at once where that of eps loses its digits."""
    x_t = process.q_sample(FULL, batch.x_start, batch.t, batch.noise)
    v = process.v_of(FULL, batch.x_start, batch.t, batch.noise)
    torch.testing.assert_close(x_t.square() + v.square(), batch.x_start.square() + batch.noise.square())
    for t in (batch.t, batch.t.double()):
        torch.testing.assert_close(process.x_start_from_v(FULL, x_t, t, v), batch.x_start, rtol=0, atol=1e-5)


def test_v_and_eps_sample_the_same_when_they_know_the_same(batch: Batch) -> None:
    x_t = process.q_sample(FULL, batch.x_start, batch.t, batch.noise)
    for prediction in SHARED:
        output = output_for(prediction, batch.x_start, batch)
        config = settings(prediction=prediction).diffusion
        predicted = denoiser.interpret_output(output, x_t, batch.t, FULL, config, clip=False)
        torch.testing.assert_close(predicted.x_start[:-4], batch.x_start[:-4], rtol=0, atol=2e-3)


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_the_squared_error_is_logged_as_it_is_and_none_is_the_plain_loss(batch: Batch, learn_sigma: bool) -> None:
    output = torch.zeros_like(batch.x_start).repeat(1, 1 + learn_sigma, 1, 1)
    found = {
        name: training_losses(
            lambda *_: output, FULL, FULL, settings(loss_weighting=name, learn_sigma=learn_sigma), batch
        )
        for name in ("none", "min-snr")
    }
    assert torch.equal(found["none"]["mse"], found["min-snr"]["mse"])
    weight = torch.from_numpy(weightings.weights("min-snr", 0, "eps", ABAR)).float()[batch.t]
    parts = found["min-snr"]
    rest = parts["vb"] if learn_sigma else 0
    torch.testing.assert_close(parts["loss"], weight * parts["mse"] + rest)
    torch.testing.assert_close(found["none"]["loss"], parts["mse"] + rest, rtol=0, atol=0)


def test_a_gamma_of_ones_own() -> None:
    np.testing.assert_allclose(weightings.weights("min-snr", 2, "x_start", ABAR), np.minimum(SNR, 2))
    assert [weightings.has_gamma(name) for name in ("p2", "alpha", "none")] == [True, False, False]


@pytest.mark.parametrize(
    ("given", "prediction"),
    [
        (dict(predict_xstart=True), "x_start"),
        (dict(predict_xprev=True, predict_xstart=False), "x_prev"),
        (dict(predict_xprev=False, predict_xstart=False), "eps"),
        (dict(predict_xstart=False, prediction="v"), "v"),
        (dict(predict_xstart=True, prediction="x_start"), "x_start"),
    ],
)
def test_the_switches_of_improved_diffusion_are_understood(given: dict[str, object], prediction: str) -> None:
    """In code, in flags and in the config.json of a run of before."""
    assert codec.replace(Config(), given).diffusion.prediction == prediction
    written = codec.to_json(Config())
    del written["diffusion"]["prediction"]
    written["diffusion"] |= given
    assert codec.from_json(written).diffusion.prediction == prediction
    if prediction in ("eps", "x_start", "x_prev"):
        assert reference_names.to_own(reference_names.switches(prediction)) == {"prediction": prediction}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (dict(predict_xstart=True, predict_xprev=True), "conflicting-settings"),
        (dict(predict_xstart=True, prediction="v"), "conflicting-settings"),
        (dict(predict_xstart="yes"), "bad-value"),
    ],
)
def test_switches_that_contradict_each_other(given: dict[str, object], code: str) -> None:
    with raises_error(code):
        codec.replace(Config(), given)
    with raises_error(code):
        codec.from_json({"format": codec.FORMAT, "diffusion": given})
