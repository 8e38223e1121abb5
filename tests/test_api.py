"""The package as a library: `import ddpm` and its seven names."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from raising import raises_error

import ddpm
from ddpm.api import model as api_model
from ddpm.api.model import Model
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.runs.runs import Run
from ddpm.storage import files, images
from ddpm.training.trainer import Report

ROOT = Path(ddpm.__file__).parents[1]


def python(code: str, cwd: Path = ROOT) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_import_is_lazy() -> None:
    heavy = "[name for name in ('torch', 'pandas', 'numpy', 'psutil') if name in sys.modules]"
    assert python(f"import sys, ddpm; dir(ddpm); print({heavy})").strip() == "[]"
    code = "import sys, ddpm; ddpm.list_runs(); ddpm.Config(); ddpm.PRESETS; print('torch' in sys.modules)"
    assert python(code).strip() == "False"


def test_names() -> None:
    names = {"Config", "PRESETS", "evaluate", "evaluate_quality", "list_runs", "load", "open_run", "train"}
    assert set(ddpm.__all__) == names
    assert names <= set(dir(ddpm))
    assert all(getattr(ddpm, name) is not None for name in names)
    assert not {path.stem for path in (ROOT / "ddpm").iterdir()} & names, "a subpackage would take its place"
    assert (ROOT / "ddpm" / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ddpm.trian  # noqa: B018


def test_runs(fake_run: Callable[..., Run], runs_dir: Path) -> None:
    assert ddpm.list_runs(runs_dir) == []
    assert ddpm.list_runs(runs_dir / "none") == []
    fake_run("one")
    two = fake_run("two")
    assert [run.name for run in ddpm.list_runs(runs_dir)] == ["two", "one"]
    run = ddpm.open_run("two", runs_dir)
    assert run == two == ddpm.open_run(two.folder) == ddpm.open_run(str(two.folder)) == ddpm.open_run(two)
    assert isinstance(run.metrics, pd.DataFrame)
    assert run.metrics["step"].tolist() == list(range(1, 41))
    assert (run.config.model.image_size, run.state(), [c.step for c in run.checkpoints()]) == (8, "finished", [20, 40])
    for name in ("three", runs_dir / "three"):
        with pytest.raises(UserError) as raised:
            ddpm.open_run(name, runs_dir)
        assert raised.value.code in ("unknown-run", "not-a-run")


def losses(reports: list[Report]) -> list[float]:
    return [float(report.losses["loss"].mean()) for report in reports]


def test_training_in_memory(tiny: Config, runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs_dir.parent)
    training = ddpm.train(tiny, total_steps=5, seed=3)
    reports = list(training)
    assert [report.step for report in reports] == [1, 2, 3, 4, 5]
    assert training.run is None
    assert (training.step, training.config.train.seed, training.config.class_names[0]) == (5, 3, "circle")
    assert losses(reports) == losses(list(ddpm.train(tiny, total_steps=5, seed=3)))
    assert list(Path().rglob("*.pt")) == []
    weights = training.model("model").network.state_dict()
    averages = training.model().network.state_dict()
    assert any(not torch.equal(weights[name], averages[name]) for name in weights)


@pytest.mark.slow
def test_training_writes_what_the_command_writes(tiny: Config, runs_dir: Path) -> None:
    from ddpm.cli import main
    from ddpm.config import codec

    training = ddpm.train(tiny, run="ours", runs_dir=runs_dir)
    reports = list(training)
    run = ddpm.open_run("ours", runs_dir)
    assert training.run == run
    assert (len(reports), run.state()) == (20, "finished")
    flags = codec.to_flags(tiny)
    assert main.main(["train", *flags, "--run", "theirs", "--runs_dir", str(runs_dir)]) == 0
    other = ddpm.open_run("theirs", runs_dir)
    names = sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*"))
    assert names == sorted(str(path.relative_to(other.folder)) for path in other.folder.rglob("*"))
    assert run.config == other.config
    measured = ["seconds", "steps_per_second", "memory_mb"]
    pd.testing.assert_frame_equal(run.metrics.drop(columns=measured), other.metrics.drop(columns=measured))
    for name in run.checkpoint().files:
        if not name.startswith("state"):
            assert (run.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
    assert "DDPM Workbench" in run.log_path.read_text()
    assert "Finished: 20 steps" in run.log_path.read_text()


@pytest.mark.slow
def test_closing_saves_and_it_can_be_resumed(tiny: Config, runs_dir: Path) -> None:
    whole = list(ddpm.train(tiny, run=runs_dir / "whole"))
    training = ddpm.train(tiny, run=runs_dir / "part")
    first = [next(training) for _ in range(7)]
    training.close()
    run = ddpm.open_run("part", runs_dir)
    assert (run.state(), run.checkpoint().step) == ("stopped", 7)
    with pytest.raises(StopIteration):
        next(training)
    rest = list(ddpm.train(run))
    assert [report.step for report in rest] == list(range(8, 21))
    assert losses(first + rest) == losses(whole)
    assert run.state() == "finished"
    with pytest.raises(UserError) as raised:
        ddpm.train(run)
    assert raised.value.code == "nothing-left"
    assert run.state() == "finished", "to be refused changes nothing"


def test_leaving_the_loop_saves_too(tiny: Config, runs_dir: Path) -> None:
    for report in ddpm.train(tiny, run=runs_dir / "mine"):
        if report.step == 4:
            break
    run = ddpm.open_run(runs_dir / "mine")
    assert (run.state(), run.checkpoint().step) == ("stopped", 4)


def test_closing_before_the_first_step(tiny: Config, runs_dir: Path) -> None:
    ddpm.train(tiny, run=runs_dir / "mine").close()
    run = ddpm.open_run(runs_dir / "mine")
    assert (run.state(), run.checkpoints()) == ("stopped", [])


def test_closing_after_the_last_step(tiny: Config, runs_dir: Path) -> None:
    training = ddpm.train(tiny, run=runs_dir / "mine", total_steps=3)
    for report in training:
        if report.step == 3:
            break
    training.close()
    assert ddpm.open_run(runs_dir / "mine").state() == "finished"


@pytest.mark.parametrize(
    ("arguments", "settings", "code"),
    [
        (["no-such-preset"], {}, "unknown-setting"),
        ([], {"learning_rate": 1}, "unknown-setting"),
        ([], {"lr": 5.0}, "out-of-range"),
        ([], {"lr": "1e-4"}, "bad-value"),
        ([], {"total_steps": 1e4}, "bad-value"),
        ([], {"seed": True}, "bad-value"),
        ([], {"data_dir": "nowhere"}, "not-found"),
    ],
)
def test_training_refuses_at_once(arguments: list[str], settings: dict[str, object], code: str, runs_dir: Path) -> None:
    with pytest.raises(UserError) as raised:
        ddpm.train(*arguments, run=runs_dir / "mine", **settings)
    assert raised.value.code == code
    assert not (runs_dir / "mine").exists()


def test_a_name_that_is_taken(tiny: Config, fake_run: Callable[..., Run], runs_dir: Path) -> None:
    run = fake_run("mine")
    with pytest.raises(UserError) as raised:
        ddpm.train(tiny, run="mine", runs_dir=runs_dir)
    assert raised.value.code == "already-exists"
    with pytest.raises(UserError) as raised:
        ddpm.train(run, lr=1.0)
    assert raised.value.code == "settings-are-fixed"


# --- models


@pytest.fixture(scope="module")
def model() -> Model:
    """A small network of coloured shapes, trained for 3,000 steps, which predicts x_0."""
    return ddpm.load(ROOT / "tests" / "shapes_run")


def test_samples_are_those_of_the_command(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddpm.cli import main

    monkeypatch.chdir(tmp_path)
    assert main.main(["example"]) == 0
    sampled = ddpm.load("runs/example").sample(3, steps=4, seed=0)
    assert (sampled.dtype, sampled.shape) == (np.uint8, (3, 32, 32, 3))
    flags = ["--run", "example", "--num_samples", "3", "--steps", "4", "--seed", "0", "--out", "out"]
    assert main.main(["sample", *flags]) == 0
    with np.load("out/samples_3x32x32x3.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], sampled)
    np.testing.assert_array_equal(ddpm.load("example").sample(3, steps=4), sampled)
    path = ddpm.open_run("example").checkpoint().path("ema_0.99")
    np.testing.assert_array_equal(ddpm.load(path).sample(3, steps=4), sampled)
    stars = fp32(model, 3, classes="star")
    np.testing.assert_array_equal(fp32(model, 2, classes="star", seed=1), stars[1:], "image k is that of seed + k")


def fp32(model: Model, n: int, **settings: Any) -> np.ndarray:
    """A few images of which no bit depends on the batch."""
    return model.sample(n, steps=4, precision="fp32", **settings)


def test_every_step(model: Model) -> None:
    states = list(model.iter_sample(2, steps=4, precision="fp32"))
    assert [state.done for state in states] == [1, 2, 3, 4]
    assert {state.total for state in states} == {4}
    assert [state.t for state in states] == sorted((state.t for state in states), reverse=True)
    assert states[0].x.shape == states[0].x_start.shape == (2, 3, 32, 32)
    np.testing.assert_array_equal(images.to_uint8(states[-1].x.numpy()), fp32(model, 2))


def test_noise_of_ones_own(model: Model) -> None:
    rows = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    x_T = torch.stack(rows)
    np.testing.assert_array_equal(
        model.sample(noise=x_T, steps=4, precision="fp32"), fp32(model, 2), "the noise of the seeds"
    )
    np.testing.assert_array_equal(
        model.sample(noise=x_T.numpy(), steps=4, precision="fp32", seed=5, solver="ddim"),
        model.sample(2, noise=x_T, steps=4, precision="fp32", solver="ddim"),
    )
    swapped = model.sample(noise=x_T.flip(0), steps=4, classes="star", precision="fp32")
    np.testing.assert_array_equal(swapped[::-1], fp32(model, 2, classes="star"))
    for noise, n in ((x_T[:, :2], None), (x_T, 3)):
        with pytest.raises(UserError) as raised:
            model.sample(n, noise=noise, steps=4)
        assert raised.value.code == "wrong-size"
    with pytest.raises(UserError) as raised:
        model.sample(noise=x_T, steps=4, task="interpolate")
    assert raised.value.code == "conflicting-settings"


def test_classes(model: Model) -> None:
    assert model.class_names[3] == "star"
    star = fp32(model, 2, classes="star")
    assert api_model._classes_text((), [2, np.int64(0), "cat"]) == "2-2,0-0,cat", (
        "numbers are labels, whatever names say"
    )
    for classes in (3, "3", ["star"], np.array([3, 3]), "star,star"):
        np.testing.assert_array_equal(fp32(model, 2, classes=classes), star)
    np.testing.assert_array_equal(fp32(model, 2, classes=["star", 0])[0], star[0])
    assert not np.array_equal(fp32(model, 2, classes=["star", 0])[1], star[1])
    for settings, code in (
        ({"classes": "star,sun"}, "unknown-class"),
        ({"classes": []}, "missing-value"),
        ({"etta": 1.0}, "unknown-setting"),
    ):
        with pytest.raises(UserError) as raised:
            fp32(model, 2, **settings)
        assert raised.value.code == code


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_can_be_called_while_it_samples(model: Model, precision: str) -> None:
    """It computes in fp32, whatever the samples are computed in, and changes nothing of theirs."""
    settings: dict[str, Any] = dict(steps=4, classes="star", precision=precision)
    alone, called, images = [step.x for step in model.iter_sample(2, **settings)], [], []
    for step in model.iter_sample(2, **settings):
        images.append(step.x)
        called.append(model(torch.zeros(2, 3, 32, 32), 500, classes="star"))
    assert all(map(torch.equal, images, alone))
    assert all(torch.equal(found, called[0]) for found in called)


def test_the_networks_own_output(model: Model) -> None:
    """A step of DDIM made of calls is the sampler's, at the first timestep that it visits."""
    x_T = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (first, *_) = model.iter_sample(
        noise=x_T, solver="ddim", steps=10, classes="star", guidance_scale=1.0, precision="fp32", spacing="uniform"
    )
    output = model(x_T, int(first.t), classes="star")  # this model predicts x_0
    assert (output.shape, output.dtype, output.requires_grad) == (x_T.shape, torch.float32, False)
    torch.testing.assert_close(output.clamp(-1, 1), first.x_start)
    t = torch.tensor([100, 900])
    both = model(x_T, t, classes=["star", "moon"])
    torch.testing.assert_close(both[1:], model(x_T[1:], 900, classes="moon"), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(x_T, 500), model(x_T, 500, classes="star")), "the label of no class"
    assert model.alphas_cumprod.shape == (model.config.diffusion.diffusion_steps,)
    for wrong in (-1, 1000, torch.tensor([0, 1000])):
        with pytest.raises(UserError) as raised:
            model(x_T, wrong)
        assert raised.value.code == "out-of-range"


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 5, 32, 32), (1, 3, 34, 34), (1, 3, 31, 31), (3, 32, 32)])
def test_images_of_another_shape_are_refused(model: Model, shape: tuple[int, ...]) -> None:
    """The kernels would read past their ends."""
    x = torch.zeros(shape)
    with raises_error("wrong-size"):
        model(x, 500)
    with pytest.raises(ValueError, match="multiples of"):
        model.network(x, torch.zeros(len(x)), torch.zeros(len(x), dtype=torch.int64))


