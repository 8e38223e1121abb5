"""Super-resolution: small images in, large ones out, from training to the command line."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from raising import raises_error
from torch import Tensor

from ddpm import schedules
from ddpm.bench.step_cost import measure_into
from ddpm.cli import main
from ddpm.config import codec, validation
from ddpm.config.codec import SECTIONS
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.diffusion import denoiser, process
from ddpm.models.unet import SuperResUNet, build
from ddpm.planning import low_res
from ddpm.planning.resolve import resolve_labels
from ddpm.planning.source_images import SourceImages
from ddpm.runs import runs
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Stopped, Worker
from ddpm.sampling import engine
from ddpm.sampling import job as sampling_job
from ddpm.sampling.request import resolve_request
from ddpm.storage import files, images
from ddpm.training.loop import TrainingLoop
from ddpm.training.trainer import Trainer

SMALL = 3


@pytest.fixture
def config(tiny: Config) -> Config:
    """From 3 to 8 pixels, a ratio that is no whole number, with classes."""
    changes = dict(
        small_size=SMALL, class_cond=True, total_steps=4, save_interval=2, sample_interval=2, preview_samples=3
    )
    return datasets.resolve(codec.replace(tiny, changes))


@pytest.fixture
def network(config: Config) -> SuperResUNet:
    """Weights at random everywhere, so that the small image matters."""
    torch.manual_seed(0)
    network = build(config.model).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    assert isinstance(network, SuperResUNet)
    return network


def noisy(count: int = 3, side: int = SMALL) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def npz(path: Path, *arrays: np.ndarray, **named: np.ndarray) -> str:
    """A file as the reference's image_sample writes it."""
    packed = io.BytesIO()
    np.savez(packed, *arrays, **named)
    files.write_bytes(path, packed.getvalue())
    return str(path)


# --- small images


@pytest.mark.parametrize(("side", "small"), [(8, 3), (64, 16), (7, 5), (9, 9), (5, 1)])
def test_made_small_as_training_does_it(side: int, small: int) -> None:
    pixels = noisy(2, side)
    expected = F.interpolate(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), (small, small), mode="area")
    difference = images.shrunk(pixels, small) - expected.permute(0, 2, 3, 1).numpy()
    assert np.abs(difference).max() <= 0.5 + 1e-4


def test_pairs_show_each_small_image_beside_its_result() -> None:
    small, large = noisy(3, 3), noisy(3, 8)
    shown = images.pairs(small, large)
    assert shown.shape == (8 * 2 + 2, 16 * 2 + 2, 3)  # two columns
    assert (shown[:8, 18 + 8 : 18 + 16] == large[1]).all()
    enlarged = shown[:8, 18 : 18 + 8]
    assert (enlarged[0, 0] == small[1, 0, 0]).all()
    assert (enlarged[-1, -1] == small[1, -1, -1]).all()
    assert {tuple(p) for p in enlarged.reshape(-1, 3)} == {tuple(p) for p in small[1].reshape(-1, 3)}


def test_an_npz_of_the_reference(config: Config, tmp_path: Path) -> None:
    pixels = noisy(3)
    base = npz(tmp_path / "samples_3x3x3x3.npz", pixels, np.array([5, 0, 7]))
    small = low_res.read(config, SampleConfig(num_samples=100, base_samples=base))
    assert small is not None
    assert (small.pixels == pixels).all()
    assert (small.cycle(2, 5) == pixels[[2, 0, 1]]).all()  # in turn
    labels = resolve_labels(config, SampleConfig(num_samples=5), small)
    assert labels is not None
    assert labels.tolist() == [5, 0, 7, 5, 0]
    asked = SampleConfig(num_samples=5, base_samples=base, classes="star")
    labels = resolve_labels(config, asked, low_res.read(config, asked))
    assert labels is not None
    assert set(labels.tolist()) == {config.class_names.index("star")}


