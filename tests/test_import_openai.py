"""improved-diffusion's folders and files: opened, imported, sampled from, trained on, exported again."""

import dataclasses
import json
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from app_page import open_page, text
from raising import raises_error
from torch import Tensor
from waiting import until

from ddpm import schedules
from ddpm.checkpoints import identify, infer_config, loading, probe
from ddpm.checkpoints.checkpoint_files import Weights, load_weights, newest_intact
from ddpm.checkpoints.fitting import fit
from ddpm.checkpoints.weights import FileState
from ddpm.cli import main
from ddpm.cli.shared import read_source
from ddpm.compute import distributed
from ddpm.config import codec, presets
from ddpm.config.model import ModelConfig
from ddpm.config.presets import PRESETS, RELEASED
from ddpm.config.tasks import EvalConfig, FromCheckpoint, SampleConfig
from ddpm.config.training import Config, DataConfig, TrainConfig
from ddpm.data import datasets
from ddpm.diffusion.losses import Batch, training_losses
from ddpm.interop import export_openai, import_openai
from ddpm.models import unet
from ddpm.planning import classes
from ddpm.runs import copying, launch, metrics, openai_folder, runs, trash
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.worker import Worker
from ddpm.storage import images
from ddpm.training import warm_start
from ddpm.training.loop import TrainingLoop
from ddpm.training.trainer import Trainer
from pages.ui.forms import import_form
from pages.ui.frame import run_store

pytestmark = pytest.mark.slow

FLAGS = dict(
    image_size=8,
    num_channels=32,
    num_res_blocks=1,
    num_heads=4,
    attention_resolutions="8",
    class_cond=True,
    num_classes=1000,
    learn_sigma=True,
    noise_schedule="cosine",
)
RATES = ("0.9", "0.99")
LABELS = 10


def shapes_of(config: ModelConfig) -> infer_config.Shapes:
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in unet.build(config).state_dict().items()}


