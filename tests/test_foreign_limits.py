"""Files that declare more than they hold are refused before memory is spent, with what was found and what to do.

Memory is measured in a process of its own.
"""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults.fuzz import Child
from faults.readers import PIXELS, SMALL, cifar10_parts
from PIL import Image
from raising import raises_error

from ddpm.checkpoints import checkpoint_files
from ddpm.config import codec
from ddpm.config.model import ModelConfig
from ddpm.data import cifar10
from ddpm.models import unet
from ddpm.runs import progress_log
from ddpm.storage import arrays, image_files, image_limits, images, pickles, zip_files

MARGIN = 100  # MB by which a process may grow while it refuses a file


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    """A process that reads files."""
    child = Child()
    yield child
    child.close()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *beside: bytes, rows: int = 0) -> bytes:
    """A grey PNG; only `rows` of its rows are there, all black."""
    pixels = zlib.compress(bytes((width + 1) * rows), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        image_limits.PNG_MARK + chunk(b"IHDR", header) + b"".join(beside) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def saved(content: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def rezipped(content: bytes, method: int) -> bytes:
    """The same entries, compressed in another way."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", method) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return file.getvalue()


def expanded() -> bytes:
    """A tensor of 400 MB, of a single stored number."""
    return saved({"a.weight": torch.ones(1).expand(10**8)})


def shared() -> bytes:
    """A thousand tensors of a megabyte that share their numbers."""
    one = torch.ones(2**19, dtype=torch.float16)
    return saved({f"a{k}.weight": one.view(-1) for k in range(1000)})


def with_settings(**changes: Any) -> bytes:
    """A network whose file says that it has other settings."""
    config = codec.replace(SMALL, changes)
    return saved(checkpoint_files.described(unet.build(SMALL.model).state_dict(), config, 3, "model"))


def npz(content: bytes, name: str = "arr_0", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, archive.open(f"{name}.npy", "w") as entry:
        entry.write(content)
    return file.getvalue()


def npy(shape: str, dtype: str = "|u1", values: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + values


def many_entries(count: int) -> bytes:
    """A zip file that lists its only entry very often."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"x")
    whole = file.getvalue()
    at = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    record = whole[at:end]
    return whole[:at] + record * count + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(record) * count, at, 0)


def hostile_tar(member: tarfile.TarInfo, content: bytes = b"") -> bytes:
    return gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + content + bytes(10240))


def device() -> tarfile.TarInfo:
    found = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    found.type = tarfile.CHRTYPE
    return found


