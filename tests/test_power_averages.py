"""Averages of the weights with a power profile, and averages of other widths made of them afterwards."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raising import raises_error
from torch import nn

from ddpm.checkpoints import checkpoint_files, post_hoc_ema
from ddpm.checkpoints.power_profiles import Profile, combine, gamma_of, inner_products, rate_at, width_of
from ddpm.cli import main
from ddpm.config import codec, ema_rates, validation
from ddpm.config.training import Config, TrainConfig
from ddpm.interop import export_openai
from ddpm.runs import manifests, openai_folder, runs
from ddpm.runs.jobs import Job
from ddpm.runs.runs import Run
from ddpm.runs.worker import Stopped, Worker
from ddpm.storage import files
from ddpm.training import optimizer
from ddpm.training.loop import TrainingLoop
from ddpm.training.optimizer import Ema

WIDTHS = (0.001, 0.03, 0.05, 0.1, 0.2, 0.28)


def mass(gamma: float, updates: int) -> np.ndarray:
    """What the weights after update 1, 2, ... count in the average: the integral of its profile over each step."""
    return np.diff((np.arange(updates + 1) / updates) ** (gamma + 1))


# --- the mathematics


@pytest.mark.parametrize("width", WIDTHS)
def test_a_width_is_the_standard_deviation_of_its_profile(width: float) -> None:
    gamma = gamma_of(width)
    assert width_of(gamma) == pytest.approx(width, rel=1e-9)
    s, p = (np.arange(10**6) + 0.5) / 10**6, mass(gamma, 10**6)
    assert np.sqrt(p @ s**2 - (p @ s) ** 2) == pytest.approx(width, rel=1e-3)


def test_the_gammas_of_the_paper() -> None:
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)


def test_inner_products_are_the_integrals() -> None:
    known, other = [Profile(17.0, 100), Profile(7.0, 130)], [Profile(0.5, 60), Profile(30.0, 130)]
    tau = (np.arange(13 * 10**5) + 0.5) / 10**4

    def values(profile: Profile) -> np.ndarray:
        gamma, t = profile
        return np.where(tau <= t, (gamma + 1) / t * (tau / t) ** gamma, 0.0)

    expected = [[(values(a) * values(b)).sum() / 10**4 for b in other] for a in known]
    np.testing.assert_allclose(inner_products(known, other), expected, rtol=1e-4)


def test_a_known_profile_is_found_and_nothing_else_counts() -> None:
    known = [Profile(gamma_of(width), t) for t in range(100, 1100, 100) for width in (0.05, 0.1)]
    for number in (0, 7, 19):
        found = combine(known, known[number])
        np.testing.assert_allclose(found.factors, np.eye(20)[number], atol=1e-4)
        assert found.error < 1e-5


@pytest.mark.parametrize(("width", "most"), [(0.03, 0.04), (0.07, 0.005), (0.15, 0.01), (0.2, 0.03)])
def test_two_profiles_tell_those_of_other_widths(width: float, most: float) -> None:
    known = [Profile(gamma_of(w), t) for t in range(100, 1700, 100) for w in (0.05, 0.1)]
    found = combine(known, Profile(gamma_of(width), 1600))
    assert found.factors.sum() == pytest.approx(1)
    assert found.error < most
    together = sum(
        f * np.pad(mass(p.gamma, p.updates), (0, 1600 - p.updates)) for f, p in zip(found.factors, known, strict=True)
    )
    true = mass(gamma_of(width), 1600)
    distance = np.linalg.norm(together - true) / np.linalg.norm(true)
    assert distance == pytest.approx(found.error, rel=0.1)


# --- averages in training


@pytest.mark.parametrize("native", [True, False])
def test_an_average_is_the_weighted_mean_of_the_weights(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a trajectory, exactly, whoever computes it."""
    from ddpm.models.native import build

    library = build.found()[0] if native else None
    if native and library is None:
        pytest.skip("no compiler")
    model = nn.Linear(30, 20)
    ema = Ema(model, ("power0.05", "0.9", "power0.2"), warmup=True)
    step = optimizer.Optimizer(list(model.parameters()), ema, TrainConfig(weight_decay=0.1), library)
    path = []
    random = torch.Generator().manual_seed(0)
    for _ in range(60):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        step.step(0.05)
        path.append(model.weight.detach().double().clone())
    for width in (0.05, 0.2):
        weights = torch.from_numpy(mass(gamma_of(width), 60))
        mean = torch.einsum("s,sij->ij", weights, torch.stack(path))
        torch.testing.assert_close(ema.weights(f"power{width}")["weight"].double(), mean, rtol=0, atol=1e-6)