def trained(config: Config, steps: int, each: Callable[..., None] = lambda *_: None) -> dict[str, Tensor]:
    """Weights after a short training, as a program of another's would do it."""
    torch.manual_seed(0)
    network = unet.build(config.model)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)
    averages = {rate: [p.detach().clone() for p in network.parameters()] for rate in RATES}
    full = schedules.named(config.diffusion.noise_schedule, config.diffusion.diffusion_steps)
    pixels = datasets.open_dataset(DataConfig(data_dir="cifar10-mini", enlarge=True), config.model)
    for label in range(steps):
        chosen = torch.arange(8 * label, 8 * label + 8) % len(pixels)
        x = torch.from_numpy(images.to_float(pixels.images[chosen.numpy()]))
        y = torch.from_numpy(pixels.labels[chosen.numpy()]) if config.model.class_cond else None  # type: ignore[index]
        batch = Batch(x, torch.randint(len(full), (8,)), torch.randn(x.shape), y)
        found = training_losses(network, full, full, config, batch)
        optimizer.zero_grad()
        found["loss"].mean().backward()
        optimizer.step()
        for rate, average in averages.items():
            for kept, p in zip(average, network.parameters(), strict=True):
                kept.mul_(float(rate)).add_(p.detach(), alpha=1 - float(rate))
        each(label, network, averages, optimizer, {name: float(v.detach().mean()) for name, v in found.items()})
    return {name: t.clone() for name, t in network.state_dict().items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A log folder of the exact form that improved-diffusion gives one, of a tiny network."""
    folder = tmp_path_factory.mktemp("openai") / "log"
    folder.mkdir()
    rows: list[dict[str, float]] = []

    def each(label: int, network: unet.UNet, averages: dict, optimizer: torch.optim.AdamW, found: dict) -> None:  # type: ignore[type-arg]
        if label % 10 == 0:
            quarter = label // 10 % 4  # columns appear when their quarter is first sampled
            values = {"grad_norm": 1.0, **found, **{f"{name}_q{quarter}": value for name, value in found.items()}}
            rows.append({**values, "samples": 8 * (label + 1), "step": label})
        if label in (100, 200):
            names = list(network.state_dict())
            torch.save(network.state_dict(), folder / f"model{label:06d}.pt")
            torch.save(optimizer.state_dict(), folder / f"opt{label:06d}.pt")
            for rate, average in averages.items():
                torch.save(OrderedDict(zip(names, average, strict=True)), folder / f"ema_{rate}_{label:06d}.pt")

    trained(codec.replace(Config(), FLAGS), 201, each)
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "progress.csv", index=False)
    (folder / "log.txt").write_text("training...\n")
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    target = tmp_path / "log"
    target.mkdir()
    for path in written.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def ddpm(*arguments: object) -> None:
    assert main.main([str(a) for a in arguments]) == 0


# What shapes tell


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.group == RELEASED])
def test_the_released_models_are_known_by_their_shapes(name: str) -> None:
    model = codec.replace(
        PRESETS[name].config, {"num_classes": 1000 if PRESETS[name].config.model.class_cond else 0}
    ).model
    found = infer_config.model_settings(shapes_of(model), name)
    assert {key: getattr(model, key) for key in found} == found
    assert not infer_config.fitting_flags(shapes_of(model), model)


def test_the_golden_networks_are_known_by_their_shapes(golden: Path) -> None:
    for name, entry in json.loads((golden / "networks.json").read_text()).items():
        found = infer_config.model_settings({n: tuple(s) for n, s in entry["tensors"].items()}, name)
        assert shapes_of(ModelConfig(**found)) == {n: tuple(s) for n, s in entry["tensors"].items()}
        flags = entry["flags"]
        assert found["image_size"] == flags.get("image_size", flags.get("large_size"))
        for key in ("num_channels", "num_res_blocks", "attention_resolutions", "learn_sigma", "class_cond"):
            assert found[key] == flags[key]


def test_another_kind_of_network_is_a_sentence() -> None:
    with raises_error("unknown-network"):
        infer_config.model_settings({"conv.weight": (3, 3)}, "x.pt")


def test_a_file_that_does_not_fit_names_the_flags_that_would() -> None:
    small = ModelConfig(image_size=32, num_channels=32, num_res_blocks=1)
    with raises_error("wrong-weights", "--num_channels 32 --num_res_blocks 1"):
        fit(unet.build(ModelConfig(image_size=32, num_channels=64)), unet.build(small).state_dict(), "model.pt")


def test_a_released_file_is_known_by_its_name() -> None:
    assert presets.preset_of_file(Path("somewhere/cifar10_uncond_50M_500K.pt")) == "cifar10-uncond"
    assert presets.preset_of_file(Path("model000100.pt")) == ""
    assert sum(preset.group == RELEASED for preset in PRESETS.values()) == 8


def test_a_released_file_takes_its_flags_from_its_preset(tmp_path: Path) -> None:
    known = PRESETS["cifar10-uncond"].config
    with torch.device("meta"):
        tensors = unet.build(known.model).state_dict()
    path = tmp_path / "cifar10_uncond_50M_500K.pt"
    found = identify.identify(tensors, {}, path).config
    assert found.diffusion == known.diffusion
    assert found.model == known.model
    with raises_error("wrong-flags", "--noise_schedule linear", "--probe False"):
        identify.identify(tensors, {"noise_schedule": "linear"}, path)


@pytest.mark.parametrize(("command", "section"), [("sample", SampleConfig), ("nll", EvalConfig)])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("m.pt", dict()),
        ("m.pt", dict(noise_schedule="cosine", diffusion_steps=4000, rescale_timesteps=False, num_heads=2)),
        ("m.pt", dict(prediction="x_prev", learn_sigma=True, learned_range=False, class_cond=True, num_classes=7)),
        ("m.pt", dict(image_size=24, small_size=5, prediction="x_start")),
        ("m.pt", dict(image_size=16, patch_size=2, learn_sigma=True)),
        ("m.pt", dict(image_size=16, patch_size=2, image_channels=1)),
        ("m.pt", dict(image_size=16, patch_size=2, patch_skip_channels=8, augment=0.3)),
        ("cifar10_uncond_50M_500K.pt", dict(image_size=16, dropout=0.3)),  # against its preset: linear, T = 1000
    ],
)
def test_the_command_it_tells_takes_a_file_for_the_same_again(
    command: str, section: type[FromCheckpoint], name: str, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = dict(num_channels=32, num_res_blocks=1, channel_mult="1,2", attention_resolutions="")
    config = codec.replace(Config(), {**small, **settings})
    weights = Weights(unet.build(config.model).state_dict(), None, 1, "model")
    monkeypatch.setattr(probe, "verdict", lambda *given: pytest.fail("a probe may find something else"))
    path = Path(name).absolute()
    opened = loading.OpenedModel(weights, config, path, "", FileState(0, 0, 0, 0))
    line = [command, "--model_path", name, "--timestep_respacing", "3", *opened.flags(section)]
    options = main._parser().parse_args(line)
    wanted, source, flags = read_source(options, section)
    assert wanted.timestep_respacing == "3"
    found = loading.resolve_config(weights, flags, Path(str(source)), options.base, options.probe)
    assert (found.model, found.diffusion) == (config.model, config.diffusion)
    assert dataclasses.replace(opened, weights=weights._replace(config=config)).flags(section) == []


# The folder


@pytest.mark.slow
def test_the_round_trip(
    folder: Path, runs_dir: Path, tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Imported, charted, sampled from, trained on, handed back, and loaded as the reference loads it."""
    where = ("--runs_dir", runs_dir)
    ddpm("import", folder, *where, "--run", "theirs", "--image_size", 8, "--total_steps", 205)
    reported = capsys.readouterr().err
    assert "0-9 were trained" in reported
    assert "noise_schedule cosine" in reported
    run = runs.find_run(runs_dir, "theirs")
    assert [c.step for c in run.checkpoints()] == [101, 201]
    assert (run.state(), run.config.model.num_classes, len(run.config.class_names)) == ("stopped", 1000, LABELS)
    assert (run.config.train.ema_rates, run.config.train.batch_size, run.config.train.lr) == (RATES, 8, 1e-3)
    before, after = pd.read_csv(folder / "progress.csv"), pd.read_csv(run.progress_path)
    assert after["step"].tolist() == (before["step"] + 1).tolist()
    for column in set(before) - {"step"}:
        np.testing.assert_array_equal(after[column], before[column])

    assert {"grad_norm", "loss", "mse", "vb"} <= {*metrics.MetricReader(run.progress_path).read().columns}

    sampled = tmp_path / "drawn"
    ddpm("sample", "--run", "theirs", *where, "--num_samples", 12, "--timestep_respacing", 2, "--out", sampled)
    with np.load(sampled / "samples_12x8x8x3.npz") as file:
        assert set(file["arr_1"]) == set(range(LABELS))

    measured = tmp_path / "measured"
    ddpm(
        "nll",
        "--run",
        "theirs",
        *where,
        "--data_dir",
        "cifar10-mini",
        "--num_samples",
        2,
        "--timestep_respacing",
        5,
        "--out",
        measured,
    )
    with np.load(measured / "vb_terms.npz") as file:
        assert np.isfinite(file["arr_0"]).all()

    with raises_error("no-data-named"):
        main.execute(["train", "--resume", "theirs", "--runs_dir", str(runs_dir)])
    np.savez(tmp_path / "small.npz", np.zeros((20, 4, 4, 3), np.uint8), np.arange(20) % LABELS)
    small = ["train", "--resume", "theirs", "--runs_dir", str(runs_dir), "--data_dir", str(tmp_path / "small.npz")]
    with raises_error("small-images", "enlarge"):
        main.execute(small)
    assert not runs.find_run(runs_dir, "theirs").config.data.data_dir, "data that cannot be used binds nobody"
    straight = copying.copy_run(run, "straight")
    ddpm("train", "--resume", "theirs", *where, "--data_dir", "cifar10-mini")
    assert "Resuming at step 201: weights, averages 0.9 and 0.99, optimiser" in run.log_path.read_text()
    assert runs.find_run(runs_dir, "theirs").checkpoint().step == 205

    back = tmp_path / "back"
    ddpm("export", "theirs", *where, "--openai", back)
    load_as_the_reference(back, 205, ModelConfig(**{k: v for k, v in FLAGS.items() if k != "noise_schedule"}))  # type: ignore[arg-type]
    again = pd.read_csv(back / "progress.csv")
    assert again["step"].tolist()[: len(before)] == before["step"].tolist()
    assert again["samples"].tolist()[: len(before)] == before["samples"].tolist()
    assert "--resume_checkpoint model000205.pt" in (back / "flags.txt").read_text()
    ddpm("import", back, *where, "--run", "again", "--image_size", 8, "--probe", "False")
    assert runs.find_run(runs_dir, "again").checkpoint().step == 205

    # Trained further, it is what it would have been in one go.
    ddpm("train", "--resume", "theirs", *where, "--total_steps", 208)
    ddpm("train", "--resume", "straight", *where, "--total_steps", 208, "--data_dir", "cifar10-mini")
    for kind in ("model", *(f"ema_{rate}" for rate in RATES)):
        one, other = (load_weights(r.checkpoint(208).path(kind)).tensors for r in (run, straight))
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert [r.state() for r in (run, straight)] == ["finished"] * 2


def load_as_the_reference(folder: Path, step: int, model: ModelConfig) -> None:
    network = unet.build(model)
    weights = torch.load(folder / f"model{step:06d}.pt", weights_only=True)
    assert isinstance(weights, OrderedDict)
    assert not hasattr(weights, "_metadata")
    network.load_state_dict(weights, strict=True)
    for rate in RATES:
        unet.build(model).load_state_dict(torch.load(folder / f"ema_{rate}_{step:06d}.pt", weights_only=True))
    optimizer = torch.optim.AdamW(list(network.parameters()), lr=1e-4)
    optimizer.load_state_dict(torch.load(folder / f"opt{step:06d}.pt", weights_only=True))
    assert {int(entry["step"]) for entry in optimizer.state.values()} == {step}
    t, y = torch.tensor([1.0]), torch.tensor([3])
    network(torch.zeros(1, 3, model.image_size, model.image_size), t, y).sum().backward()
    optimizer.step()


def test_classes_are_padded_to_as_many_as_the_reference_has(runs_dir: Path, tmp_path: Path) -> None:
    """What was trained stays where it was, in weights, averages and the optimiser; the rest is zero."""
    flags = {**FLAGS, "num_classes": 0}
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    ddpm(
        "train",
        *words,
        "--data_dir",
        "cifar10-mini",
        "--batch_size",
        4,
        "--ema_rate",
        "0.9,0.99",
        "--total_steps",
        3,
        "--sample_interval",
        0,
        "--runs_dir",
        runs_dir,
        "--run",
        "ten",
    )
    run = runs.find_run(runs_dir, "ten")
    assert run.config.model.num_classes == LABELS
    ddpm("export", "ten", "--runs_dir", runs_dir, "--openai", tmp_path / "back")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "progress.csv").write_text("mine")
    with raises_error("already-exists", "progress.csv"):
        export_openai.export_checkpoint(run, tmp_path / "other")
    load_as_the_reference(
        tmp_path / "back", 3, ModelConfig(**{k: v for k, v in FLAGS.items() if k != "noise_schedule"})
    )  # type: ignore[arg-type]
    for kind, name in (("model", "model000003.pt"), ("ema_0.9", "ema_0.9_000003.pt")):
        ours = load_weights(run.checkpoint().path(kind)).tensors["label_emb.weight"]
        theirs = torch.load(tmp_path / "back" / name, weights_only=True)["label_emb.weight"]
        assert torch.equal(theirs[:LABELS], ours)
        assert theirs.shape[0] == 1000
        assert not theirs[LABELS:].any()


