"""Classifier-free guidance: its algebra on a network whose outputs are known, and that training hides classes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raising import raises_error
from torch import Tensor

from ddpm import schedules
from ddpm.checkpoints import identify, infer_config, loading
from ddpm.checkpoints.checkpoint_files import load_weights
from ddpm.config import codec, validation
from ddpm.config.model import PREDICTIONS, DiffusionConfig
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config, unused
from ddpm.data import datasets
from ddpm.data.datasets import Dataset
from ddpm.diffusion import denoiser, process
from ddpm.interop import export_openai
from ddpm.models import unet
from ddpm.planning import guidance, metadata
from ddpm.planning.guidance import Guidance
from ddpm.runs import runs
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.sampling.engine import sample, sample_batch, sample_images
from ddpm.sampling.request import resolve_request
from ddpm.training import warm_start
from ddpm.training.loop import TrainingLoop
from ddpm.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

FULL = schedules.named("cosine", 20)
NULL = 3
OUTPUTS = torch.tensor([0.5, -0.25, 0.125, 0.0625])  # of the labels 0, 1, 2 and none
VARIANCES = torch.tensor([0.1, 0.2, 0.3, -0.9])


class Fake:
    """A network whose output says which label it was told; it remembers its calls."""

    def __init__(self, learn_sigma: bool = False):
        self.learn_sigma = learn_sigma
        self.calls: list[dict[str, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        self.calls.append({"x": x, "t": t, **condition})
        mean = OUTPUTS[condition["y"]].reshape(-1, 1, 1, 1).expand_as(x)
        v = VARIANCES[condition["y"]].reshape(-1, 1, 1, 1).expand_as(x)
        return torch.cat([mean, v], dim=1) if self.learn_sigma else mean


Y = torch.tensor([0, 2])
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def asked(
    network: Fake, scale: float, t: float = 10, low: int = 0, high: int = 19, **settings: Any
) -> denoiser.Prediction:
    """What a guided denoiser says about X at timestep t."""
    config = DiffusionConfig(diffusion_steps=20, noise_schedule="cosine", **settings)
    wanted = Guidance(scale, low, high, NULL)
    denoise = denoiser.make_denoiser(network, FULL, config, {"y": Y}, clip=False, guidance=wanted)
    kind = torch.int64 if t == int(t) else torch.float64
    return denoise(X, torch.full((2,), t, dtype=kind))


def as_images(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1).expand_as(X)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 7.5])
@pytest.mark.parametrize("predicted", PREDICTIONS)
def test_what_is_predicted_moves_from_no_class_to_the_class_and_beyond(predicted: str, scale: float) -> None:
    mean = as_images(OUTPUTS[NULL] + scale * (OUTPUTS[Y] - OUTPUTS[NULL]))
    t = torch.full((2,), 10)
    match predicted:
        case "eps":
            expected = process.x_start_from_eps(FULL, X, t, mean)
        case "x_start":
            expected = mean
        case "v":
            abar = FULL.alphas_cumprod[10]
            expected = abar**0.5 * X - (1 - abar) ** 0.5 * mean
        case _:
            a, b = FULL.posterior_mean_coef1[10], FULL.posterior_mean_coef2[10]
            expected = (mean - b * X) / a
    torch.testing.assert_close(
        asked(Fake(), scale, prediction=predicted).x_start, expected.float(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_learned_variance_is_that_of_the_class(scale: float) -> None:
    predicted = asked(Fake(learn_sigma=True), scale)
    assert predicted.v is not None
    assert torch.equal(predicted.v, as_images(VARIANCES[Y]))
    mean = as_images(OUTPUTS[NULL] + scale * (OUTPUTS[Y] - OUTPUTS[NULL]))
    expected = process.x_start_from_eps(FULL, X, torch.full((2,), 10), mean)
    torch.testing.assert_close(predicted.x_start, expected)


def test_it_is_guided_before_it_is_clipped() -> None:
    """Clipped first, the two would be 0.5 and 0.0625 as they are; guided first, 6.6 and 0.7 become 1 and 0.7."""
    config = DiffusionConfig(diffusion_steps=20, prediction="x_start")
    guided = Guidance(15.0, 0, 19, NULL)
    found = denoiser.make_denoiser(Fake(), FULL, config, {"y": Y}, guidance=guided)(X, torch.full((2,), 10)).x_start
    assert torch.equal(found, as_images(torch.tensor([1.0, 0.0625 + 15 * 0.0625])))


def test_both_branches_go_through_the_network_at_once() -> None:
    network = Fake()
    asked(network, 2.0)
    (call,) = network.calls
    assert torch.equal(call["x"], torch.cat([X, X]))
    assert call["y"].tolist() == [0, 2, NULL, NULL]
    assert torch.equal(call["t"], torch.full((4,), 500.0))  # 10 of 20, as of 1000


@pytest.mark.parametrize(
    ("scale", "t", "labels"),
    [
        (2.0, 5, [0, 2, 3, 3]),
        (2.0, 12, [0, 2, 3, 3]),
        (2.0, 5.25, [0, 2, 3, 3]),  # within 5-12
        (2.0, 12 + 1e-9, [0, 2, 3, 3]),
        (2.0, 5 - 1e-9, [0, 2, 3, 3]),  # but for rounding
        (2.0, 4, [0, 2]),
        (2.0, 13, [0, 2]),
        (2.0, 4.75, [0, 2]),
        (2.0, 12.01, [0, 2]),
        (1.0, 8, [0, 2]),
        (0.0, 8, [3, 3]),
        (0.0, 4, [0, 2]),
    ],
)
def test_only_what_is_needed_is_asked(scale: float, t: float, labels: list[int]) -> None:
    network = Fake()
    asked(network, scale, t, low=5, high=12)
    assert [call["y"].tolist() for call in network.calls] == [labels]


def test_outside_the_interval_the_model_is_asked_as_it_is() -> None:
    plain = asked(Fake(), 1.0)
    assert torch.equal(asked(Fake(), 4.0, t=10, low=11).x_start, plain.x_start)
    assert not torch.equal(asked(Fake(), 4.0, t=10, low=10).x_start, plain.x_start)


def test_small_images_are_doubled_too() -> None:
    network, small = Fake(), torch.rand(2, 3, 2, 2)
    reported = {"y": Y, "low_res": small}
    wanted = Guidance(3.0, 0, 19, NULL)
    denoiser.make_denoiser(network, FULL, DiffusionConfig(diffusion_steps=20), reported, guidance=wanted)(
        X, torch.tensor([7, 7])
    )
    assert torch.equal(network.calls[0]["low_res"], torch.cat([small, small]))


@pytest.fixture
def config(tiny: Config) -> Config:
    """A model with three classes that are hidden now and then."""
    return codec.replace(tiny, dict(class_cond=True, num_classes=3, cond_drop_prob=0.1, class_names=("a", "b", "c")))


def test_the_settings_say_how(config: Config) -> None:
    assert guidance.resolve_guidance(config, SampleConfig(guidance_scale=1.0)) is None
    assert guidance.resolve_guidance(config, SampleConfig(guidance_scale=1.0, guidance_interval="3-9")) is None
    assert guidance.resolve_guidance(config, SampleConfig(guidance_scale=2.5)) == Guidance(2.5, 0, 19, 3)
    assert guidance.resolve_guidance(config, SampleConfig(guidance_scale=0.0, guidance_interval=" 3 - 9 ")) == Guidance(
        0.0, 3, 9, 3
    )
    assert guidance.resolve_guidance(config, SampleConfig(guidance_scale=2.0, guidance_interval="19-19")) == Guidance(
        2.0, 19, 19, 3
    )


def test_without_a_scale_there_is_guidance_where_it_was_trained_for(config: Config) -> None:
    assert guidance.resolve_guidance(config, SampleConfig()) == Guidance(guidance.USUAL, 0, 19, 3)
    assert guidance.resolve_guidance(config, SampleConfig(task="invert")) is None, "it goes back without"
    assert (guidance.passes(config.model, SampleConfig()), guidance.passes(config.model, SampleConfig(steps=2))) == (
        2,
        2,
    )
    never_hidden = codec.replace(config, {"cond_drop_prob": 0.0})
    for other in (never_hidden, codec.replace(never_hidden, {"class_cond": False})):
        assert guidance.resolve_guidance(other, SampleConfig()) is None
        assert guidance.passes(other.model, SampleConfig()) == 1
        assert resolve_request(other, SampleConfig(num_samples=1, steps=2)).request.guidance_scale is None
    assert resolve_request(config, SampleConfig(num_samples=1, steps=2)).request.guidance_scale == guidance.USUAL
    recorded = {"sample": {"num_samples": 1}}  # before there was guidance, or where it was left at 1
    assert metadata.sample_of(recorded, "an image").guidance_scale == 1.0


@pytest.mark.parametrize(
    ("model", "wanted", "error"),
    [
        (dict(class_cond=False), dict(guidance_scale=2.0), ("not-applicable", "guidance_scale", 2)),
        (
            dict(cond_drop_prob=0.0),
            dict(guidance_scale=0.5),
            ("not-applicable", "guidance_scale", "0.5", "--cond_drop_prob 0.1"),
        ),
        ({}, dict(guidance_interval="5"), ("bad-value", "guidance_interval '5'", "0-19")),
        ({}, dict(guidance_interval="-5-9"), ("bad-value", "guidance_interval '-5-9'")),
        ({}, dict(guidance_interval="a-b", guidance_scale=2.0), ("bad-value", "guidance_interval 'a-b'")),
        ({}, dict(guidance_interval="9-5", guidance_scale=2.0), ("bad-range", "guidance_interval 9-5", "5-9")),
        (
            {},
            dict(guidance_interval="5-20", guidance_scale=2.0),
            ("out-of-range", "guidance_interval 5-20", 0, 19),
        ),
    ],
)
def test_what_cannot_be_guided_says_why(config: Config, model: dict, wanted: dict, error: tuple[Any, ...]) -> None:
    with raises_error(*error):
        guidance.resolve_guidance(codec.replace(config, model), SampleConfig(**wanted))


def test_sampling_asks_for_guidance_where_it_is_wanted(config: Config) -> None:
    wanted = SampleConfig(
        num_samples=2,
        sampler="ddim",
        steps=20,
        spacing="uniform",
        guidance_scale=2.0,
        guidance_interval="5-9",
        precision="fp32",
    )
    network = Fake()
    list(sample_batch(network, resolve_request(config, wanted), range(2), {"y": Y}))
    assert [len(call["x"]) for call in network.calls] == [2] * 10 + [4] * 5 + [2] * 5
    with raises_error("not-applicable", "guidance_scale", 2):
        resolve_request(codec.replace(config, dict(cond_drop_prob=0.0)), wanted)


def test_a_batch_never_changes_a_guided_image(config: Config) -> None:
    torch.manual_seed(0)
    network = unet.build(config.model).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    wanted = SampleConfig(num_samples=3, steps=3, guidance_scale=3.0, precision="fp32")
    sizes = (dataclasses.replace(wanted, batch_size=size) for size in (3, 1))
    one, other = (
        torch.cat([d.step.x for d in sample(network, resolve_request(config, size)) if d.finished]) for size in sizes
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# Training


@pytest.fixture
def shapes(tiny: Config) -> Dataset:
    return datasets.open_dataset(tiny.data, tiny.model)


def hiding(config: Config, **settings: Any) -> Config:
    return datasets.resolve(codec.replace(config, dict(class_cond=True, **settings)))


def test_the_last_row_of_the_labels_is_none(tiny: Config) -> None:
    from ddpm.planning.architecture import parameters

    plain, hidden = hiding(tiny).model, hiding(tiny, cond_drop_prob=0.1).model
    assert hidden.num_classes == plain.num_classes == 8
    network = unet.build(hidden)
    assert network.label_emb.weight.shape == (9, 128)
    assert parameters(hidden) == parameters(plain) + 128 == sum(p.numel() for p in network.parameters())
    assert "label_emb.weight" not in unet.build(codec.replace(tiny, dict(cond_drop_prob=0.1)).model).state_dict()


def test_as_many_classes_are_hidden_as_asked_for(tiny: Config, shapes: Dataset) -> None:
    hidden, plain = (Trainer(hiding(tiny, batch_size=250, cond_drop_prob=p), shapes) for p in (0.3, 0.0))
    found = []
    for _ in range(40):
        batch, whole = hidden.next_batch(), plain.next_batch()
        assert batch.y is not None
        assert whole.y is not None
        gone = batch.y == 8
        assert torch.equal(batch.y[~gone], whole.y[~gone]), "the others keep their class"
        found.append(gone)
    count = torch.cat(found).double()
    assert abs(float(count.mean()) - 0.3) < 4 * (0.3 * 0.7 / len(count)) ** 0.5
    by_place = torch.stack(found).double().mean(dim=0)
    assert 0 < float(by_place.min()) < float(by_place.max()) < 1, "every place in the batch is hidden now and then"


def test_nothing_else_is_sampled_where_no_class_is_hidden(tiny: Config, shapes: Dataset) -> None:
    """Noise and timesteps of the first step are those of a training that hides nothing."""
    one, other = (Trainer(hiding(tiny, cond_drop_prob=p), shapes).next_batch() for p in (0.0, 0.5))
    assert torch.equal(one.noise, other.noise)
    assert torch.equal(one.t, other.t)
    trainer = Trainer(hiding(tiny), shapes)
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        trainer.next_batch()
        torch.randint(0, 20, (4,), generator=rng), torch.randn(4, 3, 8, 8, generator=rng)
    assert torch.equal(trainer.rng.get_state(), rng.get_state())


@pytest.mark.slow
def test_resuming_hides_the_same_classes(tiny: Config, shapes: Dataset) -> None:
    config = hiding(tiny, cond_drop_prob=0.5, dropout=0.2, batch_size=6, microbatch=4)
    straight = Trainer(config, shapes)
    list(straight.steps(8))
    first = Trainer(config, shapes)
    list(first.steps(4))
    saved = (
        {k: {n: t.clone() for n, t in w.items()} for k, w in first.weights().items()},
        first.optimizer.state_dict(),
        first.state(),
    )
    second = Trainer(config, shapes)
    second.load(*saved)
    list(second.steps(8))
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert torch.equal(straight.next_batch().y, second.next_batch().y)  # type: ignore[arg-type]


@pytest.mark.parametrize("microbatch", [1, 4])
def test_microbatches_hide_the_same_classes(tiny: Config, shapes: Dataset, microbatch: int) -> None:
    whole, split = (
        Trainer(hiding(tiny, cond_drop_prob=0.5, batch_size=6, microbatch=m), shapes) for m in (-1, microbatch)
    )
    one, other = whole.next_batch(), split.next_batch()
    assert one.y is not None
    assert other.y is not None
    assert one.y.tolist() == other.y.tolist()
    assert 8 in one.y.tolist()
    assert split.update(other).grad_norm == pytest.approx(whole.update(one).grad_norm, rel=1e-5)


def test_processes_hide_what_one_would(tiny: Config, shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddpm.compute import distributed

    config = hiding(tiny, cond_drop_prob=0.5, batch_size=6)
    together = Trainer(config, shapes).next_batch().y
    parts = []
    for rank in (0, 1):
        trainer = Trainer(codec.replace(config, dict(batch_size=3)), shapes)
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "world_size", lambda: 2)
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            parts.append(trainer.next_batch().y)
    assert torch.equal(torch.cat(parts), together)  # type: ignore[arg-type]


def test_hiding_every_class_is_refused(tiny: Config) -> None:
    def found(**settings: Any) -> list[str]:
        return [p.sentence for p in validation.problems(codec.replace(tiny, settings)) if p.name == "cond_drop_prob"]

    assert found(class_cond=True, cond_drop_prob=1.0) == [
        "cond_drop_prob is 1, so every class label would be dropped: use 0.1, or set class_cond to False."
    ]
    assert not found(class_cond=True, cond_drop_prob=0.99)
    assert not found(cond_drop_prob=1.0)
    assert "cond_drop_prob" in unused(tiny)
    assert "cond_drop_prob" not in unused(codec.replace(tiny, dict(class_cond=True)))


@pytest.mark.slow
def test_guidance_goes_further_towards_the_class(tiny: Config) -> None:
    """Two classes of noisy greys, dark and light, that overlap: guided, the dark get darker and the light lighter."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    greys = rng.normal(np.where(labels, 148, 108), 40).clip(0, 255).astype(np.uint8)
    pixels = np.broadcast_to(greys[:, None, None, None], (400, 4, 4, 3)).copy()
    dataset = Dataset(pixels, labels.astype(np.int64), ("dark", "light"), ())
    config = codec.replace(
        tiny,
        dict(
            image_size=4,
            class_cond=True,
            num_classes=2,
            class_names=("dark", "light"),
            cond_drop_prob=0.2,
            prediction="x_start",
            batch_size=32,
            lr=3e-3,
            ema_rate="0.99",
        ),
    )
    trainer = Trainer(config, dataset)
    list(trainer.steps(150))
    network = trainer.network()
    apart = {}
    for scale in (0.0, 1.0, 3.0):
        wanted = SampleConfig(
            num_samples=64, batch_size=64, sampler="ddim", steps=10, guidance_scale=scale, precision="fp32"
        )
        *_, last = sample(network, resolve_request(config, wanted))
        found = last.step.x.mean(dim=(1, 2, 3))
        apart[scale] = float(found[1::2].mean() - found[0::2].mean())
    assert 0.15 < apart[1.0] < 0.6  # 40 of 127.5 shades are 0.31
    assert abs(apart[0.0]) < 0.1
    assert apart[3.0] > apart[1.0] + 0.15


