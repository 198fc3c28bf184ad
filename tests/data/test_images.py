import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.data.image_paths import leaves_folder, missing_and_escaping, resolve_image
from detection.data.images import image_size, load_image, read_image, to_rgb
from detection.errors import UserError

# 3 wide, 2 high; all six pixels differ.
PIXELS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 255], [9, 99, 199]]], np.uint8)
GRAY = np.arange(256).reshape(16, 16)


def _save(path, image, **options):
    image.save(path, **options)
    return path


def test_rgb_and_palette(tmp_path):
    assert (read_image(_save(tmp_path / "a.png", Image.fromarray(PIXELS))) == PIXELS).all()
    palette = Image.fromarray(PIXELS).quantize(6)
    result = read_image(_save(tmp_path / "p.png", palette))
    assert (result == PIXELS).all() and result.dtype == np.uint8 and result.flags.writeable


def test_gray_becomes_three_equal_channels(tmp_path):
    gray = np.array([[0, 7], [128, 255]], np.uint8)
    for mode in ("L", "1"):
        image = Image.fromarray(gray).convert(mode, dither=Image.Dither.NONE)
        result = read_image(_save(tmp_path / f"{mode}.png", image))
        assert (result == np.asarray(image.convert("L"))[:, :, None]).all() and result.shape == (2, 2, 3)


def test_alpha_is_composited_over_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    assert read_image(_save(tmp_path / "a.png", Image.fromarray(rgba))).tolist() == expected
    gray = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
    assert read_image(_save(tmp_path / "la.png", gray)).tolist() == [[[10] * 3, [255] * 3]]
    transparent = _save(tmp_path / "t.png", Image.fromarray(PIXELS), transparency=(255, 0, 0))
    assert read_image(transparent)[0].tolist() == [[255] * 3, [0, 255, 0], [0, 0, 255]]


def test_16_bit_gray_is_divided_by_257(tmp_path):
    gray = np.array([[0, 257, 65535], [128, 129, 32896]], np.uint16)
    expected = np.round(gray / 257).astype(np.uint8)
    for name in ("a.png", "a.tif"):
        assert (read_image(_save(tmp_path / name, Image.fromarray(gray))) == expected[:, :, None]).all()


def test_cmyk(tmp_path):
    cmyk = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8)
    path = _save(tmp_path / "a.tif", Image.fromarray(cmyk, "CMYK"))
    assert read_image(path).tolist() == [[[255, 255, 255], [0, 255, 255], [0, 0, 0]]]
    jpeg = read_image(_save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 0, 0)), quality=100))
    assert np.abs(jpeg.astype(int) - [255, 0, 255]).max() < 4


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, PIXELS),
        (2, PIXELS[:, ::-1]),
        (3, PIXELS[::-1, ::-1]),
        (4, PIXELS[::-1]),
        (5, PIXELS.transpose(1, 0, 2)),
        (6, np.rot90(PIXELS, -1)),
        (7, PIXELS[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(PIXELS)),
    ],
)
def test_exif_orientation(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (read_image(_save(tmp_path / "a.png", Image.fromarray(PIXELS), exif=exif)) == upright).all()


def test_float_and_wide_integers_are_refused(tmp_path):
    wide = _save(tmp_path / "i.tif", Image.fromarray(np.array([[70_000]], np.int32)))
    real = _save(tmp_path / "f.tif", Image.fromarray(np.array([[0.5]], np.float32)))
    for path in (wide, real):
        with pytest.raises(UserError, match=str(path)):
            read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_files_are_refused(tmp_path, kind, share):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    path = tmp_path / "image"
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    with pytest.raises(UserError, match=f"{path}.*copy it again"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"no image", "not an image"), (b"\x89PNG", ""), (b"version https://git-lfs", "Git LFS, not the")],
)
def test_files_that_are_no_image(tmp_path, content, words):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}.*{words}"):
        read_image(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(UserError):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("a.jpg", False), ("x/a.jpg", False), ("./a.jpg", False), (".hidden/a.jpg", False), ("..a.jpg", False),
        ("x/../a.jpg", False), ("a..b.jpg", False),
        ("../a.jpg", True), ("/a.jpg", True), ("x/../../a.jpg", True), ("..", True), (".", True), ("", True),
        ("a\0.jpg", True), ("./../a.jpg", True),
    ],
)  # fmt: skip
def test_leaves_folder(name, leaves):
    assert leaves_folder(name) is leaves


