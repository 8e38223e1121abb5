"""What all tests share: folders of their own, a small run that no process ever trained, the golden numbers."""

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# As the command line has it, before torch is loaded: threads that wait for one another leave the cores to whoever else
# computes.  Left to itself OpenMP has them turn round and round, and beside other work a test of seconds takes minutes.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("KMP_BLOCKTIME", "1")

from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.runs import progress_log, runs
from ddpm.runs.runs import Run
from ddpm.storage import files

HERE = Path(__file__).parent

gc.disable()  # until all tests are collected

hypothesis.settings.register_profile("project", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("project")


SUMMARY = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=str(HERE / "golden"), metavar="DIR", help="folder of golden numbers")


def pytest_collection_finish() -> None:
    """Spares the garbage collector what lives to the end: modules, and thousands of tests."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hands the lines of a process of pytest-xdist to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["summary"] = session.config.stash.get(SUMMARY, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    lines = getattr(node, "workeroutput", {}).get("summary", [])
    node.config.stash.setdefault(SUMMARY, []).extend(lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(SUMMARY, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    """The folder of golden numbers: tests/golden, or what --golden names."""
    folder = Path(request.config.getoption("--golden"))
    if not folder.is_absolute():
        folder = request.config.invocation_params.dir / folder
    assert folder.is_dir(), f"--golden {folder} is not a folder"
    return folder


@pytest.fixture(scope="session")
def summary(request: pytest.FixtureRequest) -> list[str]:
    """Lines that are printed at the very end."""
    return request.config.stash.setdefault(SUMMARY, [])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with slow tests first, so that no process is left alone with one at the end."""
    marks = ("slow", "browser")
    slow = {item.path for item in items if any(item.get_closest_marker(mark) for mark in marks)}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded data goes to a folder of this test session, also in processes that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("DDPM_CACHE")
    os.environ["DDPM_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["DDPM_CACHE"]
    else:
        os.environ["DDPM_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the dashboard remembers of a user is that of this test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_STATE", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, for one that looks into it or at the only copy of what it decodes."""
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session", autouse=True)
def shares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Who else computes on this machine is nothing to the tests, nor to the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("shares")
        patch.setenv("DDPM_SHARES", str(folder))
        yield folder


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """An empty folder for runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def runs_here(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The pages show the runs in `runs_dir`, and remember none of them afterwards."""
    from pages.ui.frame import run_store

    monkeypatch.setenv("DDPM_RUNS", str(runs_dir))
    yield
    run_store.store.clear()


@pytest.fixture
def threads_afterwards() -> Iterator[None]:
    """Torch computes with as many threads after the test as before it."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread(threads_afterwards: None) -> None:
    """Torch computes with one thread: networks this small are slower with several."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> Config:
    """Settings whose network trains a step in milliseconds."""
    return codec.replace(
        Config(),
        dict(
            data_dir="shapes",
            image_size=8,
            num_channels=32,
            num_res_blocks=1,
            channel_mult="1",
            num_heads=1,
            attention_resolutions="",
            diffusion_steps=20,
            noise_schedule="cosine",
            total_steps=20,
            batch_size=4,
            ema_rate="0.9,0.99",
            log_interval=1,
            save_interval=10,
            sample_interval=0,
            preview_samples=4,
            preview_steps=3,
            threads=1,
        ),
    )


@pytest.fixture
def fake_run(runs_dir: Path, tiny: Config) -> Callable[..., Run]:
    """Makes a run as a training would leave it, without one: settings, status, log, checkpoints, previews."""

    def make(
        name: str = "fake", steps: int = 40, save_every: int = 20, state: str = "finished", **settings: object
    ) -> Run:
        config = codec.replace(tiny, {"total_steps": steps, "save_interval": save_every, **settings})
        run = runs.create_run(runs_dir, name, config)
        writer = progress_log.MetricWriter(run.progress_path)
        for step in range(1, steps + 1):
            loss = 1 / step**0.5
            writer.write(
                dict(
                    grad_norm=3 * loss,
                    loss=loss,
                    loss_q0=2 * loss,
                    loss_q3=loss / 2,
                    mse=loss,
                    mse_q0=2 * loss,
                    mse_q3=loss / 2,
                    samples=step * config.train.batch_size,
                    step=step,
                    lr=1e-4,
                    seconds=step / 4,
                    steps_per_second=4.0,
                    param_norm=10.0,
                )
            )
            if step % save_every == 0:
                fake_checkpoint(run, step, writer.sync(), config.train.ema_rates)
                fake_preview(run, step)
        writer.close()
        files.write_json(
            run.folder / "status.json",
            dict(
                state=state,
                step=steps,
                total_steps=steps,
                metrics={"loss": steps**-0.5},
                steps_per_second=4.0,
                seconds_left=0.0,
                pid=0 if state in ("starting", "queued") else 2**22 + 1,
                process_start=1.0,
                updated_at=time.time(),
                beat=steps,
            ),
        )
        files.write_bytes(run.log_path, b"made by a test\n")
        return run

    return make


@pytest.fixture
def save_checkpoint() -> Callable[..., None]:
    """Adds a checkpoint to a run."""
    return fake_checkpoint


@pytest.fixture
def save_preview() -> Callable[..., None]:
    """Adds a preview to a run."""
    return fake_preview


def fake_checkpoint(run: Run, step: int, log_bytes: int, rates: tuple[str, ...] = ("0.9",)) -> None:
    """A committed set whose files hold no weights."""
    names = [f"model{step:06d}.pt", *(f"ema_{rate}_{step:06d}.pt" for rate in rates)]
    names += [f"opt{step:06d}.pt", f"state{step:06d}.pt"]
    written = {name: files.write_bytes(run.folder / name, name.encode()) for name in names}
    manifest = dict(
        step=step, files={name: w._asdict() for name, w in written.items()}, log_bytes=log_bytes, seconds=step / 4
    )
    files.write_json(run.folder / "saves" / f"{step:06d}.json", manifest)


def fake_preview(run: Run, step: int) -> None:
    """A grid of noise for that step."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(step).integers(0, 256, (34, 34, 3), dtype=np.uint8)
    files.write(run.folder / "samples" / f"{step:06d}.png", lambda file: Image.fromarray(pixels).save(file, "PNG"))
