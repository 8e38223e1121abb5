"""Checkpoint files: whole or not there, readable by other programs, and clear about what is wrong with them."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises_error

from ddpm.checkpoints import checkpoint_files, fitting
from ddpm.config import codec
from ddpm.config.training import Config
from ddpm.data import datasets
from ddpm.models.unet import UNet
from ddpm.runs import manifests, runs
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.runs import Run
from ddpm.storage import files
from ddpm.training.trainer import Trainer


@pytest.fixture
def trainer(tiny: Config) -> Trainer:
    return Trainer(tiny, datasets.open_dataset(tiny.data, tiny.model))


@pytest.fixture
def run(runs_dir: Path, tiny: Config) -> Run:
    return runs.create_run(runs_dir, "tried", tiny)


def save(run: Run, trainer: Trainer, step: int) -> Checkpoint:
    trainer.step = step
    state = {"trainer": trainer.state(), "means": {}}
    return checkpoint_files.save(run, step, trainer.weights(), trainer.optimizer.state_dict(), state, 0, 1.5)


def test_names_and_contents_are_improved_diffusions(run: Run, trainer: Trainer) -> None:
    list(trainer.steps(1))
    saved = save(run, trainer, 500)
    names = {"model000500.pt", "ema_0.9_000500.pt", "ema_0.99_000500.pt", "opt000500.pt", "state000500.pt"}
    assert set(saved.files) == names
    model = torch.load(run.folder / "model000500.pt", weights_only=True)
    assert isinstance(model, OrderedDict)
    assert list(model) == list(trainer.model.state_dict())
    UNet(run.config.model).load_state_dict(model)
    optimizer = torch.load(run.folder / "opt000500.pt", weights_only=True)
    torch.optim.AdamW(UNet(run.config.model).parameters()).load_state_dict(optimizer)
    assert saved.weights == ["ema_0.9", "ema_0.99", "model"]


def test_a_file_describes_itself_wherever_it_is(run: Run, trainer: Trainer, tmp_path: Path) -> None:
    save(run, trainer, 3)
    elsewhere = tmp_path / "copy.pt"
    elsewhere.write_bytes((run.folder / "ema_0.99_000003.pt").read_bytes())
    weights = checkpoint_files.load_weights(elsewhere)
    assert (weights.config, weights.step, weights.kind) == (run.config, 3, "ema_0.99")


def test_a_set_is_never_rewritten(run: Run, trainer: Trainer) -> None:
    first = save(run, trainer, 3)
    list(trainer.steps(4))
    assert save(run, trainer, 3) == first
    assert not checkpoint_files.damage(first)


def test_another_programs_set_is_never_rewritten(run: Run, trainer: Trainer) -> None:
    theirs = save(run, trainer, 3)._replace(theirs=True)
    theirs.path("model").write_bytes(b"of another program")
    manifests.commit(theirs)
    assert save(run, trainer, 3) == theirs
    assert theirs.path("model").read_bytes() == b"of another program"


@pytest.mark.parametrize("position", [0, 100, 5000, -30])
def test_one_flipped_bit_is_noticed(run: Run, trainer: Trainer, position: int) -> None:
    save(run, trainer, 1)
    newest = save(run, trainer, 2)
    path = newest.path("model")
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)
    assert "checksum" in checkpoint_files.damage(newest)
    found, wrong = checkpoint_files.newest_intact(run)
    assert found is not None
    assert found.step == 1
    assert len(wrong) == 1


def test_a_full_disk_leaves_the_sets_before(run: Run, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, trainer, 1)
    before = sorted(p.name for p in run.folder.iterdir())
    original, room = files._Hashing.write, [20000]

    def write(self: files._Hashing, block: bytes) -> int:
        room[0] -= len(block)
        if room[0] < 0:
            self.error = OSError(28, "No space left on device")
            raise self.error
        return original(self, block)

    monkeypatch.setattr(files._Hashing, "write", write)
    with pytest.raises(files.DiskFull, match="free some space"):
        save(run, trainer, 2)
    assert sorted(p.name for p in run.folder.iterdir()) == before
    assert [c.step for c in run.checkpoints()] == [1]


def test_only_the_newest_are_kept(run: Run, trainer: Trainer) -> None:
    for step in (1, 2, 3, 4):
        save(run, trainer, step)
    checkpoint_files.prune(run, 0)
    assert len(run.checkpoints()) == 4
    checkpoint_files.prune(run, 2)
    assert [c.step for c in run.checkpoints()] == [3, 4]
    assert not list(run.folder.glob("*000001.pt"))


def test_what_another_training_is_about_to_begin_from_is_kept(run: Run, trainer: Trainer) -> None:
    for step in (1, 2, 3):
        save(run, trainer, step)
    needed = next(c for c in run.checkpoints() if c.step == 1).path("model").absolute()
    checkpoint_files.prune(run, 1, needed={needed})
    assert [c.step for c in run.checkpoints()] == [1, 3]


def test_sets_that_are_known_to_be_bad_do_not_count(run: Run, trainer: Trainer) -> None:
    """A run that went back from step 4 to step 2 saves at step 3: neither 2 nor 3 may go for the sake of 4."""
    for step in (1, 2, 4, 3):
        save(run, trainer, step)
    checkpoint_files.prune(run, 2, bad={4})
    assert [c.step for c in run.checkpoints()] == [2, 3, 4]


def spoil(trainer: Trainer, where: str) -> None:
    tensors = {
        "weight": list(trainer.model.parameters())[-1].detach(),
        "average": list(trainer.ema.weights("0.99").values())[-1],
        "moment": list(trainer.optimizer.state_dict()["state"].values())[-1]["exp_avg_sq"],
    }
    tensors[where].flatten()[-1] = float("inf") if where == "moment" else float("nan")


@pytest.mark.parametrize("where", ["weight", "average", "moment"])
def test_nothing_is_saved_that_is_not_finite(run: Run, trainer: Trainer, where: str) -> None:
    list(trainer.steps(1))
    first = save(run, trainer, 1)
    before = sorted(p.name for p in run.folder.iterdir())
    spoil(trainer, where)
    with raises_error("diverged", 2, 1):
        save(run, trainer, 2)
    assert run.checkpoints() == [first]
    assert sorted(p.name for p in run.folder.iterdir()) == before
    assert not checkpoint_files.fault(first)


def test_a_part_of_a_set_is_taken_back(run: Run, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk it would take the room that the next try needs."""
    save(run, trainer, 1)
    before = set(run.folder.rglob("*"))
    write = files.write

    def full(path: Path, *rest: Any) -> files.Written:
        if path.name.startswith("opt"):
            raise files.DiskFull(path)
        return write(path, *rest)

    monkeypatch.setattr(files, "write", full)
    with raises_error("disk-full"):
        save(run, trainer, 2)
    assert set(run.folder.rglob("*")) == before