def test_no_more_is_read_than_is_sampled(config: Config) -> None:
    seen: list[tuple[int, int]] = []
    small = low_res.read(config, SampleConfig(num_samples=4, base_samples="shapes"), lambda *done: seen.append(done))
    assert small is not None
    assert len(small.pixels) == 4
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_names_in_the_file_say_the_class(config: Config, tmp_path: Path) -> None:
    names = np.array(["star", "circle"])
    base = npz(tmp_path / "named.npz", images=noisy(2), labels=np.array([0, 1]), class_names=names)
    small = low_res.read(config, SampleConfig(base_samples=base))
    assert small is not None
    assert small.labels is not None
    assert [config.class_names[k] for k in small.labels] == ["star", "circle"]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_folder_of_pngs(config: Config, tmp_path: Path, mode: str) -> None:
    for k in range(2):
        Image.new("RGB", (SMALL, SMALL), (k * 50, 0, 0)).convert(mode).save(tmp_path / f"{k}.png")
    small = low_res.read(config, SampleConfig(base_samples=str(tmp_path)))
    assert small is not None
    assert small.pixels.shape == (2, SMALL, SMALL, 3)
    assert small.labels is None


def test_the_models_own_data_and_data_by_name(config: Config) -> None:
    dataset = datasets.open_dataset(config.data, config.model)
    expected = images.shrunk(dataset.images[:5], SMALL)
    for base in ("data", "shapes"):
        small = low_res.read(config, SampleConfig(num_samples=5, base_samples=base))
        assert small is not None
        assert small.labels is not None
        assert dataset.labels is not None
        assert (small.pixels == expected).all()
        assert (small.labels == dataset.labels[:5]).all()
    unlabelled = codec.replace(config, dict(class_cond=False, num_classes=0))
    small = low_res.read(unlabelled, SampleConfig(num_samples=5, base_samples="cifar10-mini"))
    assert small is not None
    assert small.labels is None


# --- sampling


def test_one_step_is_the_network_asked_once(config: Config, network: SuperResUNet) -> None:
    small = SourceImages(noisy(2), np.array([1, 4]))
    settings = SampleConfig(num_samples=2, use_ddim=True, timestep_respacing="1", seed=3)
    sampled = engine.sample_images(network, resolve_request(config, settings, images=small))
    noise = torch.stack([torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3 + k)) for k in range(2)])
    full = schedules.named("cosine", 20)
    t = torch.full((2,), 19)
    with torch.no_grad():
        scale = denoiser.network_time(config.diffusion, full.T, t)
        eps = network(noise, scale, y=torch.tensor([1, 4]), low_res=torch.from_numpy(images.to_float(small.pixels)))
    expected = process.x_start_from_eps(full, noise, t, eps).clamp(-1, 1)
    assert (sampled == images.to_uint8(expected.numpy())).all()
    other = engine.sample_images(
        network, resolve_request(config, settings, images=SourceImages(255 - small.pixels, small.labels))
    )
    assert (sampled != other).any()


@pytest.mark.parametrize("ddim", [True, False])
def test_image_k_does_not_depend_on_the_batch(config: Config, network: SuperResUNet, ddim: bool) -> None:
    def sampled(batch: int, count: int = 5) -> np.ndarray:
        settings = SampleConfig(num_samples=count, batch_size=batch, use_ddim=ddim, timestep_respacing="3")
        return engine.sample_images(network, resolve_request(config, settings, images=SourceImages(noisy(2))))

    assert np.abs(sampled(1).astype(int) - sampled(5)).max() <= 1
    assert np.abs(sampled(2).astype(int) - sampled(5)).max() <= 1


