"""Manifests: read only where they are whole, of this step, and of a version that is known."""

import json
from pathlib import Path

import pytest

from ddpm.runs import manifests
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run

SUM = "0" * 64


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    files = {name: {"bytes": 5, "sha256": SUM} for name in ("model000006.pt", "ema_0.9_000006.pt", "state000006.pt")}
    checkpoint = Checkpoint(tmp_path, 6, files, 100, 1.25, log_sha256=SUM, config_sha256=SUM)
    manifests.commit(checkpoint)
    return checkpoint


def first(checkpoint: Checkpoint) -> dict[str, object]:
    """The manifest as version 1 had it."""
    return {name: getattr(checkpoint, name) for name in ("step", "files", "log_bytes", "seconds", "theirs")}


def test_what_is_written_is_read(saved: Checkpoint) -> None:
    assert Run(saved.folder).manifests() == ([saved], {}, frozenset())
    assert json.loads(saved.manifest_path.read_text())["format"] == 2


@pytest.mark.slow
def test_no_bit_of_a_manifest_may_be_another(saved: Checkpoint) -> None:
    content = saved.manifest_path.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        saved.manifest_path.write_bytes(changed)
        found, wrong, newer = Run(saved.folder).manifests()
        assert (found == [saved]) != (set(wrong) == {6}), "the same, as where a space became a tab, or nothing"
        assert not newer


@pytest.mark.parametrize("length", [0, 1, 100, -2])
def test_a_manifest_that_was_cut_short(saved: Checkpoint, length: int) -> None:
    saved.manifest_path.write_bytes(saved.manifest_path.read_bytes()[:length])
    assert set(Run(saved.folder).manifests().wrong) == {6}


def test_an_editor_may_lay_it_out_anew(saved: Checkpoint) -> None:
    content = json.loads(saved.manifest_path.read_text())
    saved.manifest_path.write_text(json.dumps(dict(reversed(content.items()))), encoding="utf-16")
    assert Run(saved.folder).manifests().found == [saved]


def test_version_1_is_read(saved: Checkpoint) -> None:
    saved.manifest_path.write_text(json.dumps(first(saved)))
    assert Run(saved.folder).manifests().found == [saved._replace(log_sha256="", config_sha256="")]


@pytest.mark.parametrize("whole", [True, False])
def test_a_newer_version_is_shown(saved: Checkpoint, whole: bool) -> None:
    newer = {**first(saved), "format": 3, "else": [1]}
    sha256 = manifests._own_sha256(newer) if whole else "unlike"
    saved.manifest_path.write_text(json.dumps({**newer, "sha256": sha256}))
    found, wrong, steps = Run(saved.folder).manifests()
    assert (found, set(wrong), steps) == ([], {6}, {6})


@pytest.mark.parametrize(
    "change",
    [
        {"step": 7},
        {"step": "6"},
        {"step": True},
        {"files": []},
        {"files": {"../../x": {"bytes": 1, "sha256": SUM}}},
        {"files": {"/dev/zero": {"bytes": 1, "sha256": SUM}}},
        {"files": {"model000004.pt": {"bytes": 1, "sha256": SUM}}},
        {"files": {"ema_/etc/x_000006.pt": {"bytes": 1, "sha256": SUM}}},
        {"files": {"model000006.pt": {"bytes": -1, "sha256": SUM}}},
        {"files": {"model000006.pt": {"bytes": 1.5, "sha256": SUM}}},
        {"files": {"model000006.pt": {"bytes": 1, "sha256": "x"}}},
        {"files": {"model000006.pt": 5}},
        {"log_bytes": -1},
        {"log_bytes": "1"},
        {"seconds": float("nan")},
        {"seconds": [1]},
        {"theirs": 1},
        {"folder": "/etc"},
        {"more": 1},
    ],
    ids=str,
)
def test_what_no_manifest_holds(saved: Checkpoint, change: dict[str, object]) -> None:
    saved.manifest_path.write_text(json.dumps({**first(saved), **change}))
    assert set(Run(saved.folder).manifests().wrong) == {6}


def test_other_files_in_saves_are_passed_over(saved: Checkpoint) -> None:
    for name in (".tmp-0a-000008.json", "notes.json", "8.json", "٠٠٠٠٠٨.json", "000008.begun"):
        (saved.folder / "saves" / name).write_text("{")
    assert Run(saved.folder).manifests() == ([saved], {}, frozenset())
