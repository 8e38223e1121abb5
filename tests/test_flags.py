"""improved-diffusion's command lines work here: every flag and default of every script, its README's examples, its
environment variables; and what it got wrong is right.

reference_flags.json: script -> flag -> default as the script has it.
"""

import argparse
import ast
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from raising import raises_error

from ddpm.cli import main, shared
from ddpm.config import codec, validation
from ddpm.config.model import ModelConfig
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import datasets
from ddpm.runs.runs import Run
from ddpm.training.trainer import Trainer

SCRIPTS = {
    "image_train": "train",
    "image_sample": "sample",
    "image_nll": "nll",
    "super_res_train": "super-res-train",
    "super_res_sample": "super-res-sample",
}
REFERENCE = json.loads((Path(__file__).parent / "reference_flags.json").read_text())

# Defaults that are others here, and why.
DELIBERATE = {
    "model_path": "there is no model to begin with: it is required, or a run",
    "sigma_small": "as trained, where the file says how; only a file that does not is taken as False",
}
EVERY = [(script, flag, default) for script, flags in REFERENCE.items() for flag, default in flags.items()]
SAMPLES = {"sample", "nll", "super-res-sample"}  # these need to know from what


def actions(command: str) -> dict[str, argparse.Action]:
    """A command's flags, by name."""
    (commands,) = (a for a in main._parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert command in commands.choices, f"there is no `ddpm {command}`"
    return {flag: a for a in commands.choices[command]._actions for flag in a.option_strings}


def default_of(action: argparse.Action) -> object:
    """What the command does without the flag, as its --help says it."""
    if action.default is not argparse.SUPPRESS:
        return action.default
    found = re.search(r"\(default: (.*)\)$", action.help or "")
    assert found, action.help
    return ast.literal_eval(found[1]) if found[1][:1] in "'\"" else found[1]


def parsed(command: str, *flags: str) -> argparse.Namespace:
    source = ["--model_path", "model.pt"] if command in SAMPLES and "--model_path" not in flags else []
    return main._parser().parse_args([command, *source, *flags])


def test_the_table_is_complete() -> None:
    assert {script: len(flags) for script, flags in REFERENCE.items()} == {
        "image_train": 32,
        "image_sample": 24,
        "image_nll": 24,
        "super_res_train": 32,
        "super_res_sample": 25,
    }


@pytest.mark.parametrize(("script", "flag", "default"), EVERY)
def test_every_flag_has_its_default(script: str, flag: str, default: str) -> None:
    found = actions(SCRIPTS[script])
    assert f"--{flag}" in found
    if flag in DELIBERATE and script != "image_train":
        return
    value = default_of(found[f"--{flag}"])
    if re.fullmatch(r"-?[\d.]+", default):
        assert float(str(value)) == float(default)
    else:
        assert str(value) == default


@pytest.mark.parametrize(("script", "flag", "default"), EVERY)
def test_every_flag_is_understood_as_it_is_written(script: str, flag: str, default: str) -> None:
    command = SCRIPTS[script]
    dest = actions(command)[f"--{flag}"].dest
    if default in ("True", "False"):
        for text, value in [
            ("True", True),
            ("yes", True),
            ("t", True),
            ("y", True),
            ("1", True),
            ("False", False),
            ("no", False),
            ("f", False),
            ("n", False),
            ("0", False),
        ]:
            assert getattr(parsed(command, f"--{flag}", text), dest) is value
    elif flag == "model_path":
        assert str(parsed(command, "--model_path", "a/model.pt").model_path) == str(Path("a/model.pt"))
    else:
        text = default or {"schedule_sampler": "uniform", "timestep_respacing": "ddim50"}.get(flag, "a/place")
        value = getattr(parsed(command, f"--{flag}", text), dest)
        assert str(value) == text or float(value) == float(text)


# --- the README's command lines: model, diffusion, training flags

RELEASED = {
    "imagenet64_uncond_100M_1500K": (
        "--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True",
        "--diffusion_steps 4000 --noise_schedule cosine",
        "--lr 1e-4 --batch_size 128",
    ),
    "cifar10_uncond_50M_500K": (
        "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3",
        "--diffusion_steps 4000 --noise_schedule cosine",
        "--lr 1e-4 --batch_size 128",
    ),
    "imagenet64_cond_270M_250K": (
        "--image_size 64 --num_channels 192 --num_res_blocks 3 --learn_sigma True --class_cond True",
        "--diffusion_steps 4000 --noise_schedule cosine --rescale_learned_sigmas False --rescale_timesteps False",
        "--lr 3e-4 --batch_size 2048",
    ),
    "lsun_uncond_100M_1200K_bs128": (
        (
            "--image_size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 --learn_sigma True"
            " --use_scale_shift_norm False --attention_resolutions 16"
        ),
        "--diffusion_steps 1000 --noise_schedule linear --rescale_learned_sigmas False --rescale_timesteps False",
        "--lr 1e-4 --batch_size 128",
    ),
    "lsun_uncond_100M_2400K_bs64": (
        (
            "--image_size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 --learn_sigma True"
            " --use_scale_shift_norm False --attention_resolutions 16"
        ),
        (
            "--diffusion_steps 1000 --noise_schedule linear --rescale_learned_sigmas False --rescale_timesteps False"
            " --use_scale_shift_norm False"
        ),
        "--lr 2e-5 --batch_size 128",
    ),
    "imagenet64_uncond_vlb_100M_1500K": (
        "--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True",
        "--diffusion_steps 4000 --noise_schedule cosine --use_kl True",
        "--lr 1e-4 --batch_size 128 --schedule_sampler loss-second-moment",
    ),
    "cifar10_uncond_vlb_50M_500K": (
        "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3",
        "--diffusion_steps 4000 --noise_schedule cosine --use_kl True",
        "--lr 1e-4 --batch_size 128 --schedule_sampler loss-second-moment",
    ),
    "the CPU fork's run": (
        "--image_size 32 --num_channels 64 --num_res_blocks 2",
        "--diffusion_steps 1000 --noise_schedule linear",
        "--lr 1e-4 --batch_size 8 --microbatch 4",
    ),
}
UPSAMPLE = (
    "--large_size 256 --small_size 64 --num_channels 192 --num_res_blocks 2 --learn_sigma True --class_cond True",
    "--diffusion_steps 4000 --noise_schedule linear --rescale_learned_sigmas False --rescale_timesteps False",
    "--lr 3e-4 --batch_size 256",
)


@pytest.mark.parametrize("name", RELEASED)
def test_old_trainings(name: str) -> None:
    options = parsed("train", "--data_dir", "path/to/images", *shlex.split(" ".join(RELEASED[name])))
    given = shared.given(options, *codec.SECTIONS.values())
    validation.check(codec.resolved(codec.replace(Config(), given)))
    assert given["lr"] in (1e-4, 2e-5, 3e-4)


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("sample", "--num_samples 100 --use_ddim True --timestep_respacing ddim250"),
        ("nll", "--data_dir path/to/images"),
    ],
)
def test_old_drawings_and_evaluations(name: str, command: str, more: str) -> None:
    model, diffusion, _ = RELEASED[name]
    options = parsed(command, "--model_path", "ema_0.9999_200000.pt", *shlex.split(f"{model} {diffusion} {more}"))
    assert options.num_channels in (64, 128, 192)