# Files


@pytest.fixture
def hidden_run(tiny: Config, runs_dir: Path) -> Run:
    """A run of four steps with eight classes and a label for none."""
    run = runs.create_run(
        runs_dir, "hides", codec.resolved(hiding(tiny, total_steps=4, cond_drop_prob=0.5, batch_size=16))
    )
    with Worker(run.folder, 4) as worker:
        list(TrainingLoop(run, worker).train())
    return run


def embedding(path: Path) -> Tensor:
    return load_weights(path).tensors["label_emb.weight"]


def test_our_files_say_that_classes_were_hidden(hidden_run: Run) -> None:
    path = hidden_run.checkpoint().path("model")
    weights = load_weights(path)
    assert weights.config == hidden_run.config
    assert guidance.resolve_guidance(weights.config, SampleConfig(guidance_scale=2.0)) == Guidance(2.0, 0, 19, 8)
    wanted = SampleConfig(num_samples=2, steps=2, guidance_scale=2.0)
    network = loading.open_model(path, wanted).network()
    found = sample_images(network, resolve_request(weights.config, wanted))
    assert found.shape == (2, 8, 8, 3)


def test_the_label_for_no_class_goes_to_improved_diffusion_and_back(hidden_run: Run, tmp_path: Path) -> None:
    """It has 1,000 labels: the last of them is that for no class, in weights, averages and the optimiser."""
    back = tmp_path / "back"
    reported = " ".join(export_openai.export_checkpoint(hidden_run, back))
    assert "those from 8 to 998 are zeros" in reported
    assert "Label 999, the last, stands for no class" in reported
    for kind, name in (("model", "model000004.pt"), ("ema_0.9", "ema_0.9_000004.pt")):
        ours, theirs = embedding(hidden_run.checkpoint().path(kind)), embedding(back / name)
        assert theirs.shape == (1000, 128)
        assert torch.equal(theirs[:8], ours[:8])
        assert torch.equal(theirs[999], ours[8])
        assert not theirs[8:999].any()
    state = torch.load(back / "opt000004.pt", weights_only=True)["state"]
    moments = state[list(load_weights(back / "model000004.pt").tensors).index("label_emb.weight")]["exp_avg_sq"]
    assert moments[999].any()
    assert not moments[8:999].any()

    path = back / "model000004.pt"
    flags = dict(image_size=8, num_heads=1, noise_schedule="cosine", diffusion_steps=20)
    again = identify.identify(load_weights(path).tensors, {**flags, "cond_drop_prob": 0.1}, path, run_probe=False)
    assert (again.config.model.num_classes, again.config.model.label_slots) == (999, 1000)
    assert again.labels
    assert set(again.labels) <= set(range(8))
    assert any("Its last label, 999, stands for no class" in sentence for sentence in again.notes)
    network = loading.build_network(load_weights(path).tensors, again.config, "x")
    ours = loading.open_model(hidden_run.checkpoint().path("model"), SampleConfig()).network()
    wanted = SampleConfig(num_samples=1, steps=2, classes="1", guidance_scale=3.0, precision="fp32")
    assert np.array_equal(
        sample_images(network, resolve_request(again.config, wanted)),
        sample_images(ours, resolve_request(hidden_run.config, wanted)),
    )

    plain = identify.identify(load_weights(path).tensors, flags, path, run_probe=False)
    assert plain.config.model.num_classes == 1000
    with raises_error("not-applicable"):
        guidance.resolve_guidance(plain.config, wanted)