def test_what_a_killed_process_left_is_swept(run: Run, trainer: Trainer) -> None:
    save(run, trainer, 1)
    before = set(run.folder.rglob("*"))
    written, removed, whole = save(run, trainer, 2), save(run, trainer, 3), save(run, trainer, 4)
    files.write_json(written.begun_path, list(written.files))
    written.manifest_path.unlink()
    removed.manifest_path.rename(removed.begun_path)
    files.write_json(whole.begun_path, list(whole.files))
    (run.folder / "saves" / "000005.begun").write_text('["../../x", "config.json", "model000001.pt"]')
    for step, content in enumerate(("5", "true", '{"files": 7}', '"files"', "null"), 6):
        (run.folder / "saves" / f"{step:06d}.begun").write_text(content)
    checkpoint_files.sweep_unfinished(run)
    assert set(run.folder.rglob("*")) - before == {whole.manifest_path, *(run.folder / n for n in whole.files)}
    assert [c.step for c in run.checkpoints() if not checkpoint_files.damage(c)] == [1, 4]


def test_what_is_no_checkpoint(run: Run, trainer: Trainer, tmp_path: Path) -> None:
    saved = save(run, trainer, 1)
    whole = saved.path("model").read_bytes()
    for name, content in {"cut.pt": whole[: len(whole) // 2], "empty.pt": b"", "text.pt": b"hello, world"}.items():
        (tmp_path / name).write_bytes(content)
        with raises_error("damaged-checkpoint", name):
            checkpoint_files.load_weights(tmp_path / name)
    with raises_error("not-a-checkpoint"):
        checkpoint_files.load_weights(saved.path("opt"))
    with raises_error("not-found"):
        checkpoint_files.load_weights(tmp_path / "missing.pt")
    with raises_error("not-a-file"):
        checkpoint_files.load_weights(tmp_path)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    with raises_error("damaged-checkpoint"):
        checkpoint_files.load_weights(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network(run: Run, trainer: Trainer) -> None:
    other = UNet(codec.replace(run.config, {"num_channels": 64}).model)
    with raises_error("wrong-weights", "time_embed.0.weight", "(128, 32)", "(256, 64)"):
        fitting.fit(other, trainer.model.state_dict(), "model000001.pt")


def test_the_manifest_is_readable(run: Run, trainer: Trainer) -> None:
    saved = save(run, trainer, 7)
    manifest = json.loads((run.folder / "saves" / "000007.json").read_text())
    assert manifest["step"] == 7
    for name, entry in manifest["files"].items():
        assert entry == {"bytes": (run.folder / name).stat().st_size, "sha256": files.sha256(run.folder / name)}
    assert saved.seconds == 1.5