def test_ddim_and_the_number_of_steps_are_honoured(config: Config, network: SuperResUNet) -> None:
    asked: list[float] = []

    def counted(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        asked.append(float(t[0]))
        return network(x, t, **condition)

    small = SourceImages(noisy(2))
    one, other = (
        engine.sample_images(
            counted,
            resolve_request(config, SampleConfig(num_samples=2, use_ddim=ddim, timestep_respacing="5"), images=small),
        )
        for ddim in (True, False)
    )
    assert len(asked) == 5 + 5
    assert asked[:5] == asked[5:]
    assert (one != other).any()


# --- what is wrong is told in one sentence


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda at: "", ("missing-value", "3 x 3", "base_samples")),
        (lambda at: npz(at / "a.npz", noisy(2, 4)), ("wrong-size", "4 x 4", "3 x 3")),
        (
            lambda at: png(at / "p" / "1.png", (3, 3)) and png(at / "p" / "2.png", (5, 3)),
            ("wrong-size", "5 x 3", "3 x 3"),
        ),
        (lambda at: str(at / "nowhere.npz"), ("not-found", "nowhere.npz")),
        (lambda at: npz(at / "a.npz", noisy(2), np.array([0, 8])), ("unknown-class", 8, 0, 7)),
        (lambda at: npz(at / "a.npz", noisy(2), np.array([-1, 1])), ("unknown-class", -1)),
        (lambda at: "cifar10-mini", ("unknown-class", "'airplane'")),
    ],
)
def test_unfit_small_images(
    config: Config, tmp_path: Path, make: Callable[[Path], str], error: tuple[Any, ...]
) -> None:
    with raises_error(*error):
        low_res.read(config, SampleConfig(num_samples=4, base_samples=make(tmp_path)))


def png(path: Path, size: tuple[int, int]) -> str:
    files.write_bytes(path, images.encode_png(np.zeros((size[1], size[0], 3), np.uint8)))
    return str(path.parent)


def test_a_model_that_samples_from_noise_alone_wants_none(tiny: Config) -> None:
    assert low_res.read(tiny, SampleConfig()) is None
    with raises_error("not-applicable"):
        low_res.read(tiny, SampleConfig(base_samples="shapes"))


def test_a_model_that_does_not_know_its_data(config: Config) -> None:
    with raises_error("no-data-named"):
        low_res.read(codec.replace(config, {"data_dir": ""}), SampleConfig(base_samples="data"))


def test_a_small_size_that_is_none(config: Config) -> None:
    with raises_error("bad-value"):
        validation.check(codec.replace(config, {"small_size": 8}))


# --- training


def train(folder: Path, config: Config, until: int = 0) -> Run:
    run = runs.create_run(folder, "mine", config) if not (folder / "mine").exists() else Run(folder / "mine")
    with Worker(run.folder, config.train.total_steps) as worker:
        for report in TrainingLoop(run, worker).train():
            if report.step == until:
                run.request("stop")
    return run


@pytest.mark.slow
def test_a_run_trains_previews_and_resumes_to_the_last_bit(config: Config, tmp_path: Path) -> None:
    straight = train(tmp_path / "a", config)
    train(tmp_path / "b", config, until=2)
    resumed = train(tmp_path / "b", config)
    assert [step for step, _ in straight.previews()] == [2, 4]
    for kind in ("model", "ema_0.9"):
        one, other = (torch.load(r.checkpoint(4).path(kind), weights_only=True) for r in (straight, resumed))
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert straight.previews()[-1][1].read_bytes() == resumed.previews()[-1][1].read_bytes()
    shown = np.asarray(Image.open(straight.previews()[-1][1]))
    assert shown.shape == (8 * 2 + 2, 16 * 2 + 2, 3)  # three pairs in two columns
    dataset = datasets.open_dataset(config.data, config.model)
    small = images.shrunk(dataset.images[:1], SMALL)
    assert (shown[:8, :16] == images.pairs(small, shown[None, :8, 8:16])).all()


def test_the_network_is_taught_what_it_is_asked(config: Config) -> None:
    trainer = Trainer(config, datasets.open_dataset(config.data, config.model))
    batch = trainer.next_batch()
    assert batch.low_res is not None
    pixels = images.to_uint8(batch.x_start.numpy())
    difference = images.to_float(images.shrunk(pixels, SMALL)) - batch.low_res.numpy()
    assert np.abs(difference).max() < 1.5 / 127.5  # rounding, twice


def test_a_measurement(config: Config, tmp_path: Path) -> None:
    files.write_json(tmp_path / "job" / "config.json", codec.to_json(config))
    measure_into(tmp_path / "job")
    status = SampleJob(tmp_path / "job").status()
    assert status is not None
    assert status.metrics["seconds_per_preview"]
    assert status.metrics["seconds_per_step"]


# --- the command line