def test_more_labels_than_improved_diffusion_has_are_refused(
    fake_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake_run("many", class_cond=True, num_classes=1000, cond_drop_prob=0.1)
    monkeypatch.setattr(export_openai.checkpoint_files, "damage", lambda _: "")
    with raises_error("not-exportable", "many", "1,000"):
        export_openai.export_checkpoint(run, tmp_path / "back")


def test_a_network_that_predicts_v_is_refused(fake_run: Callable[..., Run], tmp_path: Path) -> None:
    with raises_error("not-exportable", "predicts v"):
        export_openai.export_checkpoint(fake_run("rotated", prediction="v"), tmp_path / "back")


def test_shapes_tell_the_classes_when_it_is_said_that_some_were_hidden(tiny: Config) -> None:
    model = hiding(tiny, cond_drop_prob=0.3).model
    shapes_of = {name: tuple(t.shape) for name, t in unet.build(model).state_dict().items()}
    assert infer_config.model_settings(shapes_of, "x", 8)["num_classes"] == 9
    assert infer_config.model_settings(shapes_of, "x", 8, hidden=True)["num_classes"] == 8
    assert infer_config.fitting_flags(shapes_of, model) == []
    plain = dataclasses.replace(model, cond_drop_prob=0.0)
    assert infer_config.fitting_flags(shapes_of, plain) == ["--cond_drop_prob", "0.1"]
    assert infer_config.fitting_flags(shapes_of, dataclasses.replace(plain, num_classes=9)) == []
    assert infer_config.fitting_flags(shapes_of, dataclasses.replace(model, num_classes=9)) == [
        "--cond_drop_prob",
        "0.0",
    ]
    assert infer_config.fitting_flags(shapes_of, dataclasses.replace(model, num_classes=5)) == ["--num_classes", "8"]


def test_a_single_label_is_no_class_beside_none(tiny: Config, tmp_path: Path) -> None:
    network = unet.build(codec.replace(tiny, dict(class_cond=True, num_classes=1)).model)
    with raises_error("conflicting-settings", "cond_drop_prob", "0.1", "m.pt"):
        identify.identify(
            network.state_dict(),
            dict(image_size=8, num_heads=1, cond_drop_prob=0.1),
            tmp_path / "m.pt",
            run_probe=False,
        )


def test_a_training_begins_from_a_file_that_hides_classes_as_it_does(hidden_run: Run) -> None:
    path = hidden_run.checkpoint().path("model")
    wanted = codec.replace(hidden_run.config, dict(num_classes=0, resume_checkpoint=str(path), total_steps=6))
    begun = warm_start.check_start(datasets.resolve(codec.replace(wanted, dict(cond_drop_prob=0.2))))
    assert (begun.model.num_classes, begun.model.label_slots) == (8, 9)
    with raises_error("wrong-flags", "cond_drop_prob 0.0", "--cond_drop_prob 0.5"):
        warm_start.check_start(datasets.resolve(codec.replace(wanted, dict(cond_drop_prob=0.0))))


def test_a_plain_file_has_to_have_a_label_to_spare(tiny: Config, runs_dir: Path) -> None:
    """One more than the data has classes becomes the label for none; of as many, none can."""
    for spare in (0, 1):
        run = runs.create_run(
            runs_dir, f"plain{spare}", codec.resolved(hiding(tiny, total_steps=1, num_classes=8 + spare))
        )
        with Worker(run.folder, 1) as worker:
            list(TrainingLoop(run, worker).train())
        path = run.checkpoint().path("model")
        wanted = hiding(tiny, cond_drop_prob=0.1, total_steps=4, resume_checkpoint=str(path))
        if spare:
            begun = warm_start.check_start(wanted)
            assert begun.model.num_classes == 8
            reported = " ".join(warm_start.start_from(path, begun).notes)
            assert "Its last label, 8, stands for no class from now on" in reported
        else:
            with raises_error("wrong-weights", "--cond_drop_prob 0.0"):
                warm_start.check_start(wanted)
