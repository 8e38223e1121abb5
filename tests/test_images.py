"""Images of every kind become the pixels they should, and broken ones a sentence."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raising import raises_error

from ddpm.errors import Code
from ddpm.storage import image_files, images


def colours(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    """A smooth image in colour: survives JPEG and resizing nearly unchanged."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return Image.fromarray((np.stack([x, y, (x + y + seed) / (2 + seed)], axis=-1) * 255).astype(np.uint8))


def saved(path: Path, image: Image.Image, **options: object) -> Image.Image:
    image.save(path, **options)
    return image_files.load(path)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.jpeg", "a.webp", "a.bmp", "a.gif", "a.JPG"])
def test_every_format_is_read(tmp_path: Path, name: str) -> None:
    image = saved(tmp_path / name, colours())
    assert distance(images.prepare(image, 16, 3), images.prepare(colours(), 16, 3)) < 6


def test_the_contents_count_not_the_name(tmp_path: Path) -> None:
    assert saved(tmp_path / "really_png.jpg", colours(), format="PNG").size == (60, 40)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (31, 90), (32, 32), (200, 33), (7, 9)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_prepared_images_have_the_size_and_channels_asked_for(height: int, width: int, channels: int) -> None:
    pixels = images.prepare(colours(height, width), 16, channels)
    assert pixels.shape == (16, 16, channels)
    assert pixels.dtype == np.uint8


def test_a_image_of_the_right_size_is_unchanged() -> None:
    assert np.array_equal(images.prepare(colours(16, 16), 16, 3), np.asarray(colours(16, 16)))


@pytest.mark.parametrize("shape", [(1, 60000), (60000, 1)])
def test_a_very_narrow_image_is_not_enlarged_as_a_whole(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *args: sizes.append(size) or resize(self, size, *args)
    )
    values = np.zeros(60000, np.uint8)
    values[29990:30010] = 200
    pixels = images.prepare(Image.fromarray(values.reshape(shape)), 256, 1)
    assert (pixels.min(), pixels.max()) == (200, 200), "the middle"
    assert all(width * height < 10**7 for width, height in sizes)


def test_the_centre_is_kept() -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    assert images.prepare(Image.fromarray(wide), 8, 3).min() == 255


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, mode: str) -> None:
    deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = Image.fromarray(deep if mode == "I;16" else deep.astype(np.int32))
    assert image.mode == mode
    for opened in (image, saved(tmp_path / "deep.png", Image.fromarray(deep))):
        assert images.is_deep(opened)
        assert np.array_equal(images.prepare(opened, 16, 1)[..., 0].ravel(), np.arange(256))
        assert images.prepare(opened, 16, 3)[-1, -1].tolist() == [255, 255, 255]


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, 4, 8))
    image = saved(tmp_path / "palette.png", palette, transparency=0)
    assert image.mode == "P"
    assert images.prepare(image, 8, 3)[0, [0, 7]].tolist() == [[0, 0, 255], [255, 255, 255]]
    assert images.prepare(image, 8, 4)[0, [0, 7], 3].tolist() == [255, 0]
    assert images.prepare(image, 8, 1)[0, 7, 0] == 255


def test_transparent_images_lie_on_white() -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert images.prepare(half, 8, 3)[0, 0].tolist() == [127, 127, 127]
    assert images.prepare(half, 8, 4)[0, 0].tolist() == [0, 0, 0, 128]
    assert images.prepare(Image.new("LA", (8, 8), (0, 0)), 8, 1).min() == 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "PA", "RGBa"])
def test_every_mode_is_converted(mode: str) -> None:
    route = {"PA": "LA", "RGBa": "RGBA"}
    image = Image.new("RGB", (8, 8), "white")
    image = image.convert(route[mode]).convert(mode) if mode in route else image.convert(mode)
    for channels in (1, 3, 4):
        assert images.prepare(image, 8, channels).min() >= 253, "white stays white"


def test_cmyk_from_a_file(tmp_path: Path) -> None:
    image = saved(tmp_path / "print.jpg", Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK"), quality=95)
    assert image.mode == "CMYK"
    assert distance(images.prepare(image, 16, 3), np.full((16, 16, 3), (200, 30, 30))) < 4


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held sideways
    assert saved(tmp_path / "phone.jpg", colours(40, 60), exif=exif).size == (40, 60)


def test_the_first_frame_of_a_moving_image(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    image = saved(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    assert images.prepare(image, 8, 3)[0, 0].tolist() == [255, 0, 0]


def test_broken_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.gif").touch()
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0" + bytes(100))
    codes: dict[str, Code] = {
        "cut.png": "broken-image",
        "text.jpg": "not-an-image",
        "empty.gif": "not-an-image",
        "script.png": "not-an-image",
        "gone.png": "not-found",
    }
    for name, code in codes.items():
        with raises_error(code, name):
            image_files.load(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with raises_error("image-too-large"):
        image_files.load(whole)


def test_size_reads_only_the_header(tmp_path: Path) -> None:
    colours(300, 200).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    assert image_files.size(tmp_path / "cut.png") == (200, 300)
    assert image_files.size(tmp_path / "none.png") is None


def test_floats_and_pixels() -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3) * 2
    x = images.to_float(pixels)
    assert (x.shape, x.dtype) == ((2, 3, 4, 5), np.float32)
    assert x.flags.c_contiguous
    assert images.to_float(np.array([[[[0]], [[255]]]], np.uint8)).ravel().tolist() == [-1, 1]
    assert np.abs(images.to_uint8(x).astype(int) - pixels).max() <= 1
    assert images.to_uint8(np.array([-2, -1, -0.999, 0, 0.999, 1, 2, np.nan]).reshape(1, 8, 1, 1)).ravel().tolist() == [
        0,
        0,
        0,
        127,
        254,
        255,
        255,
        0,
    ]


def test_a_grid() -> None:
    pixels = np.stack([np.full((2, 3, 3), k, np.uint8) for k in range(5)])
    picture = images.grid(pixels, gap=1)
    assert picture.shape == (2 * 2 + 1, 3 * 3 + 2, 3)
    assert picture[0, [0, 4, 8], 0].tolist() == [0, 1, 2]
    assert picture[3, [0, 4, 8], 0].tolist() == [3, 4, images.GAP]
    assert images.grid(pixels, columns=2, gap=0, scale=3).shape == (18, 18, 3)
    assert images.grid(pixels, columns=99, gap=0).shape == (2, 15, 3)
    assert images.strip(pixels, gap=2).shape == (2, 23, 3)
    assert images.grid(pixels[:1], gap=7).shape == (2, 3, 3)
    assert images.grid(np.full((2, 2, 2, 4), 255, np.uint8), columns=1)[2, 0].tolist() == [128, 128, 128, 0]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_holds_the_pixels(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, channels), np.uint8)
    images.save_png(tmp_path / "new" / "a.png", pixels)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)