def archive(**changes: Any) -> bytes:
    """An archive with other members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, value in {**cifar10_parts(), **changes}.items():
            content = value if isinstance(value, bytes) else pickle.dumps(value, 2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def called(function: str, arguments: bytes) -> bytes:
    """A batch whose data is the result of a call."""
    return b"\x80\x02}U\x04datac" + function.encode() + b"\n" + arguments + b"Rs."


HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {  # reader, file, code of the error
    "a PNG of 300 million pixels": ("png", lambda: png(20_000, 15_000, rows=1500), "image-too-large"),
    "a PNG of 10^18 pixels": ("png", lambda: png(2**30, 2**30), "image-too-large"),
    "a PNG of 64 million pixels in 63 kB": ("png", lambda: png(8000, 8000, rows=8000), "image-too-large"),
    "a PNG that holds two rows": ("png", lambda: png(8000, 8000, rows=2), "image-too-large"),
    "a GIF of 65535 x 65535": (
        "gif",
        lambda: b"GIF89a" + b"\xff" * 4 + bytes(3) + b"," + bytes(4) + b"\xff" * 4 + bytes(9),
        "image-too-large",
    ),
    "a WebP of 16384 x 16384": (
        "webp",
        lambda: b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0\xff\x3f\0" + bytes(8),
        "image-too-large",
    ),
    "an .npz of another length": ("npz", lambda: npz(npy("(1000000, 64, 64, 3)")), "damaged-archive"),
    "an .npz of zeros": (
        "npz",
        lambda: npz(npy("(6000, 64, 64, 3)", values=bytes(6000 * 64 * 64 * 3))),
        "unsafe-archive",
    ),
    "an .npz with lzma": (
        "npz",
        lambda: npz(npy("(1, 8, 8, 3)", values=bytes(192)), method=zipfile.ZIP_LZMA),
        "damaged-archive",
    ),
    "an .npz of many entries": ("npz", lambda: many_entries(300_000), "unsafe-archive"),
    "an .npy of a terabyte": ("npy", lambda: npy("(1000000, 1000000)"), "damaged-archive"),
    "an .npy of huge strings": ("npy", lambda: npy("(1000,)", "<U100000000"), "damaged-archive"),
    "an .npy with a long header": ("npy", lambda: b"\x93NUMPY\x02\0\xff\xff\xff\x7f" + bytes(100), "damaged-archive"),
    "an .npy of nested brackets": ("npy", lambda: npy("(" * 5000), "damaged-archive"),
    "compressed weights": (
        "weights",
        lambda: rezipped(saved({"a.weight": torch.zeros(3 * 10**6)}), zipfile.ZIP_DEFLATED),
        "too-large",
    ),
    "an expanded tensor": ("weights", expanded, "damaged-checkpoint"),
    "many tensors of one storage": ("weights", shared, "damaged-checkpoint"),
    "num_channels 65536": ("weights", lambda: with_settings(num_channels=65536), "out-of-range"),
    "an enormous network": ("weights", lambda: with_settings(num_channels=1024, channel_mult="64,64"), "too-large"),
    "no member of a pickle": ("cifar10", lambda: archive(test_batch=b"]" * 2**22 + b"."), "damaged-archive"),
    "a device in a tar": ("cifar10", lambda: hostile_tar(device()), "unsafe-archive"),
    "a path for a class": (
        "cifar10",
        lambda: archive(**{"batches.meta": {b"label_names": [b"../../x", b"dog"]}}),
        "unsafe-archive",
    ),
    "ndarray of a stranger's making": (
        "cifar10",
        lambda: archive(test_batch=called("numpy\nndarray", b"(M\xff\xffK\x01\x86U\x01Ot")),
        "damaged-archive",
    ),
    "a call of eval": (
        "cifar10",
        lambda: archive(test_batch=called("builtins\neval", b"U\x011\x85")),
        "damaged-archive",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_within_little_memory(kind: str, child: Child) -> None:
    reader, make, code = HOSTILE[kind]
    outcome = child.read(reader, make())
    assert outcome.result == code, outcome
    assert outcome.megabytes <= MARGIN, outcome


def test_texts_beside_the_pixels_are_not_unpacked(child: Child) -> None:
    note = chunk(b"zTXt", b"n\0\0" + zlib.compress(bytes(2**20 - 1), 9))
    profile = chunk(b"iCCP", b"n\0\0" + zlib.compress(bytes(2**20 - 1), 9))
    for beside in ([note] * 5000, [profile] * 5000, [chunk(b"tEXt", b"n\0" + bytes(2**20))] * 8):
        outcome = child.read("png", png(8, 8, *beside, rows=8))
        assert outcome.result == "read", outcome
        assert outcome.megabytes <= MARGIN, outcome
        assert outcome.seconds <= 1, outcome


def test_a_jpeg_of_thousands_of_scans() -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    at = content.rindex(b"\xff\xda")
    assert image_files.decode(content, "a.jpg").size == (16, 12)
    with raises_error("image-too-large"):
        image_files.decode(content[:at] + content[at:-2] * 1000 + content[-2:], "a.jpg")


def test_the_limit_of_pixels_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    content = png(100, 100, rows=100)
    monkeypatch.setenv("DDPM_MAX_PIXELS", "9999")
    with raises_error("image-too-large", "DDPM_MAX_PIXELS"):
        image_files.decode(content, "a.png")
    monkeypatch.setenv("DDPM_MAX_PIXELS", "10000")
    assert image_files.decode(content, "a.png").size == (100, 100)
    for wrong in ("many", "0", "-1", "9" * 5000, "\u0663"):
        monkeypatch.setenv("DDPM_MAX_PIXELS", wrong)
        with raises_error("bad-value", "DDPM_MAX_PIXELS"):
            image_files.decode(content, "a.png")


def test_a_file_of_an_image_has_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDPM_MAX_PIXELS", "1000")
    (tmp_path / "a.png").write_bytes(png(8, 8, rows=8) + bytes(2**21))
    with raises_error("image-too-large"):
        image_files.load(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "I;16", "CMYK", "1"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_large_images_are_converted_in_bands_to_the_same(
    mode: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    image = Image.fromarray(values)
    image = Image.fromarray(values[..., 0].astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
    if mode in ("P", "I;16"):
        image.info["transparency"] = 3 if mode == "P" else 512
    whole = np.asarray(images.convert(image, channels))
    transparent = images.is_transparent(image)
    monkeypatch.setattr(images, "BAND", 100)
    assert np.array_equal(np.asarray(images.convert(image, channels)), whole)
    assert images.is_transparent(image) == transparent


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("size", [(97, 200), (96, 99), (97, 101), (200, 97), (40, 203), (3000, 17)])
def test_large_images_are_scaled_in_bands_to_the_same(
    size: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(values).convert(mode)
    wanted = [images.prepare(image, 8, channels) for channels in (1, 3, 4)]
    monkeypatch.setattr(images, "BAND", 1000)
    monkeypatch.setattr(images, "WHOLE", 1000)
    found = [images.prepare(image, 8, channels) for channels in (1, 3, 4)]
    assert np.array_equal(
        np.concatenate([one.ravel() for one in found]), np.concatenate([one.ravel() for one in wanted])
    )


@pytest.mark.parametrize(
    ("options", "each"),
    [
        (dict(format="PNG"), 4),
        (dict(format="JPEG"), 4),
        (dict(format="JPEG", progressive=True), 4 + 3),  # half of the colours are kept at half the size
        (dict(format="JPEG", progressive=True, subsampling=0), 4 + 6),
        (dict(format="WEBP", lossless=True), 4 + 15),
        (dict(format="JPEG2000"), 4 + 15),
    ],
)
def test_memory_is_judged_by_format(options: dict[str, Any], each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, **options)
    most = int((each + image_limits.SCALED) * 64 * 64)
    monkeypatch.setattr(image_limits, "SMALL", 0)
    monkeypatch.setattr(image_limits, "MEMORY", most)
    assert image_files.decode(file.getvalue(), "a").size == (64, 64)
    monkeypatch.setattr(image_limits, "MEMORY", most - 1)
    with raises_error("image-too-large", "DDPM_MAX_PIXELS"):
        image_files.decode(file.getvalue(), "a")
    if options["format"] == "JPEG":
        image = image_files.decode(file.getvalue(), "a", least=8)
        assert (image.size, image_files.full_size(image)) == ((16, 16), (64, 64))
    monkeypatch.setenv("DDPM_MAX_PIXELS", "5000")
    assert image_files.decode(file.getvalue(), "a").size == (64, 64)


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (6, True)])
def test_an_image_that_is_upright_is_not_turned(orientation: int, turned: bool) -> None:
    """As exports of cameras are, which say so."""
    text = f'<x:xmpmeta tiff:Orientation="{orientation}"/>'.encode()
    xmp = png(8, 8, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text), rows=8)
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", exif=exif)
    for content in (xmp, file.getvalue()):
        with Image.open(io.BytesIO(content)) as image:
            assert image_limits._may_be_turned(image, io.BytesIO(content)) == turned


def test_what_is_decoded_in_python_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_limits, "MOST_IN_PYTHON", 63 * 64)
    for content in (b"P3\n64 64\n255\n" + b"1 2 3 " * 4096, b"P6\n64 64\n1023\n" + bytes(6 * 4096)):
        with raises_error("image-too-large", "DDPM_MAX_PIXELS"):
            image_files.decode(content, "a.ppm")
    assert image_files.decode(b"P6\n64 64\n255\n" + bytes(3 * 4096), "a.ppm").size == (64, 64)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read_as_pickle_reads_them(protocol: int) -> None:
    value = {"a": [1, -2, 3.5, None, True], "b": (b"\0\xff", "\u1234", 2**70, ()), b"c": {1: [], 2: {}}}
    file = io.BytesIO(pickle.dumps(value, protocol) + b"rest")
    assert pickles.read(file, 1000) == value
    assert file.read() == b"rest"


def test_bytes_do_not_multiply() -> None:
    """Protocols before 3 write bytes as calls, which a pickle can repeat with the same text."""
    again = b"c_codecs\nencode\nq\x01X\x00\x10\x00\x00" + b"x" * 4096 + b"q\x02U\x06latin1q\x03\x87R"
    with pytest.raises(pickles.Unreadable):
        pickles.read(io.BytesIO(b"\x80\x02](" + again + b"e."), 1000)
    repeated = b"c_codecs\nencode\nX\x00\x10\x00\x00" + b"x" * 4096 + b"q\x02X\x06\0\0\0latin1q\x03\x86R"
    more = b"c_codecs\nencode\nh\x02h\x03\x86R" * 100
    with pytest.raises(pickles.Unreadable):
        pickles.read(io.BytesIO(b"\x80\x02](" + repeated + more + b"e."), 10_000)


def test_zip_entries_that_overlap_or_are_listed_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(many_entries(2))
    with raises_error("damaged-archive"):
        arrays.read_npz(path)


def test_compressed_arrays_are_limited_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MOST_UNPACKED", 100_000)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **{f"a{k}": np.zeros(10_000) for k in range(20)}, arr_0=np.arange(3))
    with raises_error("too-large", "a.npz"):
        arrays.read_npz(path)
    assert {name: len(found) for name, found in arrays.read_npz(path, "arr_0", "none").items()} == {"arr_0": 3}


def test_a_line_of_many_numbers_that_is_no_row_is_seen_at_once() -> None:
    """By a pattern that tries each way to read a number, it would take longer than the universe is old."""
    for line in (b",".join([b"111"] * 200) + b",x", b"1" * 60_000 + b"x", b"1.5e3," * 5_000 + b"?"):
        assert not progress_log.is_row(line, line.count(b",") + 1)
    for line in (b"1,2.5,.5,5.,-1e-3,nan,-inf,,7", b"1\r"):
        assert progress_log.is_row(line, line.count(b",") + 1)


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    import os

    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes in folders")
    os.mkfifo(tmp_path / "a")
    with raises_error("not-a-file"), zip_files.opened(tmp_path / "a", "a", "use another"):
        pass
    with raises_error("not-a-file"):
        checkpoint_files.load_weights(tmp_path / "a")


def test_arrays_of_all_kinds_come_back(tmp_path: Path) -> None:
    for number, array in enumerate(
        (
            PIXELS,
            np.asfortranarray(PIXELS[0]),
            np.arange(6.0).reshape(2, 3).T,
            np.array("x"),
            np.zeros((0, 3)),
            np.array([b"ab"]),
        )
    ):
        path = tmp_path / f"{number}.npy"
        np.save(path, array)
        found = arrays.read_npy(path)
        assert np.array_equal(found, array)
        assert found.dtype == array.dtype


def test_the_name_of_a_class_is_no_path(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "a.tar.gz"
    for name in (b"../x", b"a/b", b"a\\b", b".", b"..", b"", b"x" * 65, b"a\0", b"a\n", b"C:", [b"x"]):
        path.write_bytes(archive(**{"batches.meta": {b"label_names": [name, b"dog"]}}))
        with raises_error("unsafe-archive"):
            cifar10.import_archive(path)
    path.write_bytes(archive(**{"batches.meta": {b"label_names": ["Stra\u00dfe 1".encode(), "dog"]}}))
    cifar10.import_archive(path)


def test_a_network_that_does_not_fit_into_memory_is_not_built() -> None:
    with raises_error("too-large"):
        unet.build(ModelConfig(image_size=64, num_channels=1024, num_res_blocks=8, channel_mult="64,64,64"))


@pytest.mark.parametrize("old", [False, True])
def test_views_parameters_and_metadata_are_read(tmp_path: Path, old: bool) -> None:
    base = torch.arange(12.0)
    content = {
        "view": base[3:9].view(2, 3).T,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "size": torch.Size([1, 2]),
        "set": {1, 2},
        "device": torch.device("cpu"),
        "numbers": [1, 2.5, None, (True, "x")],
        **(
            {} if old else {"wide": torch.tensor([0, 1, 2], dtype=torch.uint16)}
        ),  # which torch cannot read from old files
    }
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    found = checkpoint_files.read(path)
    assert torch.equal(found["view"], content["view"])
    assert old or torch.equal(found["wide"], content["wide"])
    assert found["numbers"] == content["numbers"]
    assert found["set"] == {1, 2}
