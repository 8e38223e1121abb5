"""What keeps a training from starting: in the words of the shell and of the form, with remedies that work."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from raising import raises_error

from ddpm.cli import main
from ddpm.config import codec, fields, validation, wording
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.config.validation import Problem
from ddpm.data import checked, datasets, sources
from ddpm.planning import architecture, starting
from ddpm.training import start

SHAPES = PRESETS["quick-start"].config


def problems(config: Config, folder: Path, **known: Any) -> list[Problem]:
    config = codec.resolved(config)
    return [*validation.problems(config)] or [*starting.problems(config, folder, **known)]


def found(folder: Path, **changes: Any) -> dict[str, Problem]:
    """Problems by code."""
    config = codec.replace(SHAPES, changes)
    return {p.code: p for p in problems(config, folder, about=datasets.describe(config.data.data_dir))}


def test_the_quick_start_has_none(tmp_path: Path) -> None:
    assert not found(tmp_path)


@pytest.mark.parametrize(
    ("changes", "code", "remedy"),
    [
        (dict(diffusion_steps=1), "few-timesteps", dict(diffusion_steps=1000)),
        (dict(diffusion_steps=10), "few-timesteps", dict(diffusion_steps=1000)),
        (dict(diffusion_steps=10, noise_schedule="linear"), "bad-schedule", dict(diffusion_steps=1000)),
        (dict(ema_rate="0.9999"), "long-average", dict(ema_rate="0.995")),
        (dict(ema_rate="0.995,0.9999"), "long-average", dict(ema_rate="0.995")),
        (dict(save_interval=1001), "rare-checkpoints", dict(save_interval=250)),
        (dict(threads=1024), "too-many-threads", dict(threads=0)),
        (dict(resume_checkpoint="/nowhere/model000100.pt"), "not-found", dict(resume_checkpoint="")),
        (dict(num_classes=4), "bad-value", dict(num_classes=0)),
        (dict(lr=0.0), "nothing-learnt", dict(lr=1e-4)),
    ],
)
def test_each_is_found_and_mended(changes: dict, code: str, remedy: dict, tmp_path: Path) -> None:
    problem = found(tmp_path, **changes)[code]
    assert problem.remedies[0] == remedy
    for offered in problem.remedies:
        again = found(tmp_path, **{**changes, **offered})
        assert code not in again


def test_one_that_is_less_than_the_run_is_right(tmp_path: Path) -> None:
    assert not found(tmp_path, save_interval=1000, ema_rate="0.999")


def test_a_file_to_begin_from(tmp_path: Path) -> None:
    folder = tmp_path / "earlier"
    folder.mkdir()
    for name in ("model000100.pt", "model002000.pt"):
        (folder / name).write_bytes(b"weights")
    newest = str(folder / "model002000.pt")
    assert found(tmp_path, resume_checkpoint=str(folder))["not-a-file"].remedies[0] == dict(resume_checkpoint=newest)
    assert found(tmp_path, resume_checkpoint=newest)["nothing-left"].remedies[0] == dict(total_steps=3000)
    assert not found(tmp_path, resume_checkpoint=str(folder / "model000100.pt"))
    assert "not-found" in found(tmp_path, resume_checkpoint="a\0b")


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = codec.replace(SHAPES, dict(total_steps=1000, save_interval=100))
    each = starting.checkpoint_bytes(config)
    assert each == 16 * architecture.parameters(config.model), "weights, one average, two moments"
    assert starting.checkpoints(config) == 10
    monkeypatch.setattr("ddpm.storage.files.free_bytes", lambda folder: starting.SPARE + 5 * each)
    problem = found(tmp_path, save_interval=100)["disk-full"]
    assert problem.remedies == (dict(keep_checkpoints=4),)
    assert not found(tmp_path, save_interval=100, keep_checkpoints=4)
    assert not found(tmp_path, save_interval=200)


@pytest.fixture
def pictures(own_cache: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(5):
        Image.fromarray(np.full((40 + k, 60, 3), 40 * k, np.uint8)).save(folder / f"{k}.jpg")
    return folder


def test_every_image_is_looked_at_once(pictures: Path) -> None:
    (pictures / "3.jpg").write_bytes((pictures / "3.jpg").read_bytes()[:200])
    state = checked.state_of(sources.open_source(str(pictures)), str(pictures))
    assert checked.known(state) is None
    asked: list[tuple[int, int]] = []
    seen = checked.check(str(pictures), lambda *progress: asked.append(progress))
    assert asked == [(5, 5)]
    assert (seen.total, seen.broken, seen.names) == (5, 1, ("3.jpg",))
    assert seen.sides == {40: 1, 41: 1, 42: 1, 44: 1}
    assert checked.known(state) == seen
    Image.new("RGB", (90, 90)).save(pictures / "3.jpg")
    state = checked.state_of(sources.open_source(str(pictures)), str(pictures))
    assert checked.known(state) is None, "the file is another one"
    assert checked.check(str(pictures)).broken == 0


def test_what_was_seen_keeps_a_training_from_starting(pictures: Path) -> None:
    (pictures / "3.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    seen = checked.check(str(pictures))
    config = codec.replace(SHAPES, dict(data_dir=str(pictures), class_cond=False))

    def codes(**changes: Any) -> set[str]:
        return {p.code for p in problems(codec.replace(config, changes), pictures, seen=seen)}

    assert codes() == {"broken-image"}
    assert codes(skip_broken=True) == set()
    assert codes(skip_broken=True, image_size=64, channel_mult="") == {"small-images"}
    assert codes(skip_broken=True, image_size=64, channel_mult="", enlarge=True) == set()


def extremes(s: fields.Setting) -> Iterator[Any]:
    """Values at the limits of a setting, and beyond them."""
    if s.type is bool:
        yield from (True, False)
    elif s.choices:
        yield from s.choices
    elif s.type in (int, float):
        assert s.low is not None
        assert s.high is not None
        yield from map(s.type, (s.low, s.high, s.low - 1, s.high + 1, 1))
    else:
        yield from ("", "x", "0", "-1", "1,2,3", "250", "ddim7", "1.5", "[a](b)")


ALL = [s for section in codec.SECTIONS.values() for s in fields.settings(section)]


@pytest.mark.parametrize("preset", ["quick-start", "cifar10-cpu"])
def test_at_every_extreme_a_form_speaks_of_fields(preset: str, tmp_path: Path) -> None:
    """No flag, no True and no sentinel in any sentence; and each remedy is one that a form can take."""
    flags = {s.name for s in ALL if "_" in s.name}
    told = 0
    for s in ALL:
        for value in extremes(s):
            if s.name == "data_dir":
                continue
            for problem in problems(codec.replace(PRESETS[preset].config, {s.name: value}), tmp_path):
                text = wording.sentence(problem)
                assert not {word for word in flags if word in text}, text
                assert not {"True", "False", " -1 for"} & {text[k : k + n] for k in range(len(text)) for n in (4, 5, 7)}
                assert all(wording.remedy(remedy) for remedy in problem.remedies)
                told += 1
    assert told > 80


def test_words() -> None:
    problem = next(validation.problems(codec.replace(SHAPES, dict(num_channels=50))))
    assert wording.sentence(problem).startswith("Channels: 50 is not a multiple of 32")
    assert [wording.remedy(remedy) for remedy in problem.remedies] == ["Channels: 32", "Channels: 64"]
    assert wording.remedy(dict(enlarge=True)) == "Switch on Enlarge small images"
    assert wording.remedy(dict(keep_checkpoints=0)) == "Checkpoints kept: all"


# --- the shell


def run(*arguments: str, tmp_path: Path) -> int:
    return main.main(["train", "--runs_dir", str(tmp_path), "--preset", "quick-start", "--dry_run", "True", *arguments])


def test_the_shell_warns_of_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--save_interval", "5000", "--json", "True", tmp_path=tmp_path) == 0
    [warning] = json.loads(capsys.readouterr().out)["warnings"]
    assert warning.startswith("save_interval 5000 is more than the 1,000 steps")


def test_and_refuses_the_same(tmp_path: Path) -> None:
    with raises_error("not-found"):
        start.warnings(codec.replace(SHAPES, dict(resume_checkpoint=str(tmp_path / "model.pt"))), tmp_path)


def test_images_to_test_on_are_looked_at_too(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training opens them at its start.  And what can be read changes with the limit."""
    for part in ("train", "test"):
        for k, name in enumerate("ab"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(3):
                image = Image.new("RGB", (12, 12), (k * 80, number * 40, 9))
                image.save(tmp_path / "data" / part / name / f"{number}.png")
    broken = tmp_path / "data" / "test" / "a" / "1.png"
    broken.write_bytes(broken.read_bytes()[:50])
    found = checked.check(str(tmp_path / "data"))
    assert (found.total, found.broken, "1.png" in found.names[0]) == (12, 1, True)
    monkeypatch.setenv("DDPM_MAX_PIXELS", "100")
    assert checked.check(str(tmp_path / "data")).broken == 12
    monkeypatch.delenv("DDPM_MAX_PIXELS")
    assert checked.check(str(tmp_path / "data")).broken == 1