def test_old_super_resolution() -> None:
    model, diffusion, train = (shlex.split(part) for part in UPSAMPLE)
    assert parsed("super-res-train", "--data_dir", "path/to/images", *model, *diffusion, *train).image_size == 256
    drawing = ["--model_path", "upsample_cond_500K.pt", "--base_samples", "64_samples.npz", "--num_samples", "10"]
    assert parsed("super-res-sample", *model, *diffusion, *drawing).small_size == 64


# --- its environment


SMALL = shlex.split(
    "--image_size 8 --num_channels 32 --num_res_blocks 1 --channel_mult 1 --num_heads 1 --attention_resolutions= "
    "--diffusion_steps 10 --noise_schedule cosine --batch_size 2 --total_steps 2 --sample_interval 0 --ema_rate 0.9 "
    "--threads 1"
)


@pytest.mark.slow
def test_a_run_in_the_folder_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "old logs" / "mine"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_LOGDIR", str(folder))
    monkeypatch.setenv("OPENAI_LOG_FORMAT", "stdout,log,json")
    train = ["train", "--data_dir", "shapes", *SMALL]
    assert main.main(train) == 0
    assert Run(folder).state() == "finished"
    assert Run(folder).config.train.log_format == "csv,json"
    assert {"model000002.pt", "ema_0.9_000002.pt", "opt000002.pt", "progress.csv", "progress.json"} <= {
        p.name for p in folder.iterdir()
    }
    assert not (tmp_path / "runs").exists()

    with raises_error("already-exists", "`ddpm train --resume`"):
        main.execute(train)
    with raises_error("nothing-left", 2):
        main.execute(["train", "--resume"])

    for path in [*folder.glob("*.pt"), *(folder / "saves").iterdir()]:
        path.unlink()  # as if it had been killed before it saved anything
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "state": "running", "saved": 0}))
    history = (folder / "progress.csv").read_text()
    assert main.main(["train", "--resume"]) == 0
    assert (folder / "progress.csv").read_text().startswith(history), "what was logged is never erased"

    model = str(folder / "ema_0.9_000002.pt")
    assert main.main(["sample", "--model_path", model, "--num_samples", "2", "--timestep_respacing", "2"]) == 0
    (job,) = (folder / "samples").iterdir()
    with np.load(folder / "samples_2x8x8x3.npz") as handed, np.load(job / "samples_2x8x8x3.npz") as own:
        assert np.array_equal(handed["arr_0"], own["arr_0"])
        assert handed["arr_0"].shape == (2, 8, 8, 3)
        first = handed["arr_0"]
    capsys.readouterr()
    for seed in ("1", "0"):
        assert (
            main.main(
                ["sample", "--model_path", model, "--num_samples", "2", "--timestep_respacing", "2", "--seed", seed]
            )
            == 0
        )
    assert sorted(p.name for p in folder.glob("*.npz")) == ["samples_2x8x8x3-2.npz", "samples_2x8x8x3.npz"]
    with np.load(folder / "samples_2x8x8x3.npz") as handed, np.load(folder / "samples_2x8x8x3-2.npz") as other:
        assert np.array_equal(handed["arr_0"], first)
        assert not np.array_equal(other["arr_0"], first)
    assert capsys.readouterr().err.count("samples_2x8x8x3-2.npz") == 1