def test_what_the_network_cannot_be_asked(model: Model) -> None:
    x = torch.zeros(2, 3, 32, 32)
    for settings in (dict(t=500.9), dict(t=torch.zeros(3)), dict(t=5, classes=["star", "moon", "star"])):
        with raises_error("bad-value"):
            model(x, **settings)
    with raises_error("wrong-size"):
        model(x, 5, low_res=x)
    with pytest.raises(UserError):
        model.sample(0)


@pytest.mark.slow
def test_evaluation(model: Model, tmp_path: Path) -> None:
    from ddpm.cli import main
    from ddpm.runs.results import EvaluationJob

    found = ddpm.evaluate(model, "shapes", num_samples=3, timestep_respacing="10")
    assert found.num_samples == 3
    assert found.interval == (found.bits_per_dim - found.ci95, found.bits_per_dim + found.ci95)
    assert found.terms["vb"].shape == (10,)
    assert found.terms["vb"].sum() + found.prior == pytest.approx(found.bits_per_dim)
    path = model.opened.path
    flags = ["--data_dir", "shapes", "--num_samples", "3", "--timestep_respacing", "10", "--out", str(tmp_path / "out")]
    assert main.main(["nll", "--model_path", str(path), *flags]) == 0
    result = EvaluationJob(tmp_path / "out").result
    assert (found.bits_per_dim, found.ci95) == pytest.approx((result["bits_per_dim"], result["ci95"]))
    with pytest.raises(UserError) as raised:
        ddpm.evaluate(model, "nowhere")
    assert raised.value.code == "not-found"


