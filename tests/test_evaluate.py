"""Bits per dimension: against a plain loop and closed forms, in any batches; files, an early end, held-out data."""

import math
import multiprocessing
import shlex
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from raising import raises_error
from torch import Tensor

from ddpm import schedules
from ddpm.analysis import bound, likelihood
from ddpm.analysis.bound import Tally, student_t
from ddpm.analysis.likelihood import Measured, measure
from ddpm.checkpoints import checkpoint_files
from ddpm.cli import main
from ddpm.compute import distributed
from ddpm.config import codec
from ddpm.config.model import DiffusionConfig, ModelConfig
from ddpm.config.tasks import EvalConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import datasets, lineage, splits
from ddpm.data.datasets import Dataset, open_dataset, part_of
from ddpm.data.stream import Stream
from ddpm.diffusion import losses
from ddpm.diffusion.denoiser import Prediction
from ddpm.diffusion.process import q_sample
from ddpm.planning.resolve import resolve_evaluation
from ddpm.runs import results, runs
from ddpm.runs.results import EvaluationJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.storage import files, images
from ddpm.training.loop import TrainingLoop
from ddpm.training.trainer import Trainer


@pytest.fixture
def pictures() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), None, (), ())


def network(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
    """Some noise that it expects; each row's depends on that row alone."""
    return 0.9 * x + 0.01 * torch.sin(t).reshape(-1, 1, 1, 1)


def tallied(totals: Iterable[float]) -> Tally:
    """These bits per dimension, counted in one by one."""
    tally, nothing = Tally(1), torch.zeros(1, 1)
    for total in totals:
        tally.add(bound.Bits(torch.tensor([total], dtype=torch.float64), nothing[0], nothing, nothing, nothing), 0)
    return tally


def last(config: Config, pictures: Dataset, **settings: object) -> Tally:
    *_, measured = measure(network, resolve_evaluation(config, EvalConfig(**settings)), pictures)  # type: ignore[arg-type]
    assert (measured.done == measured.total) or settings.get("until_ci")
    return measured.so_far


# The numbers


def test_the_same_as_one_image_and_one_timestep_at_a_time(tiny: Config, pictures: Dataset) -> None:
    settings, T = tiny.diffusion, tiny.diffusion.diffusion_steps
    full = schedules.named(settings.noise_schedule, T)
    pixels = Stream(pictures, seed=3).next(5)[0]
    vb = np.zeros(T)
    for k, image in enumerate(pixels):
        x_start = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        noise = bound.noise_for(3, x_start.shape[1:])
        for t in range(T):
            index = torch.tensor([t])
            x_t = q_sample(full, x_start, index, noise(k, t)[None])
            eps = network(x_t, index * 1000 / T)
            abar = full.alphas_cumprod[t]
            clean = ((x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)).clamp(-1, 1)
            vb[t] += float(losses.vlb_terms(full, settings, x_start, x_t, index, Prediction(clean))) / 5
    found = last(tiny, pictures, num_samples=5, seed=3, rows=7)
    np.testing.assert_allclose(found.terms()["vb"], vb, rtol=1e-4, atol=1e-6)
    assert found.mean == pytest.approx(found.prior + vb.sum(), rel=1e-4)


@pytest.mark.slow
def test_who_knows_the_one_image_needs_next_to_nothing() -> None:
    """For data of one point the true posterior is q's own: every KL is 0, and the decoder's mass is all in one bin."""
    schedule, settings = (
        schedules.named("linear", 50),
        DiffusionConfig(diffusion_steps=50, prediction="x_start", sigma_small=True),
    )
    x_start = torch.full((2, 1, 4, 4), 127 / 127.5 - 1)
    noise = bound.noise_for(0, x_start.shape[1:])
    found = bound.bits_per_dim(
        lambda x, t: torch.full_like(x, 127 / 127.5 - 1), schedule, schedule, settings, x_start, noise
    )
    assert found.vb[:, 1:].abs().max() < 1e-6
    assert found.xstart_mse.max() == 0
    assert found.mse.max() < 1e-6
    sigma = math.sqrt(schedule.posterior_variance[1])
    mass = math.erf(1 / 255 / sigma / math.sqrt(2))
    assert found.vb[0, 0] == pytest.approx(-math.log2(mass), abs=2e-3)  # the tanh approximation's error
    torch.testing.assert_close(found.total, found.prior + found.vb.sum(dim=1))


@pytest.mark.parametrize("settings", [dict(rows=1), dict(rows=7), dict(rows=10**4, batch_size=64), dict(batch_size=5)])
def test_batching_changes_nothing(settings: dict, tiny: Config, pictures: Dataset) -> None:
    plain, other = last(tiny, pictures, num_samples=9), last(tiny, pictures, num_samples=9, **settings)
    np.testing.assert_allclose(other.totals, plain.totals, rtol=1e-5)
    for name, values in plain.terms().items():
        np.testing.assert_allclose(other.terms()[name], values, rtol=1e-4, atol=1e-7)


def test_never_more_rows_than_asked_for_and_no_call_untold(tiny: Config, pictures: Dataset) -> None:
    seen: list[int] = []

    def counting(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        seen.append(len(x))
        return network(x, t)

    records = list(measure(counting, resolve_evaluation(tiny, EvalConfig(num_samples=7, rows=16)), pictures))
    assert max(seen) == 16
    assert sum(seen) == 7 * 20
    assert sum(not record.together for record in records) == len(seen)
    assert [record.done for record in records] == sorted(record.done for record in records)


def test_a_shortened_process_has_as_many_terms(tiny: Config, pictures: Dataset) -> None:
    found = last(tiny, pictures, num_samples=2, timestep_respacing="5")
    assert {len(values) for values in found.terms().values()} == {5}


def test_images_are_chosen_by_the_seed_from_all_over_the_data(tiny: Config, pictures: Dataset) -> None:
    one, two = last(tiny, pictures, num_samples=4), last(tiny, pictures, num_samples=6)
    assert two.totals[:4] == pytest.approx(one.totals, rel=1e-5)
    assert last(tiny, pictures, num_samples=4, seed=9).totals != pytest.approx(one.totals, rel=1e-5)
    assert last(tiny, pictures, num_samples=1000).count == 40


def test_classes_are_reported_by_name_and_small_images_from_the_large(tiny: Config, pictures: Dataset) -> None:
    config = codec.replace(tiny, dict(class_cond=True, num_classes=3, class_names=("a", "b", "c"), small_size=4))
    labelled = Dataset(pictures.images, np.arange(40) % 2, ("c", "a"), ())
    reported: list[tuple[int, Tensor]] = []

    def listening(x: Tensor, t: Tensor, y: Tensor, low_res: Tensor) -> Tensor:
        reported.extend(zip(y.tolist(), low_res, strict=True))
        return network(x, t)

    list(measure(listening, resolve_evaluation(config, EvalConfig(num_samples=3, rows=20)), labelled))
    pixels, labels = Stream(labelled, 0).next(3)
    assert labels is not None
    assert [y for y, _ in reported[::20]] == [(2, 0)[label] for label in labels]
    small = pixels[0].astype(float).reshape(4, 2, 4, 2, 3).mean(axis=(1, 3)) / 127.5 - 1
    np.testing.assert_allclose(reported[0][1].permute(1, 2, 0), small, atol=1e-5)


def test_data_of_other_classes_is_refused(tiny: Config) -> None:
    config = codec.replace(tiny, dict(class_cond=True, num_classes=2, class_names=("a", "b")))
    with raises_error("unknown-class"):
        datasets.class_numbers(config, ("a", "z"))
    with raises_error("no-classes"):
        datasets.class_numbers(config, ())
    nameless = codec.replace(tiny, dict(class_cond=True, num_classes=2))
    assert datasets.class_numbers(nameless, ("x", "y")).tolist() == [0, 1]  # type: ignore[union-attr]
    with raises_error("unknown-class", 2):
        datasets.class_numbers(nameless, ("x", "y", "z"))
    numbered = codec.replace(config, dict(num_classes=3, class_names=("0", "1", "2")))  # places, or names
    assert datasets.class_numbers(numbered, ("cat", "dog", "fox")).tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert datasets.class_numbers(numbered, ("0", "2")).tolist() == [0, 2]  # type: ignore[union-attr]
    with raises_error("unknown-class", "(3)"):
        datasets.class_numbers(numbered, ("1", "2", "3"))
    assert datasets.class_numbers(tiny, ()) is None


# The mean and its interval


def test_the_interval_ends_it_at_a_whole_batch(tiny: Config, pictures: Dataset) -> None:
    every = last(tiny, pictures, num_samples=40)
    found = last(tiny, pictures, num_samples=40, until_ci=100.0)
    assert found.count == likelihood.MIN_IMAGES
    assert found.totals == pytest.approx(every.totals[: likelihood.MIN_IMAGES], rel=1e-5)
    assert last(tiny, pictures, num_samples=40, until_ci=100.0, batch_size=10, rows=10**4).count == 20
    assert last(tiny, pictures, num_samples=40, until_ci=1e-9).count == 40


def test_students_t_against_tables() -> None:
    known = {1: 12.706, 2: 4.303, 9: 2.262, 10: 2.228, 15: 2.131, 30: 2.042, 100: 1.984, 10**6: 1.960}
    for freedom, value in known.items():
        assert student_t(freedom) == pytest.approx(value, abs=6e-4)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        tally = tallied(rng.normal(3.0, 1.0, 6))
        hits += abs(tally.mean - 3.0) <= (tally.ci95 or 0)
    assert 0.92 < hits / 400 < 0.98
    assert tallied([3.0]).ci95 is None


def test_the_mean_and_its_interval_are_exact_and_asked_for_at_no_cost() -> None:
    class Unread(list[float]):
        def __iter__(self) -> Iterator[float]:
            raise AssertionError("the pictures are gone through again")

    values = (50 + np.random.default_rng(0).normal(3.0, 1.0, 10_000)).tolist()
    tally = tallied(values)
    tally.totals = Unread(tally.totals)
    assert tally.mean == pytest.approx(math.fsum(values) / 10_000, rel=1e-12)
    wanted = student_t(9_999) * statistics.stdev(values) / 100
    assert tally.ci95 == pytest.approx(wanted, rel=1e-12)


def test_what_is_no_number_is_reported(tiny: Config, pictures: Dataset) -> None:
    with raises_error("not-finite", 1):
        list(measure(lambda x, t: x * math.nan, resolve_evaluation(tiny, EvalConfig(num_samples=2)), pictures))


def _one_of_two(rank: int, store: str, config: Config, pictures: Dataset, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = last(config, pictures, num_samples=19, until_ci=100.0, batch_size=3)
    np.save(f"{out}{rank}.npy", found.totals)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_find_the_same(tiny: Config, pictures: Dataset, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    given = (str(tmp_path / "store"), tiny, pictures, str(tmp_path / "found"))
    both = [context.Process(target=_one_of_two, args=(rank, *given)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    first, second = (np.load(tmp_path / f"found{rank}.npy") for rank in range(2))
    assert first.tolist() == second.tolist()
    alone = last(tiny, pictures, num_samples=19, until_ci=100.0, batch_size=3)
    assert alone.count == 18
    np.testing.assert_allclose(first, alone.totals, rtol=1e-5)


# The folder


@pytest.fixture
def trained(runs_dir: Path, tiny: Config) -> Run:
    """A run with a checkpoint whose weights can be loaded; a tenth of its images were held out."""
    config = datasets.resolve(codec.replace(tiny, dict(hold_out=0.1, class_cond=True)))
    run = runs.create_run(runs_dir, "trained", config)
    dataset = open_dataset(config.data, config.model, seed=config.train.seed)
    trainer = Trainer(config, dataset)
    list(trainer.steps(2))
    state = {**trainer.state(), "data": lineage.to_json(dataset.digest)}
    checkpoint_files.save(run, 2, trainer.weights(), trainer.optimizer.state_dict(), state, 0, 1.0)
    return run


def nll(run: Run, *flags: str) -> int:
    return main.main(["nll", "--run", run.name, "--runs_dir", str(run.folder.parent), "--threads", "1", *flags])


def test_a_run_is_measured_into_its_folder(trained: Run, capsys: pytest.CaptureFixture) -> None:
    assert nll(trained, "--num_samples", "3") == 0
    (job,) = trained.evaluation_jobs()
    assert job.state() == "finished"
    result, said = job.result, capsys.readouterr().out
    assert f"{results.bits(result['bits_per_dim'], result['ci95'])} bits/dim (3 held-out images)" in said
    for name in ("vb", "mse", "xstart_mse"):
        with np.load(job.folder / f"{name}_terms.npz") as arrays:
            assert arrays.files == ["arr_0"]
            assert arrays["arr_0"].shape == (20,)
            assert np.array_equal(arrays["arr_0"][::-1], job.terms()[name]), "t = T-1 first"
    assert result["prior"] + job.terms()["vb"].sum() == pytest.approx(result["bits_per_dim"])
    assert sum(result["vb_quarters"]) == pytest.approx(job.terms()["vb"].sum())
    held_out = open_dataset(trained.config.data, trained.config.model, split="test", seed=trained.config.train.seed)
    assert result["data"] == {"data_dir": "shapes", "part": "test", "count": len(held_out)}
    assert result["checkpoint"]["weights"] == "ema_0.9"
    assert len(result["checkpoint"]["sha256"]) == 64
    status = job.status()
    assert status is not None
    assert status.metrics["bits_per_dim"] == pytest.approx(result["bits_per_dim"])
    assert status.step == status.total_steps > 0


def test_the_command_it_tells_measures_the_same_again(trained: Run, tmp_path: Path) -> None:
    assert nll(trained, "--num_samples", "3", "--weights", "model", "--seed", "4", "--timestep_respacing", "7") == 0
    (job,) = trained.evaluation_jobs()
    words = shlex.split(job.result["command"])
    assert main.main([*words[1:], "--out", str(tmp_path / "again")]) == 0
    again = EvaluationJob(tmp_path / "again").result
    assert again["bits_per_dim"] == job.result["bits_per_dim"]
    assert again["timesteps"] == 7
    assert main.main([*words[1:], "--out", str(tmp_path / "again")]) == 2  # it is there already


def test_a_stop_keeps_what_was_measured(trained: Run, tmp_path: Path) -> None:
    job = EvaluationJob(tmp_path / "stopped")
    with Worker(job.folder) as worker:
        measuring = likelihood.evaluate_source(job.folder, worker, trained, EvalConfig(num_samples=12, rows=20), {})
        for measured in measuring:
            assert isinstance(measured, Measured)
            if measured.so_far.count == 2:
                job.request("stop")
    status = job.status()
    assert status is not None
    assert status.state == "stopped"
    kept = job.result["pictures"]
    assert 2 <= kept < 12
    assert status.message == f"Stopped with {kept} of 12 images evaluated"
    assert job.result["ended"] == "stopped"
    assert job.summary.endswith(f"({kept} held-out images)")


def lost_at(image: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process ends before so many images are counted in."""

    def add(self: Tally, *given: object) -> None:
        if self.count + 1 == image:
            raise distributed.PeerLost
        counted(self, *given)  # type: ignore[arg-type]

    counted = Tally.add
    monkeypatch.setattr(Tally, "add", add)


def test_what_was_measured_is_kept_when_another_process_ends(
    trained: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    lost_at(4, monkeypatch)
    assert nll(trained, "--num_samples", "9") == 2
    assert "Another process of this work ended" in capsys.readouterr().err
    (job,) = trained.evaluation_jobs()
    assert job.state() == "failed"
    assert (job.result["pictures"], job.result["asked"], job.result["ended"]) == (3, 9, "failed")
    assert len(job.terms()["vb"]) == 20


def test_before_anything_is_measured_no_folder_is_left(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lost_at(1, monkeypatch)
    assert nll(trained, "--num_samples", "9") == 2
    assert not trained.evaluation_jobs()


def test_where_there_is_no_room_for_the_result_the_status_keeps_it(
    trained: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        if path.suffix == ".npz":
            raise files.DiskFull(path)
        write(path, content)

    write = files.write_bytes
    monkeypatch.setattr(files, "write_bytes", full)
    assert nll(trained, "--num_samples", "3") == 2
    assert "No room to write" in capsys.readouterr().err
    (job,) = trained.evaluation_jobs()
    status = job.status()
    assert status is not None
    assert status.metrics["pictures"] == 3
    assert status.metrics["bits_per_dim"]


def draw(run: Run, *flags: str) -> int:
    return main.main(
        [
            "sample",
            "--run",
            run.name,
            "--runs_dir",
            str(run.folder.parent),
            "--threads",
            "1",
            "--num_samples",
            "6",
            "--batch_size",
            "2",
            "--timestep_respacing",
            "3",
            *flags,
        ]
    )


@pytest.mark.parametrize("full_for_good", [False, True])
def test_what_was_sampled_is_kept_where_the_disk_is_full(
    full_for_good: bool, trained: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def save(path: Path, pixels: np.ndarray, *more: object, **named: object) -> None:
        if path.name == "00003.png" or (full_for_good and path.name == "grid.png"):
            raise files.DiskFull(path)
        saved(path, pixels, *more, **named)  # type: ignore[arg-type]

    saved = images.save_png
    monkeypatch.setattr(images, "save_png", save)
    assert draw(trained) == 2
    assert "No room to write 00003.png" in capsys.readouterr().err, "what went wrong first"
    (job,) = trained.sample_jobs()
    assert {path.name for path in job.images} >= {"00000.png", "00001.png", "00002.png"}
    assert job.shape == (None if full_for_good else (3, 8, 8, 3)), "all that reached the disk"


def test_before_anything_is_sampled_no_folder_is_left(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*given: object) -> list:
        raise distributed.PeerLost

    monkeypatch.setattr(distributed, "all_gather_object", lost)
    assert draw(trained) == 2
    assert not trained.sample_jobs()


def test_an_early_end_is_reported(trained: Run) -> None:
    assert nll(trained, "--num_samples", "30", "--until_ci", "50") == 0
    (job,) = trained.evaluation_jobs()
    assert (job.result["ended"], job.result["pictures"], job.result["asked"]) == ("until_ci", 16, 30)
    assert job.state() == "finished"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--data_dir", "cifar10-mini"], "classes that the model does not know"),
        (["--data_dir", "shapes-not"], "There is no folder or file"),
        (["--num_samples", "0"], "num_samples is 0: set it between"),
        (["--rows", "0"], "rows is 0: set it between"),
        (["--weights", "ema_0.5"], "has no weights 'ema_0.5'"),
        (["--step", "7"], "no checkpoint of step 7"),
        (["--num_channels", "64"], "leave it out"),
        (["--timestep_respacing", "99"], "asks for 99 steps"),
    ],
)
def test_bad_input_is_reported_and_leaves_no_folder(
    flags: list[str], sentence: str, trained: Run, capsys: pytest.CaptureFixture
) -> None:
    assert nll(trained, *flags) == 2
    assert sentence in capsys.readouterr().err
    assert not trained.evaluation_jobs()


def test_the_references_flags_and_defaults_are_understood() -> None:
    line = (
        "nll --model_path model.pt --data_dir x --clip_denoised True --num_samples 1000 --batch_size 1 --image_size 64"
    )
    line += " --num_channels 128 --num_res_blocks 2 --num_heads 4 --num_heads_upsample -1 --attention_resolutions 16,8"
    line += " --dropout 0.0 --learn_sigma False --sigma_small False --class_cond False --diffusion_steps 1000"
    line += " --noise_schedule linear --use_kl False --predict_xstart False --rescale_timesteps True"
    line += " --rescale_learned_sigmas True --use_checkpoint False --use_scale_shift_norm True"
    options = main._parser().parse_args(line.split())
    assert options.use_scale_shift_norm is True
    defaults = EvalConfig()
    assert (defaults.num_samples, defaults.batch_size, defaults.clip_denoised, defaults.data_dir) == (1000, 1, True, "")


@pytest.mark.slow
def test_a_file_without_settings_needs_data_and_takes_flags(
    tiny: Config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    trainer = Trainer(tiny, open_dataset(tiny.data, tiny.model))
    path = tmp_path / "model000001.pt"
    torch.save(dict(trainer.model.state_dict()), path)
    flags = [*codec.to_flags(tiny.model), *codec.to_flags(tiny.diffusion)]
    line = ["nll", "--model_path", str(path), *flags, "--num_samples", "2", "--out", str(tmp_path / "out")]
    with raises_error("no-data-named", "--data_dir"):
        main.execute(line)
    assert main.main([*line, "--data_dir", "cifar10-mini"]) == 0
    result = EvaluationJob(tmp_path / "out").result
    assert result["data"]["part"] == "all"
    assert "--num_channels 32" in result["command"]
    again = [*shlex.split(result["command"])[1:], "--out", str(tmp_path / "again")]
    assert "--probe False" in result["command"]
    assert main.main(again) == 0
    assert EvaluationJob(tmp_path / "again").result["bits_per_dim"] == result["bits_per_dim"]


def test_images_smaller_than_the_model_are_refused_or_enlarged(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in trained.config.class_names[:2]:
        images.save_png(tmp_path / "small" / name / "1.png", np.zeros((5, 6, 3), np.uint8))
    flags = ["--data_dir", str(tmp_path / "small"), "--num_samples", "1"]
    assert nll(trained, *flags) == 2
    assert "set enlarge to True" in capsys.readouterr().err
    assert nll(trained, *flags, "--enlarge", "True") == 0
    (job,) = trained.evaluation_jobs()
    assert job.result["pictures"] == 1
    assert "--enlarge True" in job.result["command"]
    (tmp_path / "small" / trained.config.class_names[0] / "2.png").touch()
    assert nll(trained, *flags, "--enlarge", "True") == 2
    assert "skip_broken" in capsys.readouterr().err
    assert nll(trained, *flags, "--enlarge", "True", "--skip_broken", "True") == 0


# Held-out data


def test_training_never_sees_what_is_held_out(tiny: Config) -> None:
    settings = DataConfig(data_dir="cifar10-mini", hold_out=0.2)
    parts = {split: open_dataset(settings, tiny.model, split=split, seed=5) for split in ("all", "train", "test")}  # type: ignore[arg-type]
    train, test = parts["train"].indices, parts["test"].indices
    assert train is not None
    assert test is not None
    assert (len(parts["all"]), len(train) + len(test)) == (1000, 1000)
    assert 150 < len(test) < 250, "about a fifth: each image's content decides"
    assert sorted([*train, *test]) == list(range(1000))
    seen = Stream(parts["train"], 5).next(1600)[0]
    sampled = {image.tobytes() for image in seen}
    assert sampled == {parts["all"].images[k].tobytes() for k in train}
    other = open_dataset(settings, tiny.model, split="test", seed=6).indices
    assert not np.array_equal(other, test)


def test_what_a_seed_holds_out_never_changes() -> None:
    identities = np.arange(12 * 32, dtype=np.uint8).reshape(12, 32)
    assert np.flatnonzero(splits.held_out(identities, 0.25, 7)).tolist() == HELD_OUT
    assert datasets.held_out_count(3, 0.01) == 1
    assert datasets.held_out_count(2, 0.9) == 1
    assert datasets.held_out_count(100, 0.0) == 0


HELD_OUT = [1, 5, 6, 7, 9]


def test_a_resumed_training_goes_on_with_the_same_part(tiny: Config) -> None:
    config = codec.replace(tiny, dict(hold_out=0.3, seed=2))

    def trainer() -> Trainer:
        return Trainer(config, open_dataset(config.data, config.model, seed=config.train.seed))

    straight, stopped, resumed = trainer(), trainer(), trainer()
    list(straight.steps(4))
    list(stopped.steps(2))
    resumed.load(stopped.weights(), stopped.optimizer.state_dict(), stopped.state())
    list(resumed.steps(4))
    for one, other in zip(straight.parameters, resumed.parameters, strict=True):
        assert torch.equal(one, other)


def test_an_npz_with_a_test_part_of_its_own(tmp_path: Path, tiny: Config) -> None:
    pixels = np.arange(6, dtype=np.uint8).repeat(8 * 8 * 3).reshape(6, 8, 8, 3)
    path = tmp_path / "own.npz"
    np.savez(path, train=pixels[:4], train_labels=["x", "y", "x", "z"], test=pixels[4:], test_labels=["z", "x"])
    settings = DataConfig(data_dir=str(path))
    assert datasets.describe(str(path)).test_count == 2
    train, test = (open_dataset(settings, tiny.model, split=split) for split in ("train", "test"))  # type: ignore[arg-type]
    assert (train.images[:, 0, 0, 0].tolist(), test.images[:, 0, 0, 0].tolist()) == ([0, 1, 2, 3], [4, 5])
    assert test.labels is not None
    assert test.labels.tolist() == [2, 0]
    again = open_dataset(settings, tiny.model, split="train")
    assert len(again) == 4, "both parts stay in the cache"
    assert [part_of(settings, split) for split in ("auto", "train", "test")] == ["test", "train", "test"]
    np.savez(path, train=pixels[:4], train_labels=["x", "y", "x", "z"], test=pixels[4:], test_labels=["z", "new"])
    with raises_error("bad-labels"):
        open_dataset(settings, tiny.model, split="test")


def test_a_part_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with raises_error("no-test-part"):
        part_of(DataConfig(data_dir="shapes"), "test")
    with raises_error("no-test-part"):
        open_dataset(DataConfig(data_dir="shapes"), ModelConfig(image_size=8), split="test")
    assert part_of(DataConfig(data_dir="shapes"), "auto") == "train"
    np.savez(tmp_path / "one.npz", np.zeros((1, 8, 8, 3), np.uint8))
    with raises_error("too-few-images"):
        open_dataset(DataConfig(data_dir=str(tmp_path / "one.npz"), hold_out=0.5), ModelConfig(image_size=8))


def test_a_session_trains_without_them(runs_dir: Path, tiny: Config, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run = runs.create_run(runs_dir, "holding", codec.replace(tiny, {"hold_out": 0.5}))
    with Worker(run.folder, 1) as worker:
        loop = TrainingLoop(run, worker)
        every = datasets.describe("shapes").count
        assert 0.45 * every < loop.images < 0.55 * every
    assert datasets.describe("shapes").lines[0] in caplog.messages, "the log says what the data is"