def test_a_folder_of_another_training_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "progress.csv").write_text("step,loss\n1,0.5\n")
    monkeypatch.setenv("OPENAI_LOGDIR", str(tmp_path))
    with raises_error("not-empty", "progress.csv"):
        main.execute(["train", "--data_dir", "shapes", *SMALL])
    assert [path.name for path in tmp_path.iterdir()] == ["progress.csv"]


def test_a_name_stands_above_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_LOGDIR", str(tmp_path / "logs"))
    runs_dir = tmp_path / "runs"
    assert main.main(["train", "--data_dir", "shapes", *SMALL, "--run", "a", "--runs_dir", str(runs_dir)]) == 0
    assert (runs_dir / "a" / "model000002.pt").exists()
    assert not (tmp_path / "logs").exists()


def test_formats_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for named, setting in {
        "": None,
        "stdout,log,csv": "csv",
        "json": "csv,json",
        "tensorboard, csv": "csv,tensorboard",
    }.items():
        monkeypatch.setenv("OPENAI_LOG_FORMAT", named)
        assert shared.log_format() == setting
    monkeypatch.setenv("OPENAI_LOG_FORMAT", "wandb")
    with raises_error("bad-value", "OPENAI_LOG_FORMAT", "'wandb'"):
        shared.log_format()
    monkeypatch.delenv("OPENAI_LOGDIR", raising=False)
    with raises_error("missing-value", "--resume"):
        main.execute(["train", "--resume"])


# --- its traps are not here


def test_fewer_images_than_a_batch_train(tiny: Config, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
    config = codec.replace(tiny, dict(data_dir=str(tmp_path / "few.npz"), batch_size=8))
    trainer = Trainer(config, datasets.open_dataset(config.data, config.model))
    assert [report.step for report in trainer.steps(2)] == [1, 2]


def test_a_training_ends_without_annealing() -> None:
    settled = codec.resolved(Config()).train
    assert settled.total_steps == 30_000
    assert settled.lr_anneal_steps == 0
    annealed = codec.resolved(codec.replace(Config(), dict(lr_anneal_steps=500))).train
    assert annealed.total_steps == 500


def test_a_seed_decides_everything(tiny: Config) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        config = codec.replace(tiny, dict(seed=seed, dropout=0.2))
        trainer = Trainer(config, datasets.open_dataset(config.data, config.model))
        list(trainer.steps(3))
        return trainer.parameters

    assert all(torch.equal(a, b) for a, b in zip(weights(5), weights(5), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(5), weights(6), strict=True))


def test_a_microbatch_leaves_the_gradient_as_it_is(tiny: Config) -> None:
    norms = []
    for microbatch in (-1, 1, 3):
        config = codec.replace(tiny, dict(microbatch=microbatch))
        (report,) = Trainer(config, datasets.open_dataset(config.data, config.model)).steps(1)
        norms.append(report.grad_norm)
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("size", [8, 12, 28, 48, 96, 128, 512])
def test_sizes_of_all_kinds(size: int) -> None:
    config = codec.replace(Config(), dict(data_dir="shapes", image_size=size))
    assert list(validation.problems(config)) == []


def test_eta_is_a_flag() -> None:
    assert parsed("sample", "--eta", "0.5").eta == 0.5
    assert SampleConfig().eta == 0.0


@pytest.mark.slow
def test_grey_images_and_mirrored_ones() -> None:
    config = codec.replace(Config(), dict(data_dir="shapes", image_channels=1, random_flip=True))
    assert list(validation.problems(config)) == []
    assert (
        datasets.open_dataset(DataConfig("shapes"), ModelConfig(image_size=8, image_channels=1)).images.shape[-1] == 1
    )
