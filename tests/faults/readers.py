"""What reads files of strangers: valid files to mutate, and what is called on them.

Each reader gives a right result or raises a UserError, whatever the file holds.
"""

import contextlib
import gzip
import io
import json
import pickle
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ddpm.config import codec
from ddpm.config.model import ModelConfig
from ddpm.config.tasks import LsunConfig
from ddpm.config.training import Config
from ddpm.data import cifar10, lsun
from ddpm.data.sources import open_source
from ddpm.errors import UserError
from ddpm.planning import metadata
from ddpm.runs import metrics
from ddpm.runs.runs import Run
from ddpm.storage import arrays, files, image_files, images

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 12, 16, 3), np.uint8)
SMALL = codec.replace(
    Config(model=ModelConfig(image_size=8, num_channels=32, num_res_blocks=1, channel_mult="1", num_heads=1)),
    {"attention_resolutions": ""},
)


class Reader(NamedTuple):
    """A reader, and valid files for it."""

    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]  # raises UserError for what is wrong with the file
    name: str  # of the file
    inside: str = ""  # "zip", "tar", "gzip" or "png": checksums are mended after a mutation, so that more is reached


def image(form: str, *options: dict[str, Any]) -> Callable[[], list[bytes]]:
    """Files of one format, with each of the options."""

    def make() -> list[bytes]:
        found = []
        for one in options or ({},):
            buffer = io.BytesIO()
            mode = one.pop("mode", "RGB")
            Image.fromarray(PIXELS[0]).convert(mode).save(buffer, form, **one)
            found.append(buffer.getvalue())
        return found

    return make


def read_image(path: Path) -> None:
    """All that is done with images of strangers."""
    image_files.size(path)
    images.settings_in(path)
    whole = image_files.load(path)
    assert images.prepare(whole, 16, 3).shape == (16, 16, 3)
    assert images.prepare(whole, 16, 4).shape == (16, 16, 4)
    assert images.is_transparent(whole) in (True, False)


def npz_files() -> list[bytes]:
    """With labels, names, a test split; stored and compressed; C and Fortran order."""
    found = []
    contents: list[dict[str, Any]] = [
        dict(arr_0=PIXELS, arr_1=np.arange(4)),
        dict(train=PIXELS, train_labels=np.array([0, 1, 0, 1]), test=PIXELS[:2], test_labels=np.array([1, 0])),
        dict(images=np.asfortranarray(PIXELS), labels=np.array(["a", "b", "a", "b"])),
        dict(images=PIXELS[..., 0], labels=np.array([0, 1, 0, 1]), class_names=np.array([b"cat", b"dog"])),
    ]
    for content in contents:
        for save in (np.savez, np.savez_compressed):
            buffer = io.BytesIO()
            save(buffer, **content)
            found.append(buffer.getvalue())
    return found


def read_npz(path: Path) -> None:
    """Opens a data set and decodes its first images."""
    source = open_source(str(path))
    for part in (source, source.test_part()):
        if part is None:
            continue
        assert part.labels is None or len(part.labels) == part.count
        for item in islice(part.items(8, 3), 20):
            with item.open() as opened:
                images.prepare(opened.image, 8, 3)
    arrays.read_npz(path)


def npy_files() -> list[bytes]:
    """Numbers and strings."""
    found = []
    for array in (PIXELS, np.arange(3.0), np.array("x"), np.asfortranarray(PIXELS[0, :, :, 0]), np.zeros((0, 3))):
        buffer = io.BytesIO()
        np.save(buffer, array)
        found.append(buffer.getvalue())
    return found


def cifar10_parts() -> dict[str, Any]:
    """What the seven members hold, of two images each."""
    planes = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    batches = {
        name: {b"labels": [1, 0], b"data": planes, b"filenames": [b"x.png"]} for name in (*cifar10.TRAIN, "test_batch")
    }
    return {**batches, "batches.meta": {b"label_names": [b"cat", b"dog"], b"num_vis": 3072}}


def cifar10_archives() -> list[bytes]:
    """Of each protocol, compressed and not."""
    found = []
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, value in cifar10_parts().items():
                content = pickle.dumps(value, protocol)
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        found.append(buffer.getvalue())
    return [*found, gzip.compress(found[2], mtime=0)]


def read_cifar10(path: Path) -> None:
    """Imports an archive into the cache, and writes its folders."""
    cifar10.import_archive(path)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        cifar10.write_folders(Path(folder))


def tar_shards() -> list[bytes]:
    """Samples with labels of both kinds, with long names and extended headers, in each format."""
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for k, (label, content) in enumerate((("cls", b"7"), ("json", b'{"label": "cat"}'), ("txt", b"words"))):
                key = f"{'folder/' * 20}{k:06d}" if k == 1 else f"{k:06d}"
                for end, value in ((label, content), ("png", image("PNG")()[0])):
                    member = tarfile.TarInfo(f"{key}.{end}")
                    member.size, member.mtime = len(value), 0.5  # type: ignore[assignment]
                    tar.addfile(member, io.BytesIO(value))
        found.append(buffer.getvalue())
    return found


