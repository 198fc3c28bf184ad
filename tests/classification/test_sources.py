import dataclasses
import shutil
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from detection.classification.config import ImageData
from detection.classification.sources import files_state, open_images
from detection.errors import UserError
from tests.classification.stripes import write_stripes


@pytest.fixture(scope="module")
def sklearn_digits():
    datasets = pytest.importorskip(
        "sklearn.datasets", reason="scikit-learn (pip install -e '.[digits]') has the digits"
    )
    return datasets.load_digits()


def test_the_digits(sklearn_digits):
    train, test = open_images(ImageData("digits"))
    assert len(train) + len(test) == 1797 and train.classes == tuple("0123456789")
    assert train.pixels.shape[1:] == (1, 8, 8) and train.pixels.max() == 255
    counts = torch.bincount(test.labels)
    expected = np.round(np.bincount(sklearn_digits.target) * 0.2)
    assert counts.tolist() == expected.tolist()
    pixels = np.round(sklearn_digits.images * 255 / 16).astype(int).reshape(1797, 64)
    places = {tuple(row): i for i, row in enumerate(pixels.tolist())}
    for part in (train, test):
        found = [places[tuple(pixels.flatten().tolist())] for pixels in part.pixels]
        assert part.labels.tolist() == sklearn_digits.target[found].tolist()


def test_validation_is_taken_from_the_training_images(sklearn_digits):
    data = ImageData("digits", measure="validation")
    whole, test = open_images(dataclasses.replace(data, measure="test"))
    train, validation = open_images(data)
    as_set = [{p.numpy().tobytes() for p in part.pixels} for part in (whole, test, train, validation)]
    assert len(train) + len(validation) == len(whole)
    assert as_set[2] | as_set[3] == as_set[0] and not as_set[3] & as_set[1]
    assert len(validation) == pytest.approx(len(whole) * 0.2, abs=5)


def test_digits_are_brought_to_a_size(sklearn_digits):
    small, large = open_images(ImageData("digits"))[0], open_images(ImageData("digits", size=16))[0]
    assert large.pixels.shape == (len(small), 1, 16, 16) and torch.equal(small.labels, large.labels)
    # Bilinear at twice the size: inside the image a pixel is 9/16, 3/16, 3/16 and 1/16 of its four neighbors.
    a, b, c, d = (small.pixels[:, 0, y, x].float() for y, x in ((3, 3), (3, 4), (4, 3), (4, 4)))
    torch.testing.assert_close(large.pixels[:, 0, 7, 7].float(), (9 * a + 3 * b + 3 * c + d) / 16, rtol=0, atol=1)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'context-detection\[digits\]'"):
        open_images(ImageData("digits"))


def write_idx(path, array):
    """MNIST's file format: two zeros, 8 for bytes, the number of dimensions, each of them, the bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_mnist_where_torchvision_looks_for_it(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = {part: rng.integers(0, 256, (count, 28, 28)) for part, count in (("train", 20), ("t10k", 6))}
    for part, images in pixels.items():
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(len(images)) % 10)
    train, test = open_images(ImageData("MNIST", root=str(tmp_path)))
    assert torch.equal(train.pixels, torch.from_numpy(pixels["train"])[:, None].byte())
    assert torch.equal(test.pixels, torch.from_numpy(pixels["t10k"])[:, None].byte())
    assert test.labels.tolist() == list(range(6)) and len(train.classes) == 10
    _, validation = open_images(ImageData("MNIST", root=str(tmp_path), measure="validation"))
    train_set = {p.numpy().tobytes() for p in train.pixels}
    assert all(p.numpy().tobytes() in train_set for p in validation.pixels)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("folder", "a/deep/1.png"),
        ("folder", "train/a/1.png"),
        ("MNIST", "MNIST/raw/t10k-labels-idx1-ubyte"),
        ("CIFAR10", "cifar-10-batches-py/data_batch_1"),
        ("SVHN", "test_32x32.mat"),
    ],
)
def test_files_that_change_change_their_state(tmp_path, kind, name):
    data, path = ImageData(kind, root=str(tmp_path)), tmp_path / name
    assert files_state(data) == files_state(ImageData("digits", root=str(tmp_path))) == ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1")
    before = files_state(data)
    path.write_text("22")
    assert "" != before != files_state(data)


def test_classes_may_be_links(tmp_path):
    write_stripes(tmp_path / "images", [("", 2)], size=8)
    (tmp_path / "root").mkdir()
    for name in ("lying", "standing"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "images" / name)
    data = ImageData("folder", root=str(tmp_path / "root"))
    before = files_state(data)
    (tmp_path / "images/lying/000.png").unlink()
    assert before != files_state(data)


def test_files_that_are_no_images_are_none_of_a_folder(tmp_path):
    (tmp_path / "lying").mkdir()
    for name in (".DS_Store", "lying/notes.txt"):
        (tmp_path / name).touch()
    assert files_state(ImageData("folder", root=str(tmp_path))) == ""


class FakeSet:
    """One of torchvision's data sets, by the shape that its `data` has."""

    classes = list("abcdefghij")

    def __init__(self, shape, **names):
        self.data = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        for name, value in names.items():
            setattr(self, name, value)