def test_a_trained_model_samples(tiny: Config) -> None:
    training = ddpm.train(tiny, total_steps=2)
    assert [report.step for report in training] == [1, 2]
    assert training.model("model").sample(2, steps=2).shape == (2, 8, 8, 3)


def test_files_of_other_programs(tiny: Config, runs_dir: Path, tmp_path: Path) -> None:
    list(ddpm.train(tiny, run=runs_dir / "mine", total_steps=2))
    run = ddpm.open_run(runs_dir / "mine")
    tensors = torch.load(run.checkpoint().path("model"), weights_only=True)
    torch.save(dict(tensors), tmp_path / "theirs.pt")
    settings = {"image_size": 8, "diffusion_steps": 20, "noise_schedule": "cosine", "num_heads": 1}
    theirs = ddpm.load(tmp_path / "theirs.pt", probe=False, **settings)
    np.testing.assert_array_equal(theirs.sample(2, steps=3), ddpm.load(run, weights="model").sample(2, steps=3))
    for source, more, code in (
        (tmp_path / "none.pt", {}, "not-found"),
        (run, {"weights": "ema_0.5"}, "missing-weights"),
        (run, {"step": 7}, "unknown-step"),
        (run.checkpoint().path("model"), {"step": 7}, "settings-are-fixed"),
        (run.checkpoint().path("model"), {"weights": "ema_0.5"}, "settings-are-fixed"),
        (run, {"image_size": 8}, "settings-are-fixed"),
    ):
        with pytest.raises(UserError) as raised:
            ddpm.load(source, **more)
        assert raised.value.code == code