@pytest.mark.parametrize("mixed", [False, True], ids=["fp32", "mixed precision"])
def test_in_place_touches_none_of_their_files(folder: Path, runs_dir: Path, tmp_path: Path, mixed: bool) -> None:
    if mixed:
        path = folder / "opt000200.pt"
        torch.save(flattened(torch.load(path, weights_only=True)), path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ddpm(
        "import",
        folder,
        "--runs_dir",
        runs_dir,
        "--run",
        "here",
        "--image_size",
        8,
        "--in_place",
        True,
        "--total_steps",
        203,
        "--data_dir",
        "cifar10-mini",
    )
    assert {name: (folder / name).read_bytes() for name in before} == before
    new = {path.name for path in folder.iterdir()} - set(before)
    assert new == {"config.json", "status.json", "saves", "state000100.pt", "state000200.pt"}
    run = runs.find_run(runs_dir, "here")
    assert (runs_dir / "here").is_symlink()
    assert load_weights(run.folder / "ema_0.99_000200.pt").config == run.config  # settings beside it
    found, wrong = newest_intact(run)
    assert found is not None
    assert not wrong
    ddpm("train", "--resume", "here", "--runs_dir", runs_dir)
    assert runs.find_run(runs_dir, "here").checkpoint().step == 203
    assert (folder / "progress.csv").read_bytes().startswith(before["progress.csv"])
    export_openai.export_checkpoint(run, tmp_path / "back")
    steps = pd.read_csv(tmp_path / "back" / "progress.csv")["step"].tolist()
    assert steps[:2] == [0, 10]
    assert steps[-1] == 202


@pytest.mark.parametrize("total", [201, 206], ids=["as it was", "trained on"])
def test_a_log_that_went_on_after_the_checkpoint_is_handed_back_as_it_was(
    folder: Path, runs_dir: Path, tmp_path: Path, total: int
) -> None:
    """Their rows count from 0 wherever they stand; ours are counted from 0 when handed back."""
    log = folder / "progress.csv"
    for later in (203, 210, 220):
        row = pd.read_csv(log).iloc[-1:].assign(step=later, samples=8 * (later + 1))
        row.to_csv(log, mode="a", header=False, index=False)
    before = pd.read_csv(log)["step"].tolist()
    ddpm(
        "import",
        folder,
        "--runs_dir",
        runs_dir,
        "--run",
        "here",
        "--image_size",
        8,
        "--in_place",
        True,
        "--total_steps",
        total,
        "--data_dir",
        "cifar10-mini",
        "--probe",
        "False",
    )
    run = runs.find_run(runs_dir, "here")
    if total > 201:
        ddpm("train", "--resume", "here", "--runs_dir", runs_dir)
        before = [step for step in before if step <= 203] + [total - 1]
    export_openai.export_checkpoint(run, tmp_path / "back")
    assert pd.read_csv(tmp_path / "back" / "progress.csv")["step"].tolist() == before


def test_their_checkpoints_stay_however_few_are_kept(folder: Path, runs_dir: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    flags = (
        "--image_size",
        8,
        "--total_steps",
        204,
        "--keep_checkpoints",
        1,
        "--save_interval",
        1,
        "--sample_interval",
        0,
    )
    ddpm(
        "import",
        folder,
        "--runs_dir",
        runs_dir,
        "--run",
        "here",
        "--in_place",
        True,
        "--data_dir",
        "cifar10-mini",
        "--probe",
        "False",
        *flags,
    )
    ddpm("train", "--resume", "here", "--runs_dir", runs_dir)
    assert [c.step for c in runs.find_run(runs_dir, "here").checkpoints()] == [100, 200, 204]
    assert all((folder / name).exists() for name in before)


def test_an_optimiser_that_began_anew_takes_no_step_for_another(folder: Path, runs_dir: Path) -> None:
    """Whoever resumes there without the optimiser's file has a later checkpoint whose AdamW has counted as far only."""
    (folder / "opt000200.pt").write_bytes((folder / "opt000100.pt").read_bytes())
    ddpm("import", folder, "--runs_dir", runs_dir, "--run", "x", "--image_size", 8)
    assert [c.step for c in runs.find_run(runs_dir, "x").checkpoints()] == [101, 200]


def test_a_folder_that_cannot_be_written_is_left_as_it_was(
    folder: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    before = {path.name for path in folder.iterdir()}
    monkeypatch.setattr(import_openai.files, "link", refuse)
    with raises_error("not-writable"):
        import_openai.import_folder(
            openai_folder.read_folder(folder),
            runs_dir,
            {"image_size": 8},
            import_openai.ImportOptions("x", in_place=True, probe=False),
            lambda *_: None,
        )
    assert {path.name for path in folder.iterdir()} == before


def test_a_damaged_step_is_left_out_and_said(folder: Path, runs_dir: Path) -> None:
    (folder / "model000200.pt").write_bytes((folder / "model000200.pt").read_bytes()[:1000])
    imported = import_openai.import_folder(
        openai_folder.read_folder(folder),
        runs_dir,
        {"image_size": 8},
        import_openai.ImportOptions("x", probe=False),
        lambda *_: None,
    )
    assert [c.step for c in imported.run.checkpoints()] == [101]
    assert any("cut short" in sentence for sentence in imported.notes)


def test_what_is_no_such_folder(folder: Path, runs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with raises_error("no-checkpoint"):
        openai_folder.read_folder(tmp_path / "empty")
    with raises_error("not-found"):
        openai_folder.read_folder(tmp_path / "nowhere")
    with raises_error("wrong-flags", "num_channels 64", "--num_channels 32"):
        import_openai.import_folder(
            openai_folder.read_folder(folder),
            runs_dir,
            {"image_size": 8, "num_channels": 64},
            import_openai.ImportOptions("x"),
            lambda *_: None,
        )
    with raises_error("bad-value", 0, 9):
        import_openai.import_folder(
            openai_folder.read_folder(folder),
            runs_dir,
            {"image_size": 8},
            import_openai.ImportOptions("x", ("a", "b"), probe=False),
            lambda *_: None,
        )
    assert list(runs_dir.glob("*")) in ([], [runs_dir / ".lock"])
    torch.save({"state": {}, "param_groups": []}, folder / "opt000200.pt")
    with raises_error("wrong-optimizer"):
        import_openai.import_folder(
            openai_folder.read_folder(folder),
            runs_dir,
            {"image_size": 8},
            import_openai.ImportOptions("x", probe=False),
            lambda *_: None,
        )


# A file to begin from


def begin(path: Path, runs_dir: Path, total: int = 203, **settings: object) -> tuple[TrainingLoop, str]:
    """A run's first process, up to its first step, and what it said."""
    values = {
        **FLAGS,
        "num_classes": 0,
        "data_dir": "cifar10-mini",
        "enlarge": True,
        "ema_rate": "0.9,0.99",
        "batch_size": 8,
        "total_steps": total,
        "sample_interval": 0,
        **settings,
    }
    config = warm_start.check_start(
        datasets.resolve(codec.replace(Config(), {**values, "resume_checkpoint": str(path)}))
    )
    run = runs.create_run(runs_dir, "begun", config)
    with Worker(run.folder, total) as worker:
        return TrainingLoop(run, worker), " ".join(warm_start.start_from(path, config).notes)


def test_a_run_begins_from_a_model_file(folder: Path, runs_dir: Path) -> None:
    loop, reported = begin(folder / "model000200.pt", runs_dir)
    assert loop.trainer.step == 201
    assert "Beginning at step 201: weights, averages 0.9 and 0.99, optimiser" in reported
    theirs = torch.load(folder / "ema_0.9_000200.pt", weights_only=True)
    assert torch.equal(loop.trainer.ema.weights("0.9")["out.2.weight"], theirs["out.2.weight"])
    assert loop.trainer.optimizer.adamw.param_groups[0]["fused"]
    reports = list(loop.trainer.steps(203))
    assert [r.step for r in reports] == [202, 203]


def test_what_is_missing_next_to_it_is_said(folder: Path, runs_dir: Path) -> None:
    (folder / "opt000200.pt").unlink()
    (folder / "ema_0.9_000200.pt").unlink()
    loop, reported = begin(folder / "model000200.pt", runs_dir)
    assert "no average of rate 0.9 with model000200.pt" in reported
    assert "no optimiser file" in reported
    assert loop.trainer.step == 200


def test_beginning_from_an_average_is_said(folder: Path, runs_dir: Path) -> None:
    loop, reported = begin(folder / "ema_0.99_000200.pt", runs_dir)
    assert "is an average of weights (rate 0.99)" in reported
    assert not loop.trainer.optimizer.adamw.state
    assert loop.trainer.step == 200


def test_a_file_with_no_steps_left_or_of_another_network(folder: Path, runs_dir: Path) -> None:
    with raises_error("nothing-left", "total_steps"):
        begin(folder / "model000200.pt", runs_dir, total=150)
    with raises_error("wrong-weights", "--num_channels 32"):
        begin(folder / "model000200.pt", runs_dir, num_channels=64)


SMALL = {
    **FLAGS,
    "num_classes": 0,
    "data_dir": "cifar10-mini",
    "enlarge": True,
    "total_steps": 300,
    "batch_size": 8,
    "sample_interval": 0,
}


def settled(path: Path, **settings: object) -> Config:
    return codec.resolved(
        datasets.resolve(codec.replace(Config(), {**SMALL, "resume_checkpoint": str(path), **settings}))
    )


def test_a_file_to_begin_from_that_was_trained_otherwise(
    folder: Path, runs_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours says what it was trained on, and a released one's preset: that is refused. Of another's a probe warns."""
    own = dict(noise_schedule="cosine", diffusion_steps=400, prediction="x_start", num_heads=2)
    config = codec.resolved(datasets.resolve(codec.replace(Config(), {**SMALL, **own, "total_steps": 1})))
    run = runs.create_run(runs_dir, "ours", config)
    with Worker(run.folder, 1) as worker:
        list(TrainingLoop(run, worker).train())
    path = run.checkpoint().path("model")
    with raises_error(
        "wrong-flags",
        "noise_schedule",
        "diffusion_steps 1000, prediction eps, num_heads 4, num_heads_upsample 4",
        "--noise_schedule cosine --diffusion_steps 400 --prediction x_start --num_heads 2 --num_heads_upsample 2",
    ):
        warm_start.check_start(settled(path, noise_schedule="linear"))
    fine = settled(path, **{**own, "num_heads_upsample": 2, "use_kl": True})
    assert warm_start.check_start(fine) == fine
    insisted = settled(folder / "model000200.pt", prediction="x_start")
    assert warm_start.check_start(insisted) == codec.replace(insisted, {"num_classes": 1000})
    assert "prediction x_start is used, as it was given" in caplog.text
    released = folder / "cifar10_uncond_50M_500K.pt"
    released.write_bytes((folder / "model000200.pt").read_bytes())
    with raises_error("wrong-flags", "diffusion_steps 1000", "--diffusion_steps 4000"):
        warm_start.check_start(settled(released))


def test_what_a_file_to_begin_from_cannot_tell_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All settings are set before training, and those that no weights tell are used unseen."""
    wanted = settled(folder / "model000200.pt", num_heads=2)
    found = {name: getattr(wanted.diffusion, name) for name in probe.PROCESS}
    verdict = probe.Verdict(found, 0.5, {}, 8, {})
    monkeypatch.setattr(probe, "verdict", lambda *_: verdict)
    assert warm_start.check_start(wanted).model.num_heads == 2
    said = next(message for message in caplog.messages if "cannot tell" in message)
    assert all(name in said for name in probe.ATTENTION)
    assert "num_heads 2" in said
    caplog.clear()
    reported = {name: getattr(wanted.model, name) for name in probe.ATTENTION}
    monkeypatch.setattr(probe, "verdict", lambda *_: verdict._replace(found=found | reported))
    warm_start.check_start(wanted)
    assert "cannot tell" not in caplog.text


def test_where_to_begin_is_settled_when_the_run_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    for typed in ("model000200.pt", "~/log/model000200.pt"):
        kept = codec.with_absolute_paths(TrainConfig(resume_checkpoint=typed))
        assert kept.resume_checkpoint == str(folder / "model000200.pt")
    assert codec.with_absolute_paths(TrainConfig()).resume_checkpoint == ""


def test_a_run_that_a_page_made_begins_from_a_file(
    folder: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page starts a run without having looked into the file: one of 1,000 labels fits data of 10 classes."""
    path = folder / "model000200.pt"
    runs.create_run(runs_dir, "steps", settled(path, total_steps=150))
    assert main.main(["train", "--resume", "steps", "--runs_dir", str(runs_dir)]) == 2
    assert runs.find_run(runs_dir, "steps").state() == "failed"
    said = capsys.readouterr().err
    assert "has 201 updates behind it, and training would end at step 150: raise total_steps." in said
    runs.create_run(runs_dir, "fits", settled(path, total_steps=202))
    assert runs.find_run(runs_dir, "fits").config.model.num_classes == LABELS
    ddpm("train", "--resume", "fits", "--runs_dir", runs_dir)
    run = runs.find_run(runs_dir, "fits")
    assert (run.config.model.num_classes, run.checkpoint().step) == (1000, 202)


def test_beginning_with_another_number_of_processes_is_nothing_to_warn_of(
    folder: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no state of ours to resume from bit by bit; both processes have seen images of as many steps."""
    config = warm_start.check_start(settled(folder / "model000200.pt"))
    trainer = Trainer(config, datasets.open_dataset(config.data, config.model))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    start = warm_start.start_from(folder / "model000200.pt", config)
    assert start.state["position"] == 2 * 8 * 201
    trainer.load(start.weights, start.optimizer, start.state)
    assert "Saved with" not in caplog.text
    trainer.load(start.weights, start.optimizer, trainer.state())
    assert "Saved with 1 process and resumed with 2" in caplog.text


def flattened(optimizer: dict) -> dict:  # type: ignore[type-arg]
    """The state that AdamW has of one tensor with all others in it."""
    entries = [optimizer["state"][place] for place in range(len(optimizer["state"]))]
    flat = {key: torch.cat([entry[key].flatten() for entry in entries]) for key in ("exp_avg", "exp_avg_sq")}
    return {
        "state": {0: {"step": entries[0]["step"], **flat}},
        "param_groups": [{**optimizer["param_groups"][0], "params": [0]}],
    }


def test_the_single_tensor_of_mixed_precision_is_taken_apart(folder: Path, runs_dir: Path) -> None:
    path = folder / "opt000200.pt"
    before = torch.load(path, weights_only=True)
    torch.save(flattened(before), path)
    loop, reported = begin(folder / "model000200.pt", runs_dir)
    assert "optimiser; random" in reported
    after = loop.trainer.optimizer.state_dict()["state"]
    assert after.keys() == before["state"].keys()
    for place, entry in before["state"].items():
        assert torch.equal(after[place]["exp_avg"], entry["exp_avg"])
        assert torch.equal(after[place]["exp_avg_sq"], entry["exp_avg_sq"])
    next(loop.trainer.steps(202))
    assert {int(entry["step"]) for entry in loop.trainer.optimizer.state_dict()["state"].values()} == {202}
    assert identify.trained_labels(folder / "model000200.pt", load_weights(folder / "model000200.pt").tensors) == tuple(
        range(LABELS)
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry, group: entry.pop("exp_avg_sq"),
        lambda entry, group: entry.pop("step"),
        lambda entry, group: entry.update(step=float("nan")),
        lambda entry, group: group.pop("weight_decay"),
    ],
)
def test_the_state_of_another_optimiser_is_refused(
    folder: Path, runs_dir: Path, damage: Callable[[dict, dict], object]
) -> None:
    path = folder / "opt000200.pt"
    content = torch.load(path, weights_only=True)
    damage(content["state"][0], content["param_groups"][0])
    torch.save(content, path)
    with raises_error("wrong-optimizer", path.name):
        begin(folder / "model000200.pt", runs_dir)


def test_beginning_with_settings_of_its_own(folder: Path, runs_dir: Path) -> None:
    """Its weight decay, whatever the optimiser's file has; its warm-up, where the optimiser begins anew."""
    loop, _ = begin(folder / "model000200.pt", runs_dir / "a", weight_decay=0.05, lr_warmup_steps=100)
    assert [group["weight_decay"] for group in loop.trainer.optimizer.state_dict()["param_groups"]] == [0.05]
    assert next(loop.trainer.steps()).lr == loop.trainer.config.train.lr, "it went on warming up, and had done so"
    average = next(folder.glob("ema_*_000200.pt"))
    loop, _ = begin(average, runs_dir / "b", lr_warmup_steps=100)
    assert next(loop.trainer.steps()).lr == pytest.approx(loop.trainer.config.train.lr / 100)


def test_a_log_that_is_no_file_is_left_out(folder: Path, runs_dir: Path, tmp_path: Path) -> None:
    (folder / "log.txt").unlink(missing_ok=True)
    (tmp_path / "private").write_text("secret")
    (folder / "log.txt").symlink_to(tmp_path / "private")
    ddpm("import", folder, "--runs_dir", runs_dir, "--run", "x", "--image_size", 8)
    assert "secret" not in runs.find_run(runs_dir, "x").log_path.read_text()
    assert [path.name for path in runs_dir.iterdir() if path.name.startswith(".tmp")] == []


@pytest.mark.parametrize(
    ("settings", "flag"),
    [(dict(precision="bf16"), True), (dict(use_fp16=True), True), (dict(use_fp16=True, precision="fp32"), False)],
)
def test_mixed_precision_is_handed_back_without_an_optimiser_alone(settings: dict[str, object], flag: bool) -> None:
    """improved-diffusion's optimiser then has a single tensor, which ours is not."""
    config = codec.replace(Config(), settings)
    lines = {kept: export_openai._flags(config, {"model": {}}, 3, [], optimizer=kept) for kept in (True, False)}
    assert "--use_fp16" not in lines[True]
    assert ("--use_fp16 True" in lines[False]) == flag


def test_flags_that_its_scripts_can_read() -> None:
    """They divide by each of attention_resolutions, and build networks that enlarge to 64 and 256 pixels alone."""
    none = codec.replace(Config(), {"attention_resolutions": "", "image_size": 64})
    assert "--attention_resolutions 128" in export_openai._flags(none, {"model": {}}, 3, [], optimizer=True)
    notes = [
        export_openai._limits(codec.replace(Config(), {"image_size": size, "small_size": size // 2}))
        for size in (32, 64)
    ]
    assert [any("create_model" in note for note in found) for found in notes] == [True, False]


def test_mixed_precision_handed_back_with_an_optimiser_is_reported(runs_dir: Path, tmp_path: Path) -> None:
    config = codec.resolved(datasets.resolve(codec.replace(Config(), {**SMALL, "total_steps": 1, "precision": "bf16"})))
    run = runs.create_run(runs_dir, "mixed", config)
    with Worker(run.folder, 1) as worker:
        list(TrainingLoop(run, worker).train())
    reported = " ".join(export_openai.export_checkpoint(run, tmp_path / "back"))
    written = (tmp_path / "back" / "flags.txt").read_text()
    assert "the flag is left out" in reported
    assert "the flag is left out" in written
    assert "--use_fp16 True" not in written


@pytest.mark.parametrize("content", [b"PK damaged", None, {}, [1, 2]], ids=["damaged", "of another", "empty", "a list"])
def test_a_damaged_optimiser_keeps_nothing_from_being_sampled(folder: Path, content: object) -> None:
    """Labels are then known by what differs between the weights and their averages."""
    path = folder / "model000200.pt"
    if isinstance(content, bytes):
        (folder / "opt000200.pt").write_bytes(content)
    else:
        torch.save({"state": {0: 3}, "param_groups": []} if content is None else content, folder / "opt000200.pt")
    assert identify.trained_labels(path, load_weights(path).tensors) == tuple(range(LABELS))


def test_all_labels_of_a_released_model_are_known() -> None:
    """Its old command line, which names no classes, samples."""
    preset = PRESETS["imagenet64-cond"]
    with torch.device("meta"):
        tensors = unet.build(codec.replace(preset.config, {"num_classes": 1000}).model).state_dict()
    found = identify.identify(tensors, {}, Path(preset.file))
    assert classes.parse_classes(found.config, "") == list(range(1000))
    assert found.labels == tuple(range(1000))


# The page


def test_the_home_page_opens_a_folder(
    folder: Path, runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPM_RUNS", str(runs_dir))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    at = open_page("home.py")
    at.text_input(key=import_form.PATH).set_value(str(tmp_path)).run()
    assert "no model file" in text(at).replace("\\", "")
    at.text_input(key=import_form.PATH).set_value(str(folder)).run()
    assert "2 checkpoints, the newest of step 200" in text(at)
    at.text_input(key=import_form.NAME).set_value("seen").run()
    at.button(key="import.copy").click().run()
    job = launch.import_job(folder, runs_dir)
    until(lambda: job.state() not in ACTIVE)
    at.run()
    assert not at.exception
    assert "were trained" in text(at)
    assert runs.find_run(runs_dir, "seen").state() == "finished"
    assert not [field for field in at.text_input if field.key == import_form.NAME]

    another = tmp_path / "another"  # its name is suggested, and the first is not said to be it
    shutil.copytree(folder, another)
    at.text_input(key=import_form.PATH).set_value(str(another)).run()
    assert at.text_input(key=import_form.NAME).value == "another"
    trash.trash_run(runs.find_run(runs_dir, "seen"))  # and one that is gone can be imported again
    at.text_input(key=import_form.PATH).set_value(str(folder)).run()
    assert at.text_input(key=import_form.NAME).value == folder.name
    at.text_input(key=import_form.NAME).set_value("seen").run()
    at.button(key="import.copy").click().run()
    until(lambda: job.state() not in ACTIVE and (runs_dir / "seen" / "config.json").exists())
    monitor = open_page("pages/monitor.py", run="seen")
    assert not monitor.error
    run_store.store.clear()


def test_the_optimiser_of_an_older_torch_is_handed_back() -> None:
    """Which counted AdamW's steps in plain numbers."""
    moment = torch.ones(2, 3)
    state = {"state": {0: {"step": 5, "exp_avg": moment}}, "param_groups": [{"lr": 1.0, "params": [0], "fused": True}]}
    found = export_openai._optimizer(state, ["a.weight"], 0)
    assert found["state"] == {0: {"step": 5, "exp_avg": moment}}
    assert found["param_groups"] == [{"lr": 1.0, "params": [0], "fused": None}]


def test_a_log_without_a_row_is_opened_in_place(folder: Path, runs_dir: Path) -> None:
    header = (folder / "progress.csv").read_text().splitlines()[0]
    (folder / "progress.csv").write_text(f"{header}\n")
    settings = ("--image_size", 8, "--in_place", True, "--data_dir", "cifar10-mini")
    ddpm("import", folder, "--runs_dir", runs_dir, "--run", "here", *settings)
    assert runs.find_run(runs_dir, "here").checkpoint().step == 200
