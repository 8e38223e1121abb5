"""Presets for one's own images: which is proposed for how many of what size, and how a click takes it."""

import json
from pathlib import Path

import numpy as np
import pytest
from app_page import button, open_page, said
from PIL import Image

from ddpm.cli import main
from ddpm.config import codec
from ddpm.config.presets import OWN, OWN_IMAGES, OWN_SIZES, PRESETS, own_name
from ddpm.data.datasets import Description
from ddpm.planning import own_images

TRAIN = "pages/train.py"


def folder_of(count: int, size: tuple[int, int] | None, classes: int = 0, test: int = 0) -> Description:
    names = tuple(f"class {k}" for k in range(classes))
    return Description(count, names, (count // classes,) * classes if classes else (), "", size, (), test)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (1, (64, 64), "own-200-64"),
        (440, (32, 32), "own-200-32"),
        (460, (32, 32), "own-1000-32"),
        (812, (90, 64), "own-1000-64"),
        (2200, (63, 500), "own-1000-32"),
        (2300, (1000, 1000), "own-5000-64"),
        (15_700, (64, 64), "own-5000-64"),
        (16_000, (64, 64), "own-50000-64"),
        (10**7, (20, 20), "own-50000-32"),
    ],
)
def test_the_nearest_number_and_the_largest_size(count: int, size: tuple[int, int], expected: str) -> None:
    found = own_images.propose(folder_of(count, size))
    assert found is not None
    assert found.preset == expected
    assert found.config == PRESETS[expected].config
    assert f"{count:,}" in found.sentence


@pytest.mark.parametrize(
    ("classes", "count", "used"), [(0, 900, False), (1, 900, False), (9, 450, True), (9, 449, False)]
)
def test_classes_are_used_where_they_have_images_enough(classes: int, count: int, used: bool) -> None:
    found = own_images.propose(folder_of(count, (32, 32), classes))
    assert found is not None
    assert (found.config.model.class_cond, found.config.model.cond_drop_prob > 0) == (used, used)
    assert found.is_taken(codec.replace(found.config, {"data_dir": "/home/me", "class_names": ("a",)}))
    assert not found.is_taken(codec.replace(found.config, {"lr": 1e-5}))


def test_generated_images_have_no_proposal() -> None:
    assert own_images.propose(folder_of(9000, None)) is None


def test_the_smallest_image_decides_the_size() -> None:
    about = folder_of(1000, (100, 100))
    for least, size in ((0, 64), (70, 64), (40, 32)):
        found = own_images.propose(about, least)
        assert found is not None
        assert found.config.model.image_size == size


def test_held_out_images_are_not_counted_as_seen() -> None:
    found = own_images.propose(folder_of(1000, (32, 32)))
    assert found is not None
    for figure in ("1,000 images", "100 held out", f"{round(12_000 * 8 / 900)} times"):
        assert figure in found.sentence
    own = own_images.propose(folder_of(1000, (32, 32), test=250))
    assert own is not None
    assert own.config.data.hold_out == 0, "what was held out besides would be used for nothing"
    for figure in ("250 held out", "96 times"):
        assert figure in own.sentence


def test_fewer_images_stop_sooner_and_are_guarded_more() -> None:
    assert {name for name, preset in PRESETS.items() if preset.group == OWN} == {
        own_name(row.number, size) for row in OWN_IMAGES for size in OWN_SIZES
    }
    for size in OWN_SIZES:
        rows = [PRESETS[own_name(row.number, size)].config for row in OWN_IMAGES]
        assert all(config.model.image_size == size for config in rows)
        steps = [config.train.total_steps for config in rows]
        seen = [
            config.train.total_steps * config.train.batch_size / row.number
            for config, row in zip(rows, OWN_IMAGES, strict=True)
        ]
        guard = [config.model.dropout for config in rows]
        assert steps == sorted(steps)
        assert seen == sorted(seen, reverse=True)
        assert guard == sorted(guard, reverse=True)
        for config in rows:
            (rate,) = map(float, config.train.ema_rates)
            assert (
                0.5 ** (1 / (0.03 * config.train.total_steps)) < rate < 0.5 ** (1 / (0.08 * config.train.total_steps))
            )


def test_the_train_page_proposes_what_fits_and_a_click_takes_it(
    tmp_path: Path, own_cache: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDPM_RUNS", str(runs_dir))
    folder = tmp_path / "mine"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(np.full((70, 80, 3), 40 * k, np.uint8)).save(folder / f"{k}.png")
    at = open_page(TRAIN)
    assert "train-own-images" not in [b.key for b in at.button], "none for data by name"
    at.segmented_control(key="train.source").set_value("path").run()
    at.text_input(key="train.path").set_value(str(folder)).run()
    assert "For 3 images at 64 pixels" in said(at)
    at.button(key="train-own-images").click().run()
    assert not at.exception
    assert at.number_input(key="train.patch_size").value == 2
    assert at.session_state["train.data_dir"] == str(folder)
    assert at.text_input(key="train.name").value == "mine", "as the data, not as the preset"
    assert at.button(key="train-own-images").disabled
    assert at.button(key="choose_own-200-64").disabled
    assert not button(at, "Start").disabled


def test_the_shell_proposes_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(2):
        Image.fromarray(np.full((40, 40, 3), 40 * k, np.uint8)).save(tmp_path / f"{k}.png")
    assert main.main(["data", "check", str(tmp_path), "--json", "True"]) == 0
    assert json.loads(capsys.readouterr().out)["preset"] == "own-200-32"