def test_weights_are_chosen_where_they_are_loaded(
    tiny: Config, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that an already loaded model cannot follow is refused, and one for `load` reaches it."""
    list(ddpm.train(tiny, run="chosen", runs_dir=runs_dir))
    run = ddpm.open_run("chosen", runs_dir)
    raw = ddpm.evaluate(ddpm.load(run, weights="model", step=10), num_samples=2)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert ddpm.evaluate(run, num_samples=2, weights="model", step=10, threads=1).bits_per_dim == raw.bits_per_dim
    assert asked == [1]
    model = ddpm.load(run)
    for wrong in (lambda: model.sample(1, weights="model"), lambda: ddpm.evaluate(model, num_samples=2, step=10)):
        with pytest.raises(UserError) as raised:
            wrong()
        assert raised.value.code == "settings-are-fixed"


def test_settings_have_the_names_of_flags() -> None:
    from ddpm.api.settings import parse_section
    from ddpm.config.tasks import SampleConfig

    asked = parse_section(SampleConfig, {"task": "vary", "image": Path("/one.png")})
    assert asked == parse_section(SampleConfig, {"task": "vary", "picture": "/one.png"})


def test_training_in_memory_begins_with_a_file(tiny: Config, runs_dir: Path) -> None:
    whole = codec.replace(tiny, {"total_steps": 4, "save_interval": 4, "sample_interval": 0})
    list(ddpm.train(whole, run=runs_dir / "before"))
    path = ddpm.open_run(runs_dir / "before").checkpoint().path("model")
    training = ddpm.train(whole, resume_checkpoint=str(path), total_steps=5, lr=1e-9)
    assert [report.step for report in training] == [5]
    found, wanted = training.model("model").network.state_dict(), ddpm.load(path).network.state_dict()
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, atol=1e-7), name


def test_closing_after_a_save_that_found_no_room_saves(
    tiny: Config, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = files.write, True

    def maybe(path: Path, *rest: Any) -> files.Written:
        if full and path.suffix == ".pt":
            raise files.DiskFull(path)
        return write(path, *rest)

    monkeypatch.setattr(files, "write", maybe)
    training = ddpm.train(codec.replace(tiny, {"save_interval": 3}), run=runs_dir / "mine")
    for report in training:
        if report.step == 3:
            break
    assert ddpm.open_run(runs_dir / "mine").checkpoints() == []
    full = False
    training.close()
    run = ddpm.open_run(runs_dir / "mine")
    assert (run.state(), run.checkpoint().step) == ("stopped", 3)