def test_cifar_and_svhn_become_channels_first(monkeypatch):
    cifar, svhn = FakeSet((5, 32, 32, 3), targets=[1, 2, 3, 4, 5]), FakeSet((5, 3, 32, 32), labels=np.arange(5))
    asked = []

    def fake(made):
        return lambda root, **settings: asked.append(settings) or made

    monkeypatch.setattr("torchvision.datasets.CIFAR10", fake(cifar))
    monkeypatch.setattr("torchvision.datasets.SVHN", fake(svhn))
    train, _ = open_images(ImageData("CIFAR10"))
    assert torch.equal(train.pixels[3, :, 5, 7], torch.from_numpy(cifar.data[3, 5, 7]))
    assert train.labels.tolist() == [1, 2, 3, 4, 5]
    train, test = open_images(ImageData("SVHN_extra"))
    assert len(train) == 10 and len(test) == 5
    assert torch.equal(train.pixels[7], torch.from_numpy(svhn.data[2])) and train.labels[7] == 2
    assert all(settings.pop("download") is False for settings in asked)
    assert asked == [{"train": True}, {"train": False}, {"split": "train"}, {"split": "extra"}, {"split": "test"}]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("MNIST", "MNIST/raw"),
        ("CIFAR10", "cifar-10-batches-py"),
        ("SVHN", "{train,test}_32x32.mat"),
        ("SVHN_extra", "{train,extra,test}_32x32.mat"),
    ],
)
def test_what_is_missing_is_reported_where_to_put(tmp_path, kind, words):
    with pytest.raises(UserError) as caught:
        open_images(ImageData(kind, root=str(tmp_path)))
    sentence = str(caught.value)
    assert f"data.root={tmp_path}" in sentence and words in sentence and "download" in sentence and "\n" not in sentence
    assert not list(tmp_path.iterdir())


def test_a_folder_with_both_parts(stripes):
    train, test = open_images(ImageData("folder", root=str(stripes)))
    assert train.classes == test.classes == ("lying", "standing")
    assert torch.bincount(train.labels).tolist() == [32, 32] and torch.bincount(test.labels).tolist() == [12, 12]
    image = np.array(Image.open(stripes / "test" / "standing" / "003.png"))
    assert torch.equal(test.pixels[15], torch.from_numpy(image).permute(2, 0, 1)) and test.labels[15] == 1


def test_a_folder_without_parts_is_split(tmp_path):
    write_stripes(tmp_path, [("", 10)])
    train, test = open_images(ImageData("folder", root=str(tmp_path), test_fraction=0.3))
    assert torch.bincount(train.labels).tolist() == [7, 7] and torch.bincount(test.labels).tolist() == [3, 3]


def test_images_of_a_folder_lose_their_ends(tmp_path):
    """A wide image at its size: its shorter side is brought to it, and of the longer the middle is kept."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(2):
            pixels = np.zeros((8, 16, 3), np.uint8)
            pixels[:, 4:12] = 200
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    train, _ = open_images(ImageData("folder", root=str(tmp_path), size=4, test_fraction=0.5))
    assert train.pixels.shape == (2, 3, 4, 4) and (train.pixels > 150).all()


def only(folder, *names):
    """Delete every class but these, from the training images."""
    for path in (folder / "train").iterdir():
        if path.name not in names:
            shutil.rmtree(path)


def clear(folder, count=0):
    """Leave that many images of one class."""
    for path in sorted((folder / "train" / "lying").iterdir())[count:]:
        path.unlink()


BROKEN = {
    "no folder": (lambda f: shutil.rmtree(f), {}, "no such folder"),
    "one class": (lambda f: only(f, "lying"), {}, "found 1 folders"),
    "no class": (lambda f: only(f), {}, "found 0 folders"),
    "a class without images": (clear, {}, "fewer than two images in 'lying'"),
    "a class of one image": (lambda f: clear(f, 1), {}, "fewer than two images in 'lying'"),
    "another class in the test": (lambda f: (f / "test/lying").rename(f / "test/leaning"), {}, "only: leaning, lying"),
    "several sizes": (lambda f: Image.new("RGB", (9, 9)).save(f / "train/lying/001.png"), {}, "data.size=PIXELS"),
    "no image": (lambda f: (f / "train/lying/001.png").write_text("hello"), {}, "001.png is not an image"),
    "a truncated one": (lambda f: (f / "test/lying/001.png").write_bytes(b""), {}, "001.png is empty"),
    "an odd crop": (lambda f: None, {"crop": 5}, "data.crop=5"),
    "too large a crop": (lambda f: None, {"crop": 10}, "data.crop=10"),
}


@pytest.mark.parametrize(("edit", "settings", "sentence"), BROKEN.values(), ids=list(BROKEN))
def test_a_folder_that_cannot_be_used(tmp_path, edit, settings, sentence):
    folder = write_stripes(tmp_path / "data", [("train", 3), ("test", 2)], size=8)
    edit(folder)
    with pytest.raises(UserError) as caught:
        open_images(ImageData("folder", root=str(folder), **settings))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_parts_of_two_sizes(tmp_path):
    write_stripes(tmp_path, [("train", 2)], size=8)
    write_stripes(tmp_path, [("test", 2)], size=12)
    with pytest.raises(UserError, match="two sizes"):
        open_images(ImageData("folder", root=str(tmp_path)))
    train, test = open_images(ImageData("folder", root=str(tmp_path), size=8))
    assert train.pixels.shape[1:] == test.pixels.shape[1:] == (3, 8, 8)


def test_images_that_are_not_square(tmp_path):
    write_stripes(tmp_path, [("", 3)], size=8)
    for path in tmp_path.rglob("*.png"):
        Image.new("RGB", (12, 8)).save(path)
    with pytest.raises(UserError, match=r"12x8, not square"):
        open_images(ImageData("folder", root=str(tmp_path)))