def test_the_first_update_forgets_the_first_weights() -> None:
    assert rate_at(gamma_of(0.05), 1) == 0
    assert rate_at(6.94, 1000) == pytest.approx(0.999**7.94)


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("power0.05, power0.10", ("power0.05", "power0.1")),
        ("0.9990,power.1", ("0.999", "power0.1")),
        ("powerful,power", ("powerful", "power")),
    ],
)
def test_how_averages_are_written(text: str, rates: tuple[str, ...]) -> None:
    assert TrainConfig(ema_rate=text).ema_rates == rates
    for rate in rates:
        good = re.fullmatch(r"(power)?[0-9.]+", rate) is not None
        assert ema_rates.is_valid(rate) is good
        assert (manifests.FILE.fullmatch(f"ema_{rate}_000100.pt") is not None) or not good
        assert openai_folder.ema_rate_of(Path(f"ema_{rate}_000100.pt")) == (rate if good else "")


@pytest.mark.parametrize("rate", ["power0", "power0.3", "power-0.1", "powernan", "power1e9", "power"])
def test_a_width_that_no_average_has_is_refused(tiny: Config, rate: str) -> None:
    found = [p for p in validation.problems(codec.replace(tiny, {"ema_rate": rate})) if p.name == "ema_rate"]
    assert [p.code for p in found] == ["bad-value"]


# --- in a run

STEPS, EVERY = 48, 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained with two power averages, and a third one to compare with."""
    config = codec.replace(Config(), TINY | dict(ema_rate="power0.05,power0.1,power0.07", total_steps=STEPS))
    run = runs.create_run(tmp_path_factory.mktemp("runs"), "mine", config)
    with Worker(run.folder, STEPS) as worker:
        for _ in TrainingLoop(run, worker).train():
            pass
    return Run(run.folder)


TINY = dict(
    data_dir="shapes",
    image_size=8,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1",
    num_heads=1,
    attention_resolutions="",
    diffusion_steps=20,
    noise_schedule="cosine",
    batch_size=4,
    lr=1e-2,
    save_interval=EVERY,
    sample_interval=0,
    threads=1,
)


def without_the_third(run: Run, folder: Path) -> Run:
    """A copy of the run as if it had tracked two averages."""
    copy = runs.create_run(folder, "copy", codec.replace(run.config, {"ema_rate": "power0.05,power0.1"}))
    for checkpoint in run.checkpoints():
        kept = {name: entry for name, entry in checkpoint.files.items() if "power0.07" not in name}
        (copy.folder / "saves").mkdir(exist_ok=True)
        for name in kept:
            files.copy_all([run.folder / name], copy.folder)
        manifests.commit(checkpoint._replace(folder=copy.folder, files=kept))
    return Run(copy.folder)


def test_an_average_made_afterwards_is_the_one_that_was_tracked(
    trained: Run, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is one of the checkpoint's weights from then on, last of its averages; a second time it is there already."""
    run = without_the_third(trained, runs_dir)
    command = ["ema", "--run", "copy", "--width", "0.07", "--runs_dir", str(runs_dir)]
    assert main.main(command) == 0
    checkpoint = Run(run.folder).checkpoints()[-1]
    assert checkpoint.weights == ["ema_power0.05", "ema_power0.1", "ema_power0.07", "model"]
    assert not checkpoint_files.fault(checkpoint)
    made, tracked, near, raw = (
        checkpoint_files.load_weights(path)
        for path in (
            checkpoint.path("ema_power0.07"),
            trained.checkpoints()[-1].path("ema_power0.07"),
            checkpoint.path("ema_power0.05"),
            checkpoint.path("model"),
        )
    )

    def distance(one: checkpoint_files.Weights) -> float:
        return float(sum((one.tensors[name] - value).square().sum() for name, value in tracked.tensors.items()) ** 0.5)

    assert distance(made) < 0.03 * distance(near) < 0.03 * distance(raw)
    assert (made.kind, made.step, made.config) == ("ema_power0.07", STEPS, run.config)
    assert made.data == raw.data
    assert (
        main.main(
            [
                "sample",
                "--run",
                "copy",
                "--runs_dir",
                str(runs_dir),
                "--weights",
                "ema_power0.07",
                "--num_samples",
                "2",
                "--steps",
                "2",
            ]
        )
        == 0
    )
    assert post_hoc_ema.make(Run(run.folder), 0.07).error is None