@pytest.mark.parametrize("command", ["super-res-train", "super-res-sample"])
def test_flags_of_the_reference(command: str) -> None:
    given = ["--model_path", "m.pt"] if command == "super-res-sample" else []
    options = vars(main._parser().parse_args([command, *given, "--large_size", "128", "--small_size", "32"]))
    assert (options["image_size"], options["small_size"]) == (128, 32)
    base = options["base"]
    assert (base.model.image_size, base.model.small_size) == (256, 64)
    assert codec.replace(base, dict(image_size=64, small_size=0)) == Config()
    assert base.model.multipliers == (1, 1, 2, 2, 4, 4)


def flags(config: Config, *sections: str) -> list[str]:
    """Under the reference's names."""
    words = [word for name in sections for word in codec.to_flags(getattr(config, name))]
    return ["--large_size" if word == "--image_size" else word for word in words]


@pytest.mark.slow
def test_trained_and_sampled_from_by_command(config: Config, tmp_path: Path) -> None:
    short = codec.replace(config, dict(num_classes=0, total_steps=2))
    assert main.main(["super-res-train", "--run", "sr", "--runs_dir", str(tmp_path), *flags(short, *SECTIONS)]) == 0
    run = Run(tmp_path / "sr")
    assert (run.config.model.image_size, run.config.model.small_size) == (8, SMALL)
    base = npz(tmp_path / "small.npz", noisy(3), np.array([2, 1, 0]))
    common = ["--num_samples", "4", "--use_ddim", "True", "--timestep_respacing", "2", "--base_samples"]
    assert (
        main.main(
            [
                "super-res-sample",
                "--run",
                "sr",
                "--runs_dir",
                str(tmp_path),
                "--out",
                str(tmp_path / "one"),
                *common,
                base,
            ]
        )
        == 0
    )
    job = SampleJob(tmp_path / "one")
    assert job.shape == (4, 8, 8, 3)
    with np.load(job.npz) as sampled:
        assert sampled["arr_1"].tolist() == [2, 1, 0, 2]
        first = sampled["arr_0"]
    assert np.asarray(Image.open(job.pairs)).shape == (18, 34, 3)
    kept = [np.asarray(Image.open(path)) for path in sorted((job.folder / "small").glob("*.png"))]
    assert (np.stack(kept) == noisy(3)[[0, 1, 2, 0]]).all()
    # The same from a file of weights alone, as the reference has it: its settings are said again.
    weights = dict(torch.load(run.checkpoint().path("ema_0.9"), weights_only=True))
    files.write(tmp_path / "bare.pt", lambda file: torch.save(weights, file))
    again = [
        "super-res-sample",
        "--model_path",
        str(tmp_path / "bare.pt"),
        "--out",
        str(tmp_path / "two"),
        *common,
        base,
    ]
    assert main.main([*again, *flags(run.config, "model", "diffusion")]) == 0
    with np.load(SampleJob(tmp_path / "two").npz) as sampled:
        assert (sampled["arr_0"] == first).all()
    # And what is wrong is said, and leaves nothing behind.
    with raises_error("missing-value", "base_samples"):
        main.execute(["sample", "--run", "sr", "--runs_dir", str(tmp_path), "--out", str(tmp_path / "three")])
    assert not (tmp_path / "three").exists()


def test_super_res_train_of_a_model_that_enlarges_nothing(tmp_path: Path) -> None:
    common = ["super-res-train", "--runs_dir", str(tmp_path), "--data_dir", "shapes"]
    with raises_error("missing-value", "--small_size"):
        main.execute([*common, "--large_size", "32", "--small_size", "0"])
    with raises_error("bad-value", "small_size 64", "image_size 32"):
        main.execute([*common, "--large_size", "32"])
    assert not runs.list_runs(tmp_path)


def test_reading_small_images_can_be_stopped(config: Config, tmp_path: Path) -> None:
    job = SampleJob(tmp_path / "job")
    with Worker(job.folder) as worker:
        job.request("stop")
        with pytest.raises(Stopped):
            low_res.read(config, SampleConfig(base_samples="data"), sampling_job._reading(worker))
        worker.beat(state="stopped")
