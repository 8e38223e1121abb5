"""Settings as people type them: text that stands for a path, and words that stand for a number."""

import os
import re
from pathlib import Path

import pytest

from ddpm.cli import main, shared
from ddpm.config import codec, fields
from ddpm.config.benchmarks import ScaleConfig, SpeedConfig
from ddpm.config.training import DataConfig, TrainConfig
from ddpm.runs.results import KINDS


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("/home/me/my cats", "/home/me/my cats"),
        ("shapes", "shapes"),
        (" /home/me/cats \n", "/home/me/cats"),
        ('"/home/me/my cats"', "/home/me/my cats"),
        ("'~/cats'", "~/cats"),
        (" '/home/me/cats' ", "/home/me/cats"),
        ("\u201c/home/me/cats\u201d", "/home/me/cats"),
        ('"C:\\Users\\me\\cats"', "C:\\Users\\me\\cats"),
        ("\u202aC:\\cats", "C:\\cats"),
        ("\ufeff/cats", "/cats"),
        ("it's", "it's"),
        ("'", "'"),
        ('""', ""),
        (" ", ""),
        ("", ""),
        ("a\x00b", "a\x00b"),
    ],
)
def test_what_is_meant(typed: str, meant: str) -> None:
    assert fields.path_text(typed) == meant


def test_addresses_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "my cats äöü"
    assert Path(fields.path_text(folder.as_uri())) == folder
    assert Path(fields.path_text(f'"{folder.as_uri()}"\n')) == folder


def test_a_name_that_is_there_is_meant_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("'quoted'").mkdir()
    assert fields.path_text("'quoted'") == "'quoted'"
    assert fields.path_text("'other'") == "other"


def test_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert fields.absolute(" 'cats' ") == str(tmp_path / "cats")
    assert Path(fields.absolute('"~/cats"')) == Path("/home/me/cats").absolute()
    assert fields.absolute(" ") == ""
    assert shared.path("'~/cats'") == Path("/home/me/cats")


def test_flags_and_fields_mean_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "--data_dir", " '~/my cats'\n", "--resume_checkpoint", '"m.pt"', "--runs_dir", "'my runs'"]
    given = main._parser().parse_args(words)
    found = shared.given(given, DataConfig, TrainConfig)
    home = os.path.expanduser("~")
    assert found == {"data_dir": os.path.join(home, "my cats"), "resume_checkpoint": str(tmp_path / "m.pt")}
    assert given.runs_dir == Path("my runs")
    named = main._parser().parse_args(["train", "--data_dir", "shapes"])
    assert shared.given(named, DataConfig) == {"data_dir": "shapes"}


def test_numbers_that_stand_for_something_else_have_a_word() -> None:
    """A form shows the word in an empty field, so the help need not say the number."""
    sections = (*codec.SECTIONS.values(), *(kind.settings for kind in KINDS.values()), SpeedConfig, ScaleConfig)
    said = {
        s.name
        for section in sections
        for s in fields.settings(section)
        if s.type in (int, float)
        and re.search(r"(?<![\w.,])(-1|0)(:| is (the|one|as|no)\b| (uses|evaluates)\b)", s.help)
    }
    # Forms refuse 0 training steps, have a switch for super-resolution, and a slider whose end is "all" timesteps.
    assert said == {"total_steps", "small_size", "steps"}