def test_what_cannot_be_made(trained: Run, runs_dir: Path, fake_run: Callable[..., Run]) -> None:
    with raises_error("out-of-range", 0.5):
        post_hoc_ema.make(trained, 0.5)
    with raises_error("out-of-range", 0.005):
        post_hoc_ema.make(trained, 0.005)
    with raises_error("unknown-step"):
        post_hoc_ema.make(trained, 0.08, step=3)
    plain = fake_run()
    with raises_error("missing-weights"):
        post_hoc_ema.make(plain, 0.08)


def test_a_damaged_average_is_named(trained: Run, runs_dir: Path) -> None:
    run = without_the_third(trained, runs_dir)
    path = run.checkpoints()[3].path("ema_power0.1")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with raises_error("damaged-checkpoint", path.name):
        post_hoc_ema.make(run, 0.07)
    assert "ema_power0.07" not in Run(run.folder).checkpoints()[-1].weights


def test_resuming_is_exact(trained: Run, runs_dir: Path) -> None:
    run = runs.create_run(runs_dir, "mine", trained.config)
    for until in (21, STEPS):
        with Worker(run.folder, STEPS) as worker:
            for report in TrainingLoop(Run(run.folder), worker).train():
                if report.step == until - 1 and until < STEPS:
                    run.request("stop")
    ours, theirs = (torch.load(r.checkpoint(STEPS).path("ema_power0.05"), weights_only=True) for r in (run, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_exported_they_are_files_to_sample_from(trained: Run, tmp_path: Path) -> None:
    notes = export_openai.export_checkpoint(trained, tmp_path / "openai")
    assert (tmp_path / "openai" / f"ema_power0.05_{STEPS:06d}.pt").exists()
    assert any("power0.05" in note for note in notes)
    assert "--ema_rate" not in (tmp_path / "openai" / "flags.txt").read_text()


def test_widths_and_rates_are_said_in_words() -> None:
    assert [*map(ema_rates.label, ("model", "ema_0.9999", "ema_power0.05"))] == [
        "raw weights",
        "EMA 0.9999",
        "EMA width 0.05",
    ]


def test_a_checkpoint_that_a_training_removes_meanwhile_does_not_come_back(
    fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake_run("pruned")
    target, write = run.checkpoint(), files.write

    def and_prune(path: Path, save: Callable[[object], object], *more: object) -> object:
        written = write(path, save)
        target.manifest_path.unlink()
        return written

    monkeypatch.setattr(post_hoc_ema.files, "write", and_prune)
    with raises_error("changed-file"):
        post_hoc_ema._save(run, target, "ema_power0.08", {"w": torch.zeros(1)})
    assert not target.manifest_path.exists()
    assert not target.path("ema_power0.08").exists()


def test_a_stop_ends_it_quietly(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: Any) -> None:
        raise Stopped

    monkeypatch.setattr(post_hoc_ema, "make", make)
    words = [
        "ema",
        "--run",
        trained.name,
        "--runs_dir",
        str(trained.folder.parent),
        "--width",
        "0.1",
        "--job",
        str(tmp_path / "job"),
    ]
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    assert ended.value.code == 0
    assert Job(tmp_path / "job").state() == "stopped"