def test_links_may_not_lead_out_of_the_folder(tmp_path):
    images, outside = tmp_path / "images", tmp_path / "outside"
    images.mkdir()
    outside.mkdir()
    (outside / "x.jpg").touch()
    (images / "a.jpg").touch()
    (images / "inner.jpg").symlink_to("a.jpg")
    (images / "outer.jpg").symlink_to(outside / "x.jpg")
    (images / "dangling.jpg").symlink_to("nothing.jpg")
    (images / "folder").symlink_to(outside)
    (tmp_path / "link").symlink_to(images)
    names = ["a.jpg", "inner.jpg", "outer.jpg", "folder/x.jpg", "gone.jpg", "no/gone.jpg", "../outside/x.jpg", "folder"]
    for folder in (images, tmp_path / "link"):
        assert missing_and_escaping(folder, [*names, "dangling.jpg"]) == ([4, 5, 8], [2, 3, 6, 7])
        assert resolve_image(folder, "inner.jpg") == folder / "inner.jpg"
        for name in ("outer.jpg", "folder/x.jpg", "../outside/x.jpg", str(outside / "x.jpg")):
            with pytest.raises(UserError, match="leaves the image folder"):
                resolve_image(folder, name)


def test_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        missing_and_escaping(tmp_path / "none", [])
    assert os.path.exists(tmp_path)


@pytest.mark.parametrize(
    ("name", "pixels", "depth"),
    [
        ("a.tif", (GRAY * 16).astype(np.uint16), 12),
        ("a.png", (GRAY * 16).astype(np.uint16), 12),
        ("b.tif", GRAY.astype(np.int32), 8),
        ("c.tif", (GRAY * 257).astype(np.uint16), 16),
    ],
)
def test_depth_is_found(tmp_path, name, pixels, depth):
    image = load_image(_save(tmp_path / name, Image.fromarray(pixels)))
    assert image.depth == depth and np.abs(image.pixels[:, :, 0].astype(int) - GRAY).max() <= 1


def test_depth_is_declared(tmp_path):
    pixels = (GRAY // 2 * 16).astype(np.uint16)
    path = _save(tmp_path / "a.tif", Image.fromarray(pixels), tiffinfo={281: 65535})
    assert load_image(path).depth == 16 and load_image(path).pixels.max() < 10


def test_16_bit_color_that_is_nearly_black_is_scaled(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([GRAY * 16, GRAY * 0, GRAY * 8]).astype(np.uint16))  # BGR
    image = load_image(tmp_path / "a.png")
    assert image.depth == 12
    expected = np.dstack([GRAY / 2, GRAY * 0, GRAY])
    assert np.abs(image.pixels - expected).max() <= 1


def test_white_is_zero_is_turned_over(tmp_path):
    inverted = (65535 - GRAY * 257).astype(np.uint16)
    path = _save(tmp_path / "a.tif", Image.fromarray(inverted), tiffinfo={262: 0})
    assert (read_image(path)[:, :, 0] == GRAY).all()
    assert (to_rgb(Image.open(path), path)[:, :, 0] == GRAY).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_opened_image_is_read_as_its_file(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.effect_noise((9, 5), 90).save(path, exif=exif)
    assert (to_rgb(Image.open(path), path) == read_image(path)).all()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "the memory is used up: end other processes"),
        (OSError(24, "Too many open files"), "too many open files: raise the limit"),
        (OSError(5, "Input/output error"), "the disk cannot read or write it"),
        (ValueError("bad header"), r"is truncated or damaged \(bad header\): copy it again"),
    ],
)
def test_what_the_system_lacks_is_no_damage_of_the_image(tmp_path, monkeypatch, error, sentence):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")

    def load(self):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    for read in (lambda: read_image(tmp_path / "a.png"), lambda: to_rgb(Image.open(tmp_path / "a.png"), Path("a.png"))):
        with pytest.raises(UserError, match=rf"image .*a.png .*{sentence}"):
            read()


def test_a_truncated_image_in_memory_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.effect_noise((60, 50), 90).save(buffer, "JPEG")
    image = Image.open(io.BytesIO(buffer.getvalue()[:-500]))
    with pytest.raises(UserError, match="image in memory is truncated or damaged"):
        to_rgb(image, Path("in memory"))


def test_signed_pixels_are_named(tmp_path):
    with pytest.raises(UserError, match="negative pixels, down to -9"):
        read_image(_save(tmp_path / "a.tif", Image.fromarray(np.array([[-9, 3]], np.int16))))


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
@pytest.mark.parametrize("orientation", [0, 1, 3, 5, 6, 7, 8, 9, 40000])
def test_the_header_has_the_size_of_the_upright_image(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path / f"a.{suffix}", Image.fromarray(PIXELS), exif=exif)
    expected = (2, 3) if 5 <= orientation <= 8 else (3, 2)
    assert image_size(path) == read_image(path).shape[1::-1] == expected
    assert load_image(path).orientation == (orientation if 1 <= orientation <= 8 else 1)


def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for read in (read_image, image_size):
        with pytest.raises(UserError, match="is a pipe or device"):
            read(tmp_path / "a.png")
