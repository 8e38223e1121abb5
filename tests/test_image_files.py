"""Image files of anyone: whole ones are read whatever is beside their pixels, large ones within bounded memory."""

import io
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raising import raises_error

from ddpm.storage import image_files, images


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunks(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with more in it, right behind its header."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()[:33] + b"".join(chunk(*one) for one in chunks) + file.getvalue()[33:]


GREEN = Image.new("RGB", (8, 8), (0, 128, 0))


@pytest.mark.parametrize(
    "beside",
    [
        (b"iCCP", b"icc\0\0" + zlib.compress(bytes(3_000_000))),
        (b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)),
        (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        (b"eXIf", b"rubbish"),
        (b"pHYs", b"?"),
        (b"acTL", b"?"),
    ],
    ids=lambda beside: beside[0].decode(),
)
def test_whole_pixels_are_read_whatever_is_beside_them(beside: tuple[bytes, bytes]) -> None:
    image = image_files.decode(with_chunks(GREEN, beside), "a.png")
    assert np.array_equal(images.prepare(image, 8, 3), images.prepare(GREEN, 8, 3))


def test_cut_pixels_are_not_read_though() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    whole = with_chunks(noise, (b"eXIf", b"rubbish"))
    for length in (len(whole) // 2, 60):
        with raises_error("broken-image"):
            image_files.decode(whole[:length], "a.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_photograph_with_a_damaged_note_on_how_it_was_held(tmp_path: Path) -> None:
    file = io.BytesIO()
    GREEN.save(file, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\xff" + b"?" * 20, quality=100)
    assert image_files.decode(file.getvalue(), "a.jpg").size == (8, 8)


def bare(depth: int, colour: int, rows: Sequence[bytes], clear: Sequence[int]) -> bytes:
    """A PNG 8 pixels wide, of so many bits, in which one grey or colour is transparent."""
    header = struct.pack(">IIBBBBB", 8, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = ((b"IHDR", header), (b"tRNS", struct.pack(f">{len(clear)}H", *clear)), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    "content",
    [
        bare(1, 0, [bytes([0b11110000])] * 8, [1]),
        bare(2, 0, [bytes([0xFF, 0])] * 8, [3]),
        bare(4, 0, [bytes([0xFF, 0xFF, 0, 0])] * 8, [15]),
        bare(8, 0, [bytes([200] * 4 + [0] * 4)] * 8, [200]),
        bare(16, 0, [struct.pack(">8H", *[30000] * 4, *[0] * 4)] * 8, [30000]),
        bare(8, 2, [bytes([3, 4, 5] * 4 + [0] * 12)] * 8, [3, 4, 5]),
        bare(16, 2, [struct.pack(">24H", *[30000, 40000, 50000] * 4, *[0] * 12)] * 8, [30000, 40000, 50000]),
    ],
    ids=["grey 1", "grey 2", "grey 4", "grey 8", "grey 16", "colour 8", "colour 16"],
)
def test_a_transparent_grey_or_colour_of_any_depth(content: bytes) -> None:
    """The left half is transparent, the right half black."""
    image = image_files.decode(content, "a.png")
    assert images.prepare(image, 8, 3)[0, [0, 7]].tolist() == [[255] * 3, [0] * 3]
    assert images.prepare(image, 8, 4)[0, [0, 7], 3].tolist() == [0, 255]
    assert images.prepare(image, 8, 1)[0, [0, 7], 0].tolist() == [255, 0]
    assert images.is_transparent(image)


def test_colours_that_are_missing() -> None:
    header = struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(72))), (b"IEND", b""))
    with raises_error("broken-image"):
        image_files.decode(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts), "a.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_opaque_image_is_not_transparent(mode: str) -> None:
    assert not images.is_transparent(GREEN.convert(mode))
    image = GREEN.convert(mode)
    image.putalpha(254)
    assert images.is_transparent(image)


@pytest.mark.parametrize(
    "name",
    [
        "a.tif",
        "a.tiff",
        "a.avif",
        "a.jp2",
        "a.ppm",
        "a.tga",
        "a.jfif",
        "a.jpe",
        "a.apng",
        "a.pcx",
        "a.qoi",
        "a.sgi",
        "a.ico",
        "a.dib",
    ],
)
def test_formats_of_the_image_library(tmp_path: Path, name: str) -> None:
    image = Image.new("RGB", (16, 16), (200, 30, 30))
    image.save(tmp_path / name)
    near = images.prepare(image_files.load(tmp_path / name), 16, 3).astype(int) - (200, 30, 30)
    assert np.abs(near).max() <= 4
    assert image_files.size(tmp_path / name) == (16, 16)


def test_numbers_that_are_no_shades_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / "wide.tif")
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "deep.tif")
    Image.new("LAB", (8, 8)).save(tmp_path / "lab.tif")
    for name, value in {"float.tif": 16, "wide.tif": 16, "lab.tif": "LAB"}.items():
        with raises_error("unsupported-image", name, value):
            image_files.load(tmp_path / name)
    assert images.prepare(image_files.load(tmp_path / "deep.tif"), 8, 3).min() == 255


