"""Sampling jobs: images written as they come, ended and resumed, and sampled again from what their files record."""

import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from raising import raises_error
from torch import Tensor
from waiting import until, until_finished

from ddpm.checkpoints import checkpoint_files, loading
from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.host import memory as host_memory
from ddpm.models import backend
from ddpm.models.backend import ComputeMode
from ddpm.models.unet import build
from ddpm.planning import memory, metadata
from ddpm.runs import launch, runs, trash
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.sampling import engine, sample_writer
from ddpm.sampling import job as sampling_job
from ddpm.sampling.request import resolve_request
from ddpm.storage import arrays, files, images
from ddpm.storage.arrays import Stream

ROOT = Path(sampling_job.__file__).parents[2]
QUICK = SampleConfig(num_samples=5, batch_size=2, steps=3, seed=4, precision="fp32", threads=1)


@pytest.fixture
def classy(tiny: Config) -> Config:
    return codec.replace(tiny, dict(class_cond=True, num_classes=3, class_names=("cat", "2", "dog")))


@pytest.fixture
def run(runs_dir: Path, classy: Config) -> Run:
    """A run with one checkpoint, of weights at random."""
    made = runs.create_run(runs_dir, "made", classy)
    torch.manual_seed(0)
    network = build(classy.model)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    weights = network.state_dict()
    checkpoint_files.save(made, 7, {"model": weights, "ema_0.9": weights}, {"state": {}}, {}, 0, 1.0)
    return made


def draw(run: Run, folder: Path, settings: SampleConfig) -> SampleJob:
    with Worker(folder) as worker:
        sampling_job.sample_source(folder, worker, run, settings, {})
    return SampleJob(folder)


def resume(folder: Path) -> SampleJob:
    with Worker(folder) as worker:
        sampling_job.resume(folder, worker)
    return SampleJob(folder)


def pixels(job: SampleJob) -> np.ndarray:
    assert job.npz
    with np.load(job.npz) as packed:
        return packed["arr_0"]