def read_shards(path: Path) -> None:
    """Makes the index, and decodes what it finds."""
    for item in islice(open_source(str(path)).items(8, 3), 20):
        with contextlib.suppress(UserError), item.open() as opened:
            images.prepare(opened.image, 8, 3)


def cifar10_pickles() -> list[bytes]:
    """Single members of an archive."""
    parts = cifar10_parts()
    values = [parts["test_batch"], parts["batches.meta"]]
    return [pickle.dumps(value, protocol) for value in values for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]


def read_cifar10_pickle(path: Path) -> None:
    """Reads a member as a batch and as the names of the classes."""
    part = cifar10._read_part(path, "test_batch", path.read_bytes())
    for read in (lambda: cifar10._batch(path, "test_batch", part, 10), lambda: cifar10._class_names(path, part)):
        with contextlib.suppress(UserError):
            read()


def lsun_databases() -> list[bytes]:
    """Images in a leaf; one in pages of its own; leaves below a branch."""
    import lmdb

    [small, large] = (image("WEBP", {"lossless": True})()[0], image("BMP")()[0] + bytes(4096))
    found = []
    for values in ([small], [small, large], [small[:200]] * 40):
        with tempfile.TemporaryDirectory() as folder:
            with lmdb.open(folder, map_size=2**20) as database, database.begin(write=True) as transaction:
                for number, value in enumerate(values):
                    transaction.put(b"%03d" % number, value)
            found.append((Path(folder) / "data.mdb").read_bytes())
    return found


