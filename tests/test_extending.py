"""One row for a new thing: each kind of row is added here, is offered by flags and forms, and works."""

import contextlib
import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from app_page import button, open_page
from PIL import Image

from ddpm import schedules
from ddpm.cli import main
from ddpm.config import codec, fields
from ddpm.config.fields import setting
from ddpm.config.model import DiffusionConfig
from ddpm.config.presets import PRESETS, Preset
from ddpm.config.tasks import FromCheckpoint, SampleConfig
from ddpm.config.training import Config, DataConfig
from ddpm.data import datasets
from ddpm.data.source import IDENTITY_BYTES, Item, Read, Source
from ddpm.data_sets import DATA_SETS, DataSet
from ddpm.planning import timesteps
from ddpm.runs.results import KINDS, Kind, Result
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.sampling import samplers
from ddpm.sampling.samplers import SampleStep
from ddpm.schedules import BETAS
from ddpm.solvers import SOLVERS, Solver
from ddpm.spacings import SPACINGS, Spacing
from ddpm.storage import files
from pages.ui.frame import run_store


@pytest.fixture
def trained(tiny: Config, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run of two steps, in a folder that the dashboard shows."""
    monkeypatch.setenv("DDPM_RUNS", str(runs_dir))
    flags = codec.to_flags(codec.replace(tiny, {"total_steps": 2, "save_interval": 2}))
    assert main.main(["train", *flags, "--run", "one", "--runs_dir", str(runs_dir)]) == 0
    yield Run(runs_dir / "one")
    run_store.store.clear()


def choices(section: type, name: str) -> tuple[str, ...]:
    """What the flag and the form offer for a setting."""
    (found,) = [s for s in fields.settings(section) if s.name == name]
    return found.choices or found.names


def sampled(run: Run, out: Path, *flags: str) -> np.ndarray:
    """uint8 [N, H, W, C]: what `ddpm sample` writes."""
    where = ["--run", run.name, "--runs_dir", str(run.folder.parent), "--out", str(out), "--threads", "1"]
    assert main.main(["sample", *where, "--num_samples", "2", *flags]) == 0
    (path,) = out.glob("samples_*.npz")
    return np.load(path)["arr_0"]


def offered(page: str, label: str, run: Run) -> list[str]:
    """Options of a field on a page."""
    at = open_page(page, run=run.name)
    return next(list(box.options) for box in at.selectbox if box.label == label)


# --- a sampler


def euler(denoise: Any, x: torch.Tensor, schedule: schedules.Schedule, **_: Any) -> Iterator[SampleStep]:
    """Euler steps of the probability-flow ODE in x / alpha over sigma / alpha, which are DDIM's."""
    abar = [*schedule.alphas_cumprod[::-1], 1.0]
    with torch.no_grad():
        for k, t in enumerate(reversed(schedule.timesteps)):
            now, to = abar[k], abar[k + 1]
            x_start = denoise(x, torch.full((len(x),), t)).x_start
            eps = (x - now**0.5 * x_start) / (1 - now) ** 0.5
            slope = ((1 - to) / to) ** 0.5 - ((1 - now) / now) ** 0.5
            x = to**0.5 * (x / now**0.5 + slope * eps)
            yield SampleStep(k + 1, len(schedule), x, x_start, t)


def test_a_sampler(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS, "euler", Solver("Euler", "Euler 1768", "For a test.", euler, 1))
    assert "euler" in choices(SampleConfig, "sampler")
    assert "Euler" in offered("pages/sample.py", "Sampler", trained)
    ours = sampled(trained, tmp_path / "euler", "--sampler", "euler", "--steps", "5")
    ddim = sampled(trained, tmp_path / "ddim", "--sampler", "ddim", "--steps", "5", "--spacing", "uniform")
    assert np.abs(ours.astype(int) - ddim.astype(int)).max() <= 1


def test_a_row_names_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    row = SOLVERS["ddim"]
    monkeypatch.setitem(SOLVERS, "other", row._replace(function="ddpm.sampling.samplers:heun", options={"churn": 1.0}))
    assert samplers.named("other").keywords == {"churn": 1.0}
    assert samplers.named("other").func is samplers.heun


# --- a spacing and a schedule


def test_a_spacing(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(curve: schedules.Curve, count: int, last: int) -> list[float]:
        """The first timesteps, and the last."""
        return [*map(float, range(count - 1)), float(last)]

    monkeypatch.setitem(SPACINGS, "first", Spacing(first, "for a test", whole=True))
    assert "first" in choices(SampleConfig, "spacing")
    assert "first" in offered("pages/sample.py", "Spacing", trained)
    asked = SampleConfig(sampler="ddim", steps=4, spacing="first")
    assert timesteps.timesteps(trained.config, asked) == [0, 1, 2, 19]
    assert sampled(trained, tmp_path / "out", "--sampler", "ddim", "--steps", "4", "--spacing", "first").shape[0] == 2


def test_a_schedule(runs_dir: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BETAS, "constant", lambda T: np.full(T, 0.3))
    assert "constant" in choices(DiffusionConfig, "noise_schedule")
    assert schedules.named("constant", 7).betas == pytest.approx([0.3] * 7)
    flags = codec.to_flags(codec.replace(tiny, {"total_steps": 2, "noise_schedule": "constant"}))
    assert main.main(["train", *flags, "--run", "one", "--runs_dir", str(runs_dir)]) == 0
    run = Run(runs_dir / "one")
    assert (run.state(), run.config.diffusion.noise_schedule) == ("finished", "constant")
    monkeypatch.setenv("DDPM_RUNS", str(runs_dir))
    assert "constant" in offered("pages/train.py", "Noise schedule", run)


# --- a preset and a data set


def test_a_preset(runs_dir: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = {
        name: value
        for part in ("model", "diffusion", "data", "train")
        for name, value in vars(getattr(tiny, part)).items()
    }
    monkeypatch.setitem(PRESETS, "mine", Preset("My preset", "For a test.", {**flat, "total_steps": 3}))
    assert main.main(["train", "--preset", "mine", "--run", "one", "--runs_dir", str(runs_dir)]) == 0
    status = Run(runs_dir / "one").status()
    assert status is not None
    assert (status.state, status.step) == ("finished", 3)
    monkeypatch.setenv("DDPM_RUNS", str(runs_dir))
    assert "choose_mine" in [b.key for b in open_page("pages/train.py").button]


class Stripes(Source):
    """Ten images of one grey level each."""

    kind, count, class_names = "Stripes", 10, ("dark", "bright")

    def __init__(self) -> None:
        self.labels = np.arange(10) // 5

    def stamps(self) -> Any:
        return 1

    def items(self, size: int, channels: int) -> Iterator[Item]:
        for k in range(self.count):
            yield Item(f"stripe {k}", partial(self._open, k, size), partial(self._identify, k))

    def _identify(self, k: int) -> bytes:
        return f"stripe {k}".encode().ljust(IDENTITY_BYTES)

    @contextlib.contextmanager
    def _open(self, k: int, size: int) -> Iterator[Read]:
        yield Read(Image.new("RGB", (size, size), (25 * k,) * 3), self._identify(k))


def test_a_data_set(runs_dir: Path, tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATA_SETS, "stripes", DataSet("Stripes", "For a test.", Stripes))
    assert "stripes" in choices(DataConfig, "data_dir")
    config = datasets.resolve(codec.replace(tiny, {"data_dir": "stripes", "class_cond": True, "total_steps": 2}))
    assert config.class_names == ("dark", "bright")
    images = datasets.open_dataset(config.data, config.model)
    assert len(images) == 10
    assert main.main(["train", *codec.to_flags(config), "--run", "one", "--runs_dir", str(runs_dir)]) == 0
    run = Run(runs_dir / "one")
    assert (run.state(), run.config.data.data_dir) == ("finished", "stripes")
    monkeypatch.setenv("DDPM_RUNS", str(runs_dir))
    at = open_page("pages/train.py")
    assert "Stripes" in [option for box in (*at.selectbox, *at.button_group) for option in box.options]


# --- a kind of result


@dataclasses.dataclass(frozen=True)
class WeighConfig(FromCheckpoint):
    """What to weigh."""

    times: int = setting(2, "How often.", label="Times", low=1, high=9, basic=True)


def weigh(
    folder: Path, worker: Worker, source: Run, settings: WeighConfig, flags: Any, run_probe: bool
) -> Iterator[SimpleNamespace]:
    """Counts the bytes of a checkpoint's weights."""
    files.write_json(folder / "settings.json", {"weigh": dataclasses.asdict(settings)})
    checkpoint = source.checkpoint(settings.step)
    sizes = []
    for k in range(settings.times):
        sizes.append(checkpoint.path("model").stat().st_size)
        yield SimpleNamespace(done=k + 1, total=settings.times)
    files.write_json(folder / "result.json", {"bytes": sizes})


def test_a_kind_of_result(trained: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = Kind("Weight", "Weigh a checkpoint.", "weigh", WeighConfig, "weigh", Result, f"{__name__}:weigh")
    monkeypatch.setitem(KINDS, "weights", row)
    where = ["--run", "one", "--runs_dir", str(trained.folder.parent)]
    assert main.main(["weigh", *where, "--times", "3"]) == 0
    (job,) = trained.results("weights")
    size = trained.checkpoint().path("model").stat().st_size
    assert job.result == {"bytes": [size] * 3}
    assert job.settings["weigh"]["times"] == 3
    status = job.status()
    assert status is not None
    assert (status.state, status.step, status.total_steps) == ("finished", 3, 3)
    assert capsys.readouterr().out.strip().endswith(str(job.folder))
    with pytest.raises(SystemExit):
        main.main(["weigh", "--help"])
    assert "--times" in capsys.readouterr().out

    started: list[list[str]] = []
    monkeypatch.setattr("ddpm.runs.launch._spawn", lambda job, arguments: started.append(list(arguments)))
    at = open_page("pages/explore.py", run="one")
    at.button_group(key="explore_part").set_value("Weight").run()
    assert not at.exception, at.exception
    assert any(str(size) in str(element.value) for element in at.json)
    button(at, "Start").click().run()
    assert [arguments[0] for arguments in started] == ["weigh"]
    assert "--out" in started[0]