def results(folder: Path) -> dict[str, Any]:
    """What was sampled, by file: bytes of arrays, pixels of images."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.glob("*.npz")}
    for path in [*folder.glob("images/*.png"), folder / "grid.png", *folder.glob("pairs.png"), *folder.glob("given/*")]:
        if path.name.startswith(files.TEMPORARY):  # killed while it wrote; swept up later
            continue
        image = Image.open(path)
        found[str(path.relative_to(folder))] = (image.mode, image.size, image.tobytes())
    return found


# --- arrays


def test_npz_is_numpys(tmp_path: Path) -> None:
    whole = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3, 1)
    labels = np.array([4, 3, 2, 1, 0])
    pieces = (whole[k : k + 2] for k in (0, 2, 4))
    written = arrays.write_npz(
        tmp_path / "ours.npz", Stream(whole.shape, np.uint8, pieces), Stream((5,), np.int64, [labels])
    )
    assert written.sha256 == files.sha256(tmp_path / "ours.npz")
    expected = io.BytesIO()
    np.savez(expected, whole, labels)
    with zipfile.ZipFile(expected) as theirs, zipfile.ZipFile(tmp_path / "ours.npz") as ours:
        assert ours.testzip() is None
        assert {n: ours.read(n) for n in ours.namelist()} == {n: theirs.read(n) for n in theirs.namelist()}
    with np.load(tmp_path / "ours.npz") as loaded:
        assert (loaded["arr_0"] == whole).all()
        assert loaded["arr_1"].dtype == np.int64


def test_too_few_pieces_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="1 of 2 rows"):
        arrays.write_npz(tmp_path / "a.npz", Stream((2,), np.int64, [np.zeros(1, np.int64)]))
    assert not list(tmp_path.iterdir())


# --- ended, and gone on with


def test_stopped_and_gone_on_with(run: Run, tmp_path: Path) -> None:
    straight = draw(run, tmp_path / "straight", QUICK)
    folder = tmp_path / "stopped"
    with Worker(folder) as worker:
        poll_requests, steps = worker.poll_requests, iter(range(100))
        worker.poll_requests = lambda: poll_requests() | ({"stop"} if next(steps) >= 3 else set())  # type: ignore[method-assign]
        sampling_job.sample_source(folder, worker, run, QUICK, {})
    job = SampleJob(folder)
    status = job.status()
    assert status
    assert (status.state, status.step, status.message) == ("stopped", 4, "Stopped with 2 of 5 images")
    assert job.shape == (2, 8, 8, 3)
    before = job.images[0].stat().st_mtime_ns
    with raises_error("already-exists"):
        draw(run, folder, QUICK)
    resume(folder)
    assert job.state() == "finished"
    assert results(folder) == results(straight.folder)
    assert job.images[0].stat().st_mtime_ns == before, "what was sampled is kept"
    assert len(list(folder.glob("*.npz"))) == 1
    with raises_error("nothing-left", 5):
        launch.resume_sampling(job)


@pytest.mark.slow
def test_killed_and_gone_on_with(run: Run, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, num_samples=41, steps=20, batch_size=3)
    folder = run.folder / "samples" / "20260101-000000"
    command = [
        sys.executable,
        "-m",
        "ddpm",
        "sample",
        "--run",
        run.name,
        "--runs_dir",
        str(run.folder.parent),
        *codec.to_flags(settings),
        "--out",
        str(folder),
    ]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    job = SampleJob(folder)
    until(lambda: len(job.images) >= 4 or child.poll() is not None)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = len(job.images)
    assert 4 <= kept < 41
    assert job.state() == "lost"
    assert job.npz is None
    with raises_error("already-exists", "ddpm sample --resume"):
        draw(run, folder, settings)
    job.images[3].write_bytes(job.images[3].read_bytes()[:60])  # as a power cut leaves it
    launch.resume_sampling(job)
    until_finished(job)
    straight = draw(run, tmp_path / "straight", settings)
    assert results(folder) == results(straight.folder)


def test_a_stop_is_answered_within_a_call(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = ComputeMode.prepared

    def counted(*arguments: Any) -> Callable[..., Tensor]:
        network = real(*arguments)

        def compute(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            calls.append(len(x))
            if len(calls) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return network(x, t, **condition)

        return compute

    monkeypatch.setattr(ComputeMode, "prepared", counted)
    job = draw(run, tmp_path / "job", dataclasses.replace(QUICK, sampler="heun", steps=9))
    assert len(calls) == 4
    assert job.state() == "stopped"


def test_resume_by_command(run: Run, tmp_path: Path) -> None:
    job = draw(run, tmp_path / "job", QUICK)
    with raises_error("settings-are-fixed", "--seed"):
        main.execute(["sample", "--resume", str(job.folder), "--seed", "3"])
    with raises_error("not-a-run"):
        main.execute(["sample", "--resume", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
    for path in [job.npz, job.grid, *job.images[3:]]:
        assert path
        path.unlink()
    assert main.main(["sample", "--resume", str(job.folder)]) == 0
    assert job.shape == (5, 8, 8, 3)
    with raises_error("missing-value"):
        main.execute(["sample"])


# --- memory


@pytest.mark.slow
def test_many_images_in_little_memory(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,500 images of 64 kB, 96 MB in all, less than a third is ever held."""
    side = 146
    config = codec.replace(run.config, dict(image_size=side, class_cond=False))
    settings = dataclasses.replace(QUICK, num_samples=1500, batch_size=20, steps=1)
    picture = np.random.default_rng(0).integers(0, 256, (20, 3, 1, 1)).astype(np.float32) / 127.5 - 1

    def steps(*arguments: Any) -> Iterator[engine.SamplingProgress]:
        for k in range(0, 1500, 20):
            x = torch.from_numpy(picture).expand(20, 3, side, side)
            yield engine.SamplingProgress(k, k // 20 + 1, 75, engine.SampleStep(1, 1, x, x, 0))

    monkeypatch.setattr(engine, "sample", steps)
    monkeypatch.setattr(loading, "build_network", lambda *arguments: None)
    monkeypatch.setattr(sample_writer, "GRID_PIXELS", 2**22 // 3)
    monkeypatch.setattr(sample_writer, "PREVIEW_BYTES", 2**21)
    monkeypatch.setattr(sample_writer, "PREVIEW_INTERVAL", 1e9)
    opened = dataclasses.replace(loading.open_model(run, settings), config=config)
    tracemalloc.start()
    with Worker(tmp_path / "job") as worker:
        sampling_job.sample_into(tmp_path / "job", worker, opened, settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    job = SampleJob(tmp_path / "job")
    assert job.npz
    assert job.npz.stat().st_size > 95e6
    assert peak < 32e6
    found = pixels(job)
    assert (found == np.resize(images.to_uint8(picture), (1500, 1, 1, 3))).all()


def test_the_grid_has_256_images_at_most() -> None:
    assert sample_writer.most_images(sample_writer.GRID_IMAGES, sample_writer.GRID_PIXELS * 3, (64, 64, 3)) == 256
    assert sample_writer.most_images(sample_writer.GRID_IMAGES, sample_writer.GRID_PIXELS * 3, (1024, 1024, 3)) == 32
    assert sample_writer.most_images(64, 10, (64, 64, 3)) == 1


PEAK = """
import sys, torch, psutil
from ddpm.config.codec import replace
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.models import unet
from ddpm.models.backend import resolve_backend
from ddpm.models.native import build
from ddpm.host import memory as host_memory
from ddpm.planning import memory
from ddpm.sampling import engine
from ddpm.sampling.request import resolve_request
torch.set_num_threads(1)
build.keep_large_allocations = lambda: None  # or nothing would be handed back
config = replace(Config(), dict({settings}))
network = resolve_backend("{kernels}", "fp32", torch.device("cpu")).prepared(unet.build(config.model).eval())
def drawn(count):
    asked = SampleConfig(num_samples=count, batch_size=count, steps=2, precision="fp32", kernels="{kernels}")
    list(engine.sample(network, resolve_request(config, asked)))
    return asked
drawn({count})
before = psutil.Process().memory_info().rss
open("/proc/self/clear_refs", "w").write("5")
asked = drawn({count})
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
holes = memory.SLACK_FORWARD[memory.expected_mode(asked.kernels, asked.precision).native]
print((peak - before) / {count}, memory.sampling_bytes(config, asked) / holes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(
    ("settings", "count", "kernels"),
    [
        ("image_size=32, num_channels=64, channel_mult='1,2', attention_resolutions=''", 32, "auto"),
        ("image_size=32, num_channels=64, channel_mult='1,2', attention_resolutions=''", 32, "torch"),
        ("image_size=32, num_channels=32, attention_resolutions='32'", 16, "auto"),
        ("image_size=64, num_channels=32", 16, "auto"),
    ],
)
def test_batches_take_the_memory_that_is_expected(settings: str, count: int, kernels: str) -> None:
    program = PEAK.format(settings=settings, count=count, kernels=kernels)
    # Every large array has pages of its own, which end with it: which holes of its heap malloc uses again differs by a
    # third from one process to the next.
    environ = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    measured, expected = map(float, said.stdout.split())
    assert 0.75 < measured / expected < 1.2


def test_as_many_at_once_as_fit(run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    free = 10**12
    monkeypatch.setattr(host_memory, "available", lambda: free)
    config, asked = run.config, SampleConfig(num_samples=1000, batch_size=0)
    assert memory.batch_size(config, asked) == memory.FAST == 64
    assert memory.batch_size(config, dataclasses.replace(asked, num_samples=5)) == 5
    assert memory.batch_size(config, dataclasses.replace(asked, batch_size=100)) == 100
    assert not caplog.records
    each = memory.sampling_bytes(config, asked)
    free = int(each * 2 * 7.5)
    assert memory.batch_size(config, asked) == 7
    assert "The batch size is 7 instead of 64" in caplog.text
    guided = dataclasses.replace(asked, guidance_scale=3.0)
    assert 3 <= memory.batch_size(config, guided) < 7
    free = 1000
    assert memory.batch_size(config, asked) == 1


def test_a_batch_of_nothing_is_as_many_as_fit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    network = loading.open_model(run, QUICK).network()
    monkeypatch.setattr(memory, "batch_size", lambda *_: 2)
    resolved = resolve_request(run.config, dataclasses.replace(QUICK, batch_size=0))
    assert {progress.start for progress in engine.sample(network, resolved)} == {0, 2, 4}
    assert engine.sample_images(network, resolved).shape == (5, 8, 8, 3)


# --- the checkpoint


def test_another_checkpoint_is_not_gone_on_with(run: Run, tmp_path: Path) -> None:
    job = draw(run, tmp_path / "job", QUICK)
    assert job.npz
    job.npz.unlink()
    path = run.checkpoint().path("ema_0.9")
    files.copy(run.checkpoint().path("model"), path)
    with raises_error("changed-file"):
        resume(job.folder)
    path.unlink()
    with raises_error("not-found"):
        resume(job.folder)


def test_a_checkpoint_replaced_while_it_is_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was opened is read to its end, and its checksum is that of what was read."""
    straight = draw(run, tmp_path / "straight", QUICK)
    path, real = run.checkpoint().path("ema_0.9"), torch.load

    def replaced(file: Any, **options: Any) -> Any:
        files.copy(run.checkpoint().path("model"), path)
        return real(file, **options)

    monkeypatch.setattr(torch, "load", replaced)
    job = draw(run, tmp_path / "job", QUICK)
    assert job.settings["checkpoint"] == straight.settings["checkpoint"]
    assert (pixels(job) == pixels(straight)).all()


def test_a_checkpoint_written_to_while_it_is_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = run.checkpoint().path("ema_0.9"), torch.load

    def growing(file: Any, **options: Any) -> Any:
        with open(path, "ab") as longer:
            longer.write(b"more")
        return real(file, **options)

    monkeypatch.setattr(torch, "load", growing)
    with pytest.raises(UserError) as raised:
        draw(run, tmp_path / "job", QUICK)
    assert raised.value.code == "changed-file"
    assert not SampleJob(tmp_path / "job").images


def test_a_checkpoint_is_hashed_once_and_no_state_is_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    hashed: list[str] = []
    digest, load = hashlib.file_digest, torch.load

    def hashing(file: Any, name: str) -> Any:
        hashed.append(Path(file.name).name)
        return digest(file, name)

    def loading_from(file: Any, **options: Any) -> Any:
        read.append(Path(file.name).name)
        return load(file, **options)

    monkeypatch.setattr(hashlib, "file_digest", hashing)
    monkeypatch.setattr(torch, "load", loading_from)
    job = draw(run, tmp_path / "job", QUICK)
    assert (read, hashed) == (["ema_0.9_000007.pt"], ["ema_0.9_000007.pt"])
    assert job.npz
    job.npz.unlink()
    resume(job.folder)
    assert (read, hashed) == (["ema_0.9_000007.pt"] * 2, ["ema_0.9_000007.pt"] * 2)


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_checkpoint_replaced_while_images_are_sampled(
    how: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = draw(run, tmp_path / "straight", QUICK)
    assert straight.status().warning == ""  # type: ignore[union-attr]
    path, real = run.checkpoint().path("ema_0.9"), engine.sample

    def replaced(*arguments: Any) -> Iterator[engine.SamplingProgress]:
        for number, sampled in enumerate(real(*arguments)):
            if number == 3:
                files.copy(run.checkpoint().path("model"), path) if how == "replaced" else path.unlink()
            yield sampled

    monkeypatch.setattr(engine, "sample", replaced)
    job = draw(run, tmp_path / "job", QUICK)
    status = job.status()
    assert status
    assert status.state == "finished"
    assert f"{path.name} was {how} during sampling: all images are from the weights" in status.warning
    assert (pixels(job) == pixels(straight)).all()


# --- settings in images


def test_text_of_a_png_comes_back(tmp_path: Path) -> None:
    picture = np.zeros((2, 3, 3), np.uint8)
    reported = {"sample": {"classes": "Käse 猫"}, "n": [1, 2.5, None]}
    images.save_png(tmp_path / "a.png", picture, reported)
    assert images.settings_in(tmp_path / "a.png") == reported
    whole = (tmp_path / "a.png").read_bytes()
    assert images.settings_in(whole) == reported
    assert Image.open(tmp_path / "a.png").size == (3, 2)
    assert images.settings_in(images.encode_png(picture)) is None
    for cut in range(len(whole)):
        found = images.settings_in(whole[:cut])
        assert found in (None, reported)
    damaged = whole.replace(b"2.5", b"2.6")
    assert images.settings_in(damaged) is None
    assert images.settings_in(b"GIF89a") is None
    assert images.settings_in(tmp_path / "none.png") is None
    assert images.settings_in(tmp_path) is None


@pytest.mark.parametrize("text", ["no json", "[1]", "[" * 100_000, '{"a":"' + "x" * 2**20 + '"}'])
def test_foreign_texts_are_no_settings(text: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("ddpm", text)
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "PNG", pnginfo=info)
    assert images.settings_in(buffer.getvalue()) is None


@pytest.mark.slow
def test_every_image_can_be_sampled_again_alone(run: Run, tmp_path: Path) -> None:
    job = draw(run, tmp_path / "job", QUICK)
    assert job.command == job.settings["command"]
    for k, path in enumerate(job.images):
        reported = images.settings_in(path)
        assert reported
        one = metadata.sample_of(reported, path.name)
        assert (one.num_samples, one.seed) == (1, 4 + k)
        assert one.classes == ["0", "1", "2"][k % 3] if k % 3 != 2 else "2-2"  # another class is called 2
        assert reported["checkpoint"]["step"] == 7
        assert reported["checkpoint"]["weights"] == "ema_0.9"
        assert reported["class_names"] == ["cat", "2", "dog"]
        out = tmp_path / f"again{k}"
        assert main.main(["sample", "--like", str(path), "--out", str(out)]) == 0
        assert (pixels(SampleJob(out)) == pixels(job)[k : k + 1]).all()
    grid = images.settings_in(job.grid)
    assert grid
    by = backend.resolve_backend("auto", "fp32", torch.device("cpu")).kernels
    assert metadata.sample_of(grid, "grid") == codec.with_absolute_paths(dataclasses.replace(QUICK, kernels=by))


def test_like_a_image_with_changes(run: Run, tmp_path: Path) -> None:
    job = draw(run, tmp_path / "job", QUICK)
    like = ["sample", "--like", str(job.images[1]), "--num_samples", "2"]
    assert main.main([*like, "--out", str(tmp_path / "two")]) == 0
    two = SampleJob(tmp_path / "two")
    assert two.config.classes == "1-1" or two.config.classes == "1"
    assert (pixels(two)[0] == pixels(job)[1]).all()
    files.copy(run.checkpoint().path("model"), run.checkpoint().path("ema_0.9"))
    path = run.checkpoint().path("ema_0.9")
    files.write_bytes(path, path.read_bytes() + b" ")
    with raises_error("changed-file", "--run", "--model_path"):
        main.execute([*like, "--out", str(tmp_path / "three")])
    explicit = ["--model_path", str(run.checkpoint().path("model"))]
    assert main.main([*like, *explicit, "--out", str(tmp_path / "four")]) == 0
    assert (pixels(SampleJob(tmp_path / "four")) == pixels(two)).all()
    images.save_png(tmp_path / "bare.png", np.zeros((8, 8, 3), np.uint8))
    with raises_error("no-metadata"):
        main.execute(["sample", "--like", str(tmp_path / "bare.png")])
    with raises_error("not-found"):
        main.execute(["sample", "--like", str(tmp_path / "none.png")])


def test_settings_of_other_versions() -> None:
    older = metadata.sample_of({"sample": {"num_samples": 3}}, "it")
    assert older == SampleConfig(num_samples=3, guidance_scale=1.0, precision="fp32", kernels="torch"), (
        "which all of them drew with"
    )
    with raises_error("newer-format", 99):
        metadata.sample_of({"format": 99, "sample": {}}, "it")
    with raises_error("unknown-setting", "'from_the_future'"):
        metadata.sample_of({"sample": {"from_the_future": 1}}, "it")
    with raises_error("bad-value", "seed", "'x'"):
        metadata.sample_of({"sample": {"seed": "x"}}, "it")
    with raises_error("out-of-range", "seed", -1):
        metadata.sample_of({"sample": {"seed": -1}}, "it")
    for wrong in ({"sample": 3}, {}):
        with pytest.raises(UserError):
            metadata.sample_of(wrong, "it")


# --- given images


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Two images and a mask, in the working folder."""
    folder = tmp_path / "mine"
    found = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    for k, picture in enumerate(found):
        images.save_png(folder / "pictures" / f"{k}.png", picture)
    mask = np.zeros((8, 8, 1), np.uint8)
    mask[2:5, 3:8] = 255
    images.save_png(folder / "mask.png", mask)
    monkeypatch.chdir(folder)
    return found


def of_task(task: str) -> SampleConfig:
    mask = "mask.png" if task == "inpaint" else ""
    return dataclasses.replace(QUICK, task=task, picture="pictures", mask=mask, resample=2, jump=2, strength=0.4)


@pytest.mark.parametrize("task", ["vary", "inpaint", "invert"])
def test_from_given_images(task: str, run: Run, tmp_path: Path, given: np.ndarray) -> None:
    job = draw(run, tmp_path / "job", of_task(task))
    assert job.state() == "finished"
    assert pixels(job).shape == (5, 8, 8, 3)
    copies = np.stack([np.asarray(Image.open(path)) for path in sorted(job.given.glob("*.png"))])
    assert (copies == given).all()
    beside = np.asarray(Image.open(job.pairs))
    assert (beside == images.pairs(given[[0, 1, 0, 1, 0]], pixels(job))).all()
    reported = job.settings
    assert Path(reported["sample"]["picture"]).is_absolute()
    assert Path(reported["given"]["picture"]) == tmp_path / "mine" / "pictures"
    if task == "inpaint":
        kept = np.asarray(Image.open("mask.png")) == 0
        assert (pixels(job)[:, kept] == given[[0, 1, 0, 1, 0]][:, kept]).all()
        assert (pixels(job)[:, ~kept] != given[[0, 1, 0, 1, 0]][:, ~kept]).any()
        assert Path(reported["sample"]["mask"]) == job.mask
    # Again, when what was given is gone: all of them, and one alone.
    for path in Path().glob("pictures/*"):
        path.unlink()
    out = tmp_path / "again"
    assert main.main(["sample", "--like", str(job.grid), "--out", str(out)]) == 0
    assert (pixels(SampleJob(out)) == pixels(job)).all()
    assert main.main(["sample", "--like", str(job.images[3]), "--out", str(tmp_path / "one")]) == 0
    assert (pixels(SampleJob(tmp_path / "one")) == pixels(job)[3:4]).all()


@pytest.mark.parametrize("task", ["vary", "inpaint", "invert"])
def test_given_images_gone_on_with_elsewhere(task: str, run: Run, tmp_path: Path, given: np.ndarray) -> None:
    straight = draw(run, tmp_path / "straight", of_task(task))
    folder = tmp_path / "stopped"
    with Worker(folder) as worker:
        poll_requests = worker.poll_requests
        worker.poll_requests = lambda: poll_requests() | ({"stop"} if (folder / "images/00001.png").exists() else set())  # type: ignore[method-assign]
        sampling_job.sample_source(folder, worker, run, of_task(task), {})
    assert SampleJob(folder).shape == (2, 8, 8, 3)
    folder.rename(tmp_path / "moved")
    for path in Path().glob("pictures/*"):
        path.unlink()
    resume(tmp_path / "moved")
    assert results(tmp_path / "moved") == results(straight.folder)


@pytest.mark.slow
def test_an_inversion_tells_its_error(run: Run, tmp_path: Path, given: np.ndarray) -> None:
    asked = dataclasses.replace(of_task("invert"), steps=0, timestep_respacing="20")
    job = draw(run, tmp_path / "job", asked)
    error = np.sqrt(((pixels(job).astype(float) - given[[0, 1, 0, 1, 0]]) ** 2).mean((1, 2, 3)))
    assert job.result["rmse"] == pytest.approx(error)
    assert job.result["mean"] == pytest.approx(error.mean())
    status = job.status()
    assert status
    assert f"differs by {error.mean():.2g} of 255" in status.message
    with np.load(job.noise) as packed:
        noise = packed["arr_0"]
    assert (noise.shape, noise.dtype) == ((5, 3, 8, 8), np.float32)
    assert (noise[0] != noise[2]).any(), "the same image, of another class"
    assert not (job.folder / "noise").exists()
    path = run.checkpoint().path("ema_0.9")
    network = loading.open_model(path, asked).network()
    condition = {"y": torch.tensor([0, 1])}
    steps = list(engine.sample_batch(network, resolve_request(run.config, asked), range(2), condition))
    expected = steps[len(steps) // 2 - 1]
    assert 2 * expected.done == expected.total
    assert np.allclose(expected.x.numpy(), noise[:2], atol=1e-4)


def test_an_interpolation_and_its_images(run: Run, tmp_path: Path) -> None:
    job = draw(run, tmp_path / "job", dataclasses.replace(QUICK, task="interpolate", to_seed=9))
    reported = images.settings_in(job.images[2])
    assert reported
    assert reported["number"] == 2
    assert reported["sample"]["num_samples"] == 5
    assert not job.pairs.exists()
    ends = [
        draw(run, tmp_path / str(seed), dataclasses.replace(QUICK, num_samples=1, classes="0", seed=seed))
        for seed in (4, 9)
    ]
    assert (pixels(job)[[0, 4]] == np.concatenate([pixels(end) for end in ends])).all()


def test_given_images_of_another_size(run: Run, tmp_path: Path, given: np.ndarray) -> None:
    images.save_png(Path("large.png"), np.zeros((9, 9, 3), np.uint8))
    out = tmp_path / "job"
    asked = ["sample", "--run", run.name, "--runs_dir", str(run.folder.parent), "--num_samples", "1", "--out", str(out)]
    with raises_error("wrong-size", 9, 9):
        main.execute([*asked, "--task", "vary", "--picture", "large.png"])
    with raises_error("missing-value"):
        main.execute([*asked, "--task", "inpaint", "--picture", "pictures"])
    assert not out.exists()


# --- history


def test_notes_and_trash(run: Run) -> None:
    job = draw(run, run.folder / "samples" / "20260102-030405", QUICK)
    assert job.note == ""
    job.set_note(" the good ones 猫 \n")
    assert job.note == "the good ones 猫"
    with Worker(job.folder), raises_error("still-running"):
        trash.trash_samples(job)
    files.write_json(
        job.folder / "status.json", json.loads((job.folder / "status.json").read_text()) | {"state": "finished"}
    )
    trashed = trash.trash_samples(job)
    assert trashed.parent == run.folder.parent / ".trash"
    assert not run.sample_jobs()
    with raises_error("not-found"):
        trash.trash_samples(job)
    with raises_error("not-found"):
        job.set_note("x")
    trash.restore(trashed)
    assert run.sample_jobs() == [job]
    assert job.note == "the good ones 猫"
    with raises_error("not-found"):
        trash.restore(trashed)


def test_like_an_image_with_other_weights_needs_the_run(run: Run, tmp_path: Path) -> None:
    job = draw(run, tmp_path / "job", QUICK)
    for flag in (["--weights", "model"], ["--step", "2"]):
        with raises_error("settings-are-fixed", flag[0], "--run"):
            main.execute(["sample", "--like", str(job.images[1]), *flag, "--out", str(tmp_path / "other")])
