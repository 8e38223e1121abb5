"""The Inception network of FID: its structure, its file, and what it is given.

The weights cannot be shipped, so that what they compute is not tested here: names, shapes, counts and arithmetic are.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm.errors import UserError
from ddpm.quality import inception
from ddpm.quality.inception import InceptionNet, InceptionV3
from ddpm.storage import files


@pytest.fixture(scope="module")
def net() -> InceptionV3:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return InceptionV3().eval()


@pytest.fixture(scope="module")
def file_and_start(net: InceptionV3, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file of random weights as the known one is laid out: with the classifier, without counts of batches."""
    state = {name: t for name, t in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path_factory.mktemp("inception") / inception.FILE
    return path, files.write(path, lambda file: torch.save(state, file)).sha256[:8]


@pytest.fixture
def own_file(file_and_start: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """That file, taken for the known one."""
    path, start = file_and_start
    monkeypatch.setattr(inception, "SHA256_START", start)
    return path


def test_the_network_is_inception_v3(net: InceptionV3) -> None:
    state = net.state_dict()
    assert sum(p.numel() for p in net.parameters()) == 21_785_568, "without the 2,065,392 of the classifier"
    convolutions = [name for name in state if name.endswith(".conv.weight")]
    assert len(convolutions) == 94
    parts = "weight|bias|running_mean|running_var|num_batches_tracked"
    assert all(re.fullmatch(rf"(Conv2d|Mixed)_\w+(\.branch\w+)?\.(conv\.weight|bn\.({parts}))", name) for name in state)
    shapes = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
        "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6b.branch7x7_3.conv.weight": (192, 128, 7, 1),
        "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
        "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert net.Mixed_7c.branch_pool.bn.eps == 0.001


def test_sizes_on_the_way(net: InceptionV3) -> None:
    seen: dict[str, tuple[int, ...]] = {}
    handles = [
        block.register_forward_hook(lambda _, __, out, name=name: seen.update({name: tuple(out.shape[1:])}))
        for name, block in net.named_children()
    ]
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 299, 299)).shape == (1, inception.WIDTH)
    for handle in handles:
        handle.remove()
    assert seen["Conv2d_1a_3x3"] == (32, 149, 149)
    assert seen["Conv2d_4a_3x3"] == (192, 71, 71)
    assert [seen[f"Mixed_{name}"] for name in ("5b", "5d", "6a", "6e", "7a", "7b", "7c")] == [
        (256, 35, 35),
        (288, 35, 35),
        (768, 17, 17),
        (768, 17, 17),
        (1280, 8, 8),
        (2048, 8, 8),
        (2048, 8, 8),
    ]


def test_pooling_leaves_the_padding_out(net: InceptionV3) -> None:
    """Of ones, every mean is one at the border too; the last block takes the largest."""
    ones = torch.ones(1, 1, 8, 8)
    assert (net.Mixed_7b._pool(ones) == 1).all()
    corner = torch.zeros(1, 1, 8, 8)
    corner[0, 0, 0, 0] = 12
    assert net.Mixed_7b._pool(corner)[0, 0, 0, 0] == 3
    assert net.Mixed_7c._pool(corner)[0, 0, 1, 1] == 12


def test_both_resizings() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    clean, legacy = (inception.resized(pixels, name) for name in ("clean", "legacy"))
    assert clean.shape == legacy.shape == (2, 3, 299, 299)
    red = Image.fromarray(pixels[1, :, :, 0].astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    expected = (np.asarray(red).clip(0, 255) - 128) / 128
    assert clean[1, 0].numpy() == pytest.approx(expected, abs=1e-6)
    assert legacy.min() >= -1
    assert legacy[0, :, 0, 0].tolist() == pytest.approx((pixels[0, 0, 0] / 127.5 - 1).tolist(), abs=1e-6)
    white = np.full((1, 40, 40, 3), 255, np.uint8)
    assert inception.resized(white, "legacy").numpy() == pytest.approx(1)
    assert inception.resized(white, "clean").numpy() == pytest.approx(127 / 128)
    for channels in (1, 4):
        assert inception.resized(pixels[..., :1].repeat(channels, axis=3), "clean").shape == (2, 3, 299, 299)


def test_the_file_is_read(net: InceptionV3, own_file: Path) -> None:
    loaded = InceptionNet(own_file)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    found = loaded.features(pixels, "legacy")
    assert (found.shape, found.dtype) == ((1, 2048), np.float32)
    with torch.no_grad():
        assert found == pytest.approx(net(inception.resized(pixels, "legacy")).numpy(), rel=1e-4, abs=1e-6)
    assert loaded.sha256.startswith(inception.SHA256_START)


def test_another_file_is_refused(own_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(inception, "SHA256_START", "6726825d")
        with pytest.raises(UserError) as refused:
            InceptionNet(own_file)
    assert refused.value.code == "wrong-checksum"
    with pytest.raises(UserError) as refused:
        InceptionNet(tmp_path / "nowhere.pth")
    assert refused.value.code == "not-found"
    other = tmp_path / "other.pth"
    written = files.write(other, lambda file: torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, file))
    monkeypatch.setattr(inception, "SHA256_START", written.sha256[:8])
    with pytest.raises(UserError) as refused:
        InceptionNet(other)
    assert refused.value.code == "wrong-file"
