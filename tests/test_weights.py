"""Files that are taken for weights: each is told apart by what it is, and nothing in it is run."""

import argparse
import os
import pickle
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raising import raises_error

import ddpm
from ddpm.checkpoints import checkpoint_files, identify, infer_config
from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.model import ModelConfig
from ddpm.config.training import Config
from ddpm.errors import Code, UserError
from ddpm.models import unet
from ddpm.runs import manifests
from ddpm.runs.runs import Run
from ddpm.training import warm_start
from ddpm.training.loop import TrainingLoop, Worker

SMALL = ModelConfig(
    image_size=8, num_channels=32, num_res_blocks=1, channel_mult="1", num_heads=1, attention_resolutions=""
)
NETWORK = {"a.weight": torch.ones(2), "a.bias": torch.zeros(2)}


def saved(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


OBJECTS = {"state_dict": NETWORK, "args": argparse.Namespace(lr=1)}
FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "module": (lambda p: saved(p, torch.nn.Linear(2, 2)), r"whole.*torch\.nn\.modules\.linear\.Linear"),
    "trainer": (lambda p: saved(p, OBJECTS), r"whole.*network under state_dict next to args.*argparse\.Namespace"),
    "old trainer": (lambda p: saved(p, OBJECTS, _use_new_zipfile_serialization=False), r"argparse\.Namespace"),
    "of torch": (
        lambda p: saved(p, {"model": NETWORK, "data": torch.utils.data.TensorDataset(torch.zeros(1))}),
        r"whole.*under model.*torch\.utils\.data\.dataset\.TensorDataset",
    ),
    "nested": (lambda p: saved(p, {"opt": {"state": {}, "param_groups": []}, "net": {"ema": NETWORK}}), r"net\.ema"),
    "beside": (lambda p: saved(p, {**NETWORK, "epoch": 3}), "epoch next to its tensors"),
    "empty dict": (lambda p: saved(p, {}), "holds nothing"),
    "list": (lambda p: saved(p, [1, 2]), r"no network weights \(but list\)"),
    "optimiser": (lambda p: saved(p, {"state": {}, "param_groups": []}), "an optimiser's state"),
    "nan": (
        lambda p: saved(p, {"a": torch.tensor([1.0, np.nan, np.inf])}),
        "2 of 3 values are NaN or infinite, first in a",
    ),
    "pickle": (lambda p: written(p, pickle.dumps({"a": 1})), "pickle of Python"),
    "script": (lambda p: torch.jit.script(torch.nn.ReLU()).save(str(p)), "TorchScript"),
    "npz": (lambda p: written(p, npz(p)), r"\.npz of arrays"),
    "safetensors": (lambda p: written(p, (2).to_bytes(8, "little") + b"{}"), "safetensors"),
    "git lfs": (lambda p: written(p, b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
    "web page": (lambda p: written(p, b"\n<!DOCTYPE html>"), "web page"),
    "nothing": (lambda p: written(p, b""), "it is empty"),
    "noise": (lambda p: written(p, bytes(range(1, 255))), "not a checkpoint"),
    "cut": (lambda p: written(p, saved(p, NETWORK).read_bytes()[:900]), "cut short or damaged"),
    "old cut": (
        lambda p: written(p, saved(p, NETWORK, _use_new_zipfile_serialization=False).read_bytes()[:90]),
        "cut short or damaged",
    ),
}


def npz(path: Path) -> bytes:
    np.savez(path.with_suffix(".npz"), arr_0=np.zeros(3))
    return path.with_suffix(".npz").read_bytes()


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_no_file_of_weights_is_said(kind: str, tmp_path: Path) -> None:
    make, words = FILES[kind]
    path = tmp_path / "it's a file.pt"
    make(path)
    code: Code = "damaged-checkpoint"
    if kind in ("nested", "beside", "empty dict", "list", "optimiser"):
        code = "not-a-checkpoint"
    elif kind == "nan":
        code = "not-finite"
    with raises_error(code) as raised:
        checkpoint_files.load_weights(path)
    assert re.search(words, str(raised.value))
    assert "cut short" in words or "cut short" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["module", "trainer", "old trainer", "nested", "beside", "script"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_that_saves_the_network_alone_works(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it's a \U0001f600 file.pt"
    taken = [path.with_name(f"{path.stem}{name}_weights.pt") for name in ("", "_state_dict", "_ema")]
    for other in taken:  # which stay as they are
        other.write_bytes(b"weights")
    FILES[kind][0](path)
    with pytest.raises(UserError) as raised:
        checkpoint_files.load_weights(path)
    command = re.search(r"`(python -c .*)`", str(raised.value))
    assert command
    if kind == "script":  # without parameters: nothing to load afterwards
        return
    _, *rest = shlex.split(command[1])
    subprocess.run([sys.executable, *rest], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (target,) = set(tmp_path.glob("*.pt")) - {path, *taken}
    assert {other.read_bytes() for other in taken} == {b"weights"}
    assert target.name in str(raised.value)
    loaded = checkpoint_files.load_weights(target).tensors
    assert [tuple(t.shape) for t in loaded.values()] == ([(2, 2), (2,)] if kind == "module" else [(2,), (2,)])


def test_objects_are_looked_at_without_being_made(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    for number, legacy in enumerate((False, True)):
        path = saved(tmp_path / f"{number}.pt", {"w": Evil()}, _use_new_zipfile_serialization=not legacy)
        with raises_error("damaged-checkpoint"):
            checkpoint_files.load_weights(path)
    assert not (tmp_path / "ran").exists()


# One tensor more or fewer


def test_a_tensor_too_many_or_too_few_is_named(tmp_path: Path) -> None:
    whole = unet.build(SMALL).state_dict()
    flags = {"image_size": 8, "num_heads": 1}
    for name in (
        "out.2.bias",
        "middle_block.1.proj_out.bias",
        "time_embed.0.weight",
        "input_blocks.1.0.emb_layers.1.weight",
    ):
        with pytest.raises(UserError, match=f"lacks the tensor {re.escape(name)}"):
            identify.identify({k: v for k, v in whole.items() if k != name}, flags, tmp_path / "m.pt", run_probe=False)
    with raises_error("wrong-weights"):
        identify.identify({**whole, "extra": torch.zeros(1)}, flags, tmp_path / "m.pt", run_probe=False)
    with raises_error("wrong-weights", 2):
        identify.identify(
            {**whole, "extra": torch.zeros(1), "more": torch.zeros(1)}, flags, tmp_path / "m.pt", run_probe=False
        )


def test_other_networks_are_reported_apart() -> None:
    shapes = {name: tuple(t.shape) for name, t in unet.build(SMALL).state_dict().items()}
    with raises_error("unknown-network", 1):
        infer_config.model_settings({"conv.weight": (3, 3)}, "x.pt")
    with raises_error("unknown-network"):
        infer_config.model_settings({f"module.{name}": shape for name, shape in shapes.items()}, "x.pt")
    wider = {
        name: tuple(t.shape)
        for name, t in (
            unet.build(codec.replace(Config(model=SMALL), {"channel_mult": "1,2"}).model).state_dict().items()
        )
    }
    resized = {name: shape for name, shape in wider.items() if ".op." not in name}
    resized |= {
        name.replace("blocks.1.", "blocks.2."): shape
        for name, shape in wider.items()
        if name.startswith("input_blocks.1.")
    }
    with raises_error("unknown-network", "resblock_updown"):
        infer_config.model_settings(resized, "x.pt")


# Weights that are not numbers


@pytest.fixture
def trained(runs_dir: Path, tiny: Config) -> Path:
    """A run of two checkpoints."""
    from ddpm.data import datasets
    from ddpm.runs import runs

    config = codec.resolved(datasets.resolve(codec.replace(tiny, {"total_steps": 2, "save_interval": 1})))
    run = runs.create_run(runs_dir, "r", config)
    with Worker(run.folder, 2) as worker:
        list(TrainingLoop(run, worker).train())
    return run.folder


def spoil(path: Path, value: float) -> None:
    content = torch.load(path, weights_only=True)
    kept = content._metadata
    content["out.2.bias"][0] = value
    content._metadata = kept
    torch.save(content, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(value: float, trained: Path, tmp_path: Path, tiny: Config) -> None:
    path = tmp_path / "model000002.pt"
    path.write_bytes((trained / "model000002.pt").read_bytes())
    spoil(path, value)
    for command in (["sample", "--steps", "1", "--num_samples", "1"], ["nll", "--num_samples", "1"]):
        with raises_error("not-finite", 1):
            main.execute([*command, "--model_path", str(path), "--out", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()
    with raises_error("not-finite"):
        warm_start.start_from(path, codec.replace(tiny, {"resume_checkpoint": str(path), "total_steps": 9}))


def test_a_run_goes_back_behind_weights_that_are_not_numbers(trained: Path) -> None:
    from ddpm.runs.runs import Run

    run = Run(trained)
    newest = run.checkpoint()
    spoil(newest.path("model"), float("nan"))
    manifests.commit(
        newest._replace(
            files={
                name: {
                    "bytes": (trained / name).stat().st_size,
                    "sha256": checkpoint_files.files.sha256(trained / name),
                }
                for name in newest.files
            }
        )
    )
    found, wrong = checkpoint_files.newest_intact(run)
    assert found is not None
    assert (newest.step, found.step) == (2, 1)
    assert "out.2.bias" in wrong[0]


def test_images_that_come_out_as_no_numbers_say_so(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import json

    from ddpm.storage import images

    path = tmp_path / "model000002.pt"
    path.write_bytes((trained / "model000002.pt").read_bytes())
    spoil(path, 3e38)  # a number, and too large to be computed with
    flags = [
        "--model_path",
        str(path),
        "--num_samples",
        "2",
        "--timestep_respacing",
        "3",
        "--clip_denoised",
        "False",
        "--sampler",
        "ddpm",
    ]
    assert main.main(["sample", *flags, "--out", str(tmp_path / "out")]) == 0
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert "2 images of 2" in status["warning"]
    assert "NaN or infinite" in caplog.text
    assert (images.settings_in(tmp_path / "out" / "images" / "00001.png") or {})["not_finite"] > 0


def test_too_little_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "large.pt", NETWORK)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", fail)
    with raises_error("out-of-memory"):
        checkpoint_files.read(path)


def test_two_names_that_torch_takes_for_one_are_refused(tmp_path: Path) -> None:
    """It looks entries up without regard to case, and would read another than the one that was judged."""
    good = saved(tmp_path / "good.pt", NETWORK)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "bad.pt", "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        pickled = next(entry for entry in source.namelist() if entry.endswith("data.pkl"))
        target.writestr(pickled.replace("data.pkl", "Data.pkl"), source.read(pickled))
    assert list(checkpoint_files.load_weights(good).tensors) == list(NETWORK)
    with raises_error("damaged-checkpoint"):
        checkpoint_files.load_weights(tmp_path / "bad.pt")


def test_what_is_no_state_and_no_network(tmp_path: Path) -> None:
    state = saved(tmp_path / "state000003.pt", [1, 2])
    assert checkpoint_files.train_ids_at_step(tmp_path / "model000003.pt", 3) is None
    assert state.exists()
    shapes = {"time_embed.0.weight": (128, 0), "out.2.weight": (3, 0, 3, 3), "input_blocks.0.0.weight": (0, 3, 3, 3)}
    with raises_error("unknown-network"):
        infer_config.model_settings(shapes, "model.pt")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"lr": 1.0}, "--lr 1.0"),
        ({"predict_xstart": True}, "--prediction x_start"),
        ({"num_heads": 2}, "--num_heads 2"),
    ],
)
def test_settings_that_contradict_a_file_are_named(flags: dict[str, Any], named: str, trained: Path) -> None:
    with raises_error("settings-are-fixed", named):
        ddpm.load(Run(trained).checkpoint().path("model"), **flags)