def read_lsun(path: Path) -> None:
    """Writes the images of a database to a folder."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        lsun.write(path, Path(folder), LsunConfig(image_size=8))


def weights(**how: Any) -> Callable[[], list[bytes]]:
    """A network with its settings, one of another program, an optimizer."""

    def make() -> list[bytes]:
        import torch

        from ddpm.checkpoints import checkpoint_files
        from ddpm.models import unet

        torch.manual_seed(0)
        network = unet.build(SMALL.model)
        optimizer = torch.optim.AdamW(network.parameters())
        network.out[2].bias.grad = torch.ones_like(network.out[2].bias)
        optimizer.step()
        tiny = {name: t[:1].clone() for name, t in network.state_dict().items() if name.startswith("out")}
        contents = [
            checkpoint_files.described(network.state_dict(), SMALL, 3, "model"),
            tiny,
            {"half": torch.ones(3).half(), "whole": torch.arange(4), "view": torch.ones(6)[2:4]},
            optimizer.state_dict(),
        ]
        found = []
        for content in contents:
            buffer = io.BytesIO()
            torch.save(content, buffer, **how)
            found.append(buffer.getvalue())
        return found

    return make


def read_weights(path: Path) -> None:
    """Reads weights, identifies them and builds their network."""
    from ddpm.checkpoints import checkpoint_files, loading

    loaded = checkpoint_files.load_checkpoint(path)
    config = loading.resolve_config(loaded.weights, {}, path, run_probe=False)
    loading.build_network(loaded.weights.tensors, config, path.name)


RECIPE = {
    "format": 1,
    "sample": {"num_samples": 4, "classes": "cat", "seed": 3, "guidance_scale": 2.0},
    "checkpoint": {"path": "/nowhere/model.pt", "step": 3, "weights": "model", "sha256": "0" * 64},
    "class_names": ["cat", "dog"],
    "command": "ddpm sample",
    "config": codec.to_json(SMALL),
}


def settings_texts() -> list[bytes]:
    """PNG files as samples are."""
    return [images.encode_png(PIXELS[0], RECIPE), images.encode_png(PIXELS[0])]


def read_settings_text(path: Path) -> None:
    """Reads the request inside an image, its checkpoint and its model."""
    recipe = metadata.in_image(path)
    for read in (
        lambda: metadata.sample_of(recipe, path.name),
        lambda: metadata.config_of(recipe),
        lambda: metadata.checkpoint_of(recipe, path.name, "choose another"),
    ):
        with contextlib.suppress(UserError):
            read()


def read_config(path: Path) -> None:
    """Reads settings of a run."""
    found = files.read_json(path)
    codec.from_json(found if found is not None else {})


def read_sample_settings(path: Path) -> None:
    """Reads the settings of a request."""
    found = files.read_json(path)
    metadata.sample_of({"sample": found}, path.name)


def read_status(path: Path) -> None:
    """Reads the state of a run."""
    run = Run(path.parent)
    run.state()
    run.status()


PROGRESS = (
    b"grad_norm,loss,loss_q0,mse,samples,step,lr,seconds\n"
    b"1.5,0.25,0.5,0.25,4,1,0.0001,0.5\n1.25,0.2,,0.25,8,2,0.0001,1.0\nnan,inf,,1e300,12,3,0.0001,1.5\n"
)


def read_progress(path: Path) -> None:
    """Reads a log."""
    metrics.MetricReader(path).read()


def as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


STATUS = dict(
    state="finished",
    step=4,
    total_steps=4,
    metrics={"loss": 0.5},
    steps_per_second=4.0,
    seconds_left=0.0,
    pid=2**22 + 1,
    process_start=1.0,
    updated_at=2.0,
    beat=4,
)
READERS = {
    "png": Reader(
        image("PNG", {}, {"mode": "P"}, {"mode": "LA"}, {"mode": "1"}, {"mode": "RGB", "transparency": (1, 2, 3)}),
        read_image,
        "a.png",
        "png",
    ),
    "jpeg": Reader(
        image("JPEG", {}, {"progressive": True}, {"mode": "CMYK"}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
        read_image,
        "a.jpg",
    ),
    "gif": Reader(image("GIF", {"mode": "P"}, {"mode": "P", "comment": b"x", "transparency": 3}), read_image, "a.gif"),
    "webp": Reader(image("WEBP", {}, {"lossless": True}, {"mode": "RGBA"}), read_image, "a.webp"),
    "tiff": Reader(
        image("TIFF", {}, {"compression": "tiff_deflate"}, {"compression": "tiff_lzw"}, {"mode": "I;16"}),
        read_image,
        "a.tif",
    ),
    "bmp": Reader(image("BMP", {}, {"mode": "P"}), read_image, "a.bmp"),
    "avif": Reader(image("AVIF"), read_image, "a.avif"),
    "jpeg2000": Reader(image("JPEG2000", {}, {"tile_size": (8, 8)}), read_image, "a.jp2"),
    "ico": Reader(image("ICO", {}, {"bitmap_format": "bmp"}), read_image, "a.ico"),
    "tga": Reader(image("TGA", {}, {"compression": "tga_rle"}), read_image, "a.tga"),
    "others": Reader(
        lambda: [content for form in ("PPM", "QOI", "PCX", "SGI", "DIB") for content in image(form)()],
        read_image,
        "a.ppm",
    ),
    "npz": Reader(npz_files, read_npz, "a.npz", "zip"),
    "npy": Reader(npy_files, arrays.read_npy, "a.npy"),
    "cifar10": Reader(cifar10_archives, read_cifar10, "cifar-10-python.tar.gz", "tar"),
    "shards": Reader(tar_shards, read_shards, "train-000000.tar", "tar"),
    "cifar10-pickle": Reader(cifar10_pickles, read_cifar10_pickle, "test_batch"),
    "lsun": Reader(lsun_databases, read_lsun, lsun.DATA),
    "weights": Reader(weights(), read_weights, "model000003.pt", "zip"),
    "weights-old": Reader(weights(_use_new_zipfile_serialization=False), read_weights, "model000003.pt"),
    "settings-text": Reader(settings_texts, read_settings_text, "a.png", "png"),
    "config": Reader(lambda: [as_json(codec.to_json(SMALL))], read_config, "config.json"),
    "sample-settings": Reader(lambda: [as_json(RECIPE["sample"])], read_sample_settings, "settings.json"),
    "status": Reader(lambda: [as_json(STATUS)], read_status, "status.json"),
    "progress": Reader(lambda: [PROGRESS], read_progress, "progress.csv"),
}


def mended(content: bytes, inside: str) -> bytes:
    """`content` with the checksums that a reader compares before it looks further."""
    try:
        match inside:
            case "png":
                return b"".join(_png_chunks(content))
            case "tar":
                return b"".join(_tar_blocks(content))
            case "zip":
                return _zip(content)
    except (
        ValueError,
        zipfile.BadZipFile,
        OSError,
        struct.error,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ):
        return content
    return content


def _png_chunks(content: bytes) -> Iterator[bytes]:
    yield content[:8]
    at = 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        yield content[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    yield content[at:]


def _tar_blocks(content: bytes) -> Iterator[bytes]:
    at = 0
    while at + 512 <= len(content):
        block = bytearray(content[at : at + 512])
        if any(block):
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
        yield bytes(block)
        try:
            size = tarfile.nti(bytes(block[124:136])) if any(block) else 0  # type: ignore[attr-defined]
        except tarfile.HeaderError:
            size = 0
        body = -(-max(size, 0) // 512) * 512
        yield content[at + 512 : at + 512 + body]
        at += 512 + body
    yield content[at:]


def _zip(content: bytes) -> bytes:
    """Writes the checksums of stored entries into their headers, local and central."""
    patched = bytearray(content)
    at = content.find(b"PK\x01\x02")
    while at >= 0 and content[at : at + 4] == b"PK\x01\x02":
        method, _crc, packed, _size, name, extra, note, offset = struct.unpack(
            "<10xH4xIIIHHH8xI", content[at : at + 46]
        )
        head = content[offset : offset + 30]
        start = offset + 30 + sum(struct.unpack("<HH", head[26:30]))
        body = content[start : start + packed]
        values = body if method == 0 else zlib.decompressobj(-15).decompress(body, 2**20)
        patched[at + 16 : at + 20] = zlib.crc32(values).to_bytes(4, "little")
        at += 46 + name + extra + note
    return bytes(patched)