@pytest.mark.parametrize(
    ("order", "bits", "white_is_zero"), [("<", 16, False), (">", 16, False), ("<", 16, True), ("<", 12, False)]
)
def test_grey_of_a_tiff_has_all_of_its_range(order: str, bits: int, white_is_zero: bool) -> None:
    if bits == 12:
        levels = [0, 1, 2047, 4095]
        packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in [(0, 1), (2047, 4095)])
    else:
        levels = [0, 257, 32768, 65535]
        packed = struct.pack(f"{order}4H", *levels)
    tags = [(256, 4), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8), (277, 1), (278, 1)]
    tags.append((279, len(packed)))
    body = struct.pack(f"{order}H", len(tags)) + b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    start = 8 + len(packed)
    content = mark + struct.pack(f"{order}I", start) + packed + body + bytes(4)
    found = np.asarray(images.convert(image_files.decode(content, "a.tif"), 1)).ravel()
    wanted = [round(level / (2**bits - 1) * 255) for level in levels]
    assert found.tolist() == ([255 - level for level in wanted] if white_is_zero else wanted)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 100 x 100 pixels were the most that are decoded."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    monkeypatch.setenv("DDPM_MAX_PIXELS", "10000")


def wide(**options: object) -> io.BytesIO:
    x = np.linspace(0, 255, 400).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.broadcast_to(x, (400, 400)).copy()).convert("RGB").save(file, **options)  # type: ignore[arg-type]
    file.seek(0)
    return file


def test_a_large_photograph_is_reduced_while_it_is_decoded(small_memory: None) -> None:
    with image_files.read(wide(format="JPEG", quality=95), "a.jpg", least=16) as image:
        assert image.size == (50, 50), "an eighth: no less than twice 16"
        assert np.abs(np.asarray(image.convert("L"))[0].astype(int) - np.linspace(2, 253, 50)).max() < 6


@pytest.mark.parametrize(
    ("options", "least"),
    [
        (dict(format="PNG"), 16),  # cannot be reduced
        (dict(format="JPEG", progressive=True), 16),  # is decoded whole before it is reduced
        (dict(format="JPEG"), 60),  # would still be too large
        (dict(format="JPEG"), 0),  # may not be reduced
    ],
)
def test_what_cannot_be_reduced_is_refused_unread(small_memory: None, options: dict[str, object], least: int) -> None:
    with raises_error("image-too-large"), image_files.read(wide(**options), "a", least):
        pass


def test_large_images_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "SHARED", 100)
    budget = image_files._Budget()
    inside, most = 0, 0
    lock, go = threading.Lock(), threading.Event()

    def decode(memory: int) -> None:
        nonlocal inside, most
        with budget.take(memory):
            with lock:
                inside += memory
                most = max(most, inside)
            go.wait(0.01)
            with lock:
                inside -= memory

    threads = [threading.Thread(target=decode, args=(memory,)) for memory in (40, 40, 40, 90, 1000, 10, 60) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "all had their turn"
    assert most == 1000, "the one that is larger than the room was alone"


def test_running_out_of_memory_is_not_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with raises_error("out-of-memory"):
        image_files.decode(wide(format="JPEG").getvalue(), "a.jpg")
