"""The predictor: one result whatever form an image comes in, and one sentence for what is no image."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from detection import Detections, Predictor, open_run
from detection.analysis.visualize import distinct_colors
from detection.atomic_write import write_json
from detection.cli import predict
from detection.config import Config
from detection.data.coco_index import Category
from detection.data.images import read_image
from detection.detector import build_detector
from detection.errors import UserError
from detection.runs.checkpoint import save_checkpoint
from detection.runs.folder import config_json
from tests.coco_files import write_image
from tests.tiny_runs import DETECTOR

CATEGORIES = (Category(3, "cat"), Category(9, "dog"))
MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose checkpoints `best` and `last` differ."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    for seed, name in enumerate(("best", "last")):
        torch.manual_seed(seed)
        save_checkpoint(folder / "checkpoints" / name, build_detector(DETECTOR, 2), CATEGORIES, {"epoch": 1})
    write_json(folder / "config.json", config_json(Config(DETECTOR)))
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        write_image(Path(f"photos/{number}.png"), 60 - 5 * number, 40, number)
    return sorted(Path("photos").iterdir())


def _tensor(path):
    return torch.from_numpy(read_image(path)).permute(2, 0, 1)


def assert_same(found, expected):
    assert found.image_size == expected.image_size
    for key in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(found, key), getattr(expected, key)), key


def test_detections_are_the_detectors_above_the_score(run, photos):
    found = Predictor(run, "cpu", 0.4)(photos[0])
    detector, _, _ = open_run(run)
    with torch.no_grad():
        expected = detector([_tensor(photos[0])])[0]
    kept = expected["scores"] >= 0.4
    assert 0 < kept.sum() < len(kept) and len(found) == kept.sum()
    for key in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(found, key), expected[key][kept]), key
    assert found.image_size == (40, 60)
    assert (found.boxes.dtype, found.labels.dtype) == (torch.float32, torch.int64)
    assert found.names == [{1: "cat", 2: "dog"}[label] for label in found.labels.tolist()]


def test_each_form_of_an_image_gives_the_same(run, photos):
    predictor = Predictor(run, "cpu", 0.0)
    array, tensor = read_image(photos[0]), _tensor(photos[0])
    expected = predictor(str(photos[0]))
    flipped = array[:, ::-1].copy()[:, ::-1]
    for image in (photos[0], Image.open(photos[0]), array, flipped, tensor, tensor / 255, tensor.double() / 255):
        assert_same(predictor(image), expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_pil_image_is_read_as_its_file_is(run, tmp_path, mode):
    colors = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    gray = Image.fromarray(colors[:, :, 0].astype(np.uint16) * 200)
    image = gray if mode == "I;16" else Image.fromarray(colors).convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    try:
        Image.open(path).load()
    except OSError:
        pytest.skip(f"this Pillow cannot read its own TIFF of mode {mode}")
    predictor = Predictor(run, "cpu", 0.0)
    assert_same(predictor(image), predictor(path))
    assert len(predictor(path)) > 0


def test_exif_orientation_is_applied(run, tmp_path):
    path = tmp_path / "turned.png"
    write_image(path, 60, 40)
    upright = Image.open(path)
    upright.load()
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    predictor = Predictor(run, "cpu", 0.0)
    turned = Image.open(path)
    assert turned.size == (40, 60) and ImageOps.exif_transpose(turned).size == (60, 40)
    for image in (path, turned):
        assert_same(predictor(image), predictor(upright))


def test_lists_are_detected_in_batches_and_in_order(run, photos):
    predictor = Predictor(run, "cpu", 0.0)
    sizes = []
    predictor.detector.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    found = predictor([*photos[:2], Image.open(photos[2]), _tensor(photos[3]), str(photos[4])], batch_size=2)
    assert sizes == [2, 2, 1] and [d.image_size[1] for d in found] == [60, 55, 50, 45, 40]
    for path, detections in zip(photos, found, strict=True):
        alone = predictor(path)
        torch.testing.assert_close(alone.boxes, detections.boxes)
        torch.testing.assert_close(alone.scores, detections.scores)
    assert predictor([]) == []
    assert predictor.config.eval_batch_size == 2
    sizes.clear()
    predictor(tuple(photos))
    assert sizes == [2, 2, 1]


def test_sizes_are_whole_numbers_of_any_kind(run, photos):
    predictor = Predictor(run, "cpu")
    found = predictor(photos[0], tiles=np.int64(32), batch_size=np.int64(2))
    assert torch.equal(found.boxes, predictor(photos[0], tiles=32, batch_size=2).boxes)
    for name in ("tiles", "batch_size"):
        with pytest.raises(TypeError, match=rf"{name}=32.0: must be a whole number"):
            predictor(photos[0], **{name: 32.0})


def test_nothing_is_trained(run, photos):
    predictor = Predictor(run, "cpu", 0.0)
    expected = predictor(photos[0])
    predictor.detector.train()
    assert_same(predictor(photos[0]), expected)
    assert not expected.boxes.requires_grad and not expected.scores.requires_grad


def test_the_command_finds_the_same(run, photos):
    assert predict.main([str(run), *map(str, photos), "--score=0.3", "--device=cpu", "--output=out"]) == 0
    found = Predictor(run, "cpu", 0.3)(photos)
    expected = json.loads(Path("out/results.json").read_text())
    assert [r for number, d in enumerate(found, 1) for r in d.to_coco(number)] == expected
    assert {r["category_id"] for r in expected} <= {3, 9} and len(expected) > 5


def test_the_score_is_that_of_the_best_f1(run, photos, tmp_path):
    assert Predictor(run).score == 0.5
    copy = shutil.copytree(run, tmp_path / "run")
    # The shortest decimal of a float32 that is a little less, as results.json has it.
    assert torch.tensor(0.4321006).item() < 0.4321006
    write_json(copy / "metrics.json", {"best_f1": {"score": 0.4321006}})
    predictor = Predictor(copy, "cpu")
    assert predictor.score == 0.4321006 and Predictor(copy, "cpu", 0).score == 0
    scores = torch.tensor([0.5, 0.4321006, 0.4321005])
    found = {"boxes": torch.zeros(3, 4), "labels": torch.ones(3, dtype=torch.int64), "scores": scores}
    predictor.detector = SimpleNamespace(eval=lambda: lambda images: [found])
    assert torch.equal(predictor(photos[0]).scores, scores[:2])
    for score in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            Predictor(run, "cpu", score)


def test_the_score_of_the_last_checkpoint_is_its_own(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    write_json(copy / "metrics.json", {"best_f1": {"score": 0.4}})
    last = copy / "checkpoints" / "last"
    assert Predictor(last, "cpu").score == 0.5
    write_json(copy / "last" / "metrics.json", {"best_f1": {"score": 0.3}})
    assert [Predictor(path, "cpu").score for path in (copy, last, last / "model.safetensors")] == [0.4, 0.3, 0.3]
    shutil.rmtree(copy / "checkpoints" / "best")
    assert Predictor(copy, "cpu").score == 0.3


def test_a_checkpoint_can_be_named(run, photos, monkeypatch):
    best, last = (Predictor(run / "checkpoints" / name, "cpu", 0.0)(photos[0]) for name in ("best", "last"))
    assert_same(Predictor(run, "cpu", 0.0)(photos[0]), best)
    assert not torch.equal(best.scores, last.scores)
    photo = photos[0].resolve()
    monkeypatch.chdir(run / "checkpoints")
    assert_same(Predictor("last", "cpu", 0.0)(photo), last)
    with pytest.raises(UserError, match="lost: no checkpoint here"):
        Predictor(run / "checkpoints" / "lost")
    with pytest.raises(UserError, match="not a run folder"):
        Predictor(photo.parent)


def test_trusted_packages_are_passed_on(run, monkeypatch):
    asked = {}

    def opened(*args, **more):
        asked.update(more)
        return open_run(*args)

    monkeypatch.setattr("detection.predictor.open_run", opened)
    Predictor(run, "cpu", trust=["mylab"])
    assert asked == {"trust": ["mylab"]}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_predicts_in_its_precision(run, photos, tmp_path, precision):
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    write_json(tmp_path / "config.json", config_json(Config(DETECTOR, precision=precision)))
    found, exact = (Predictor(folder, "cpu", 0.0)(photos[0]) for folder in (tmp_path, run))
    if precision == "fp16":
        assert_same(found, exact)
    else:
        detector, _, _ = open_run(run)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected = detector([_tensor(photos[0])])[0]
        assert torch.equal(found.scores, expected["scores"]) and not torch.equal(
            found.scores, exact.scores[: len(found)]
        )
        assert found.boxes.dtype == found.scores.dtype == torch.float32


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (None, "NoneType"),
        (7, "int"),
        (b"photo.png", "images[0]: … got int"),
        ({"image": 1}, "dict"),
        (np.zeros((4, 5), np.uint8), "ndarray of uint8 (4, 5)"),
        (np.zeros((4, 5, 4), np.uint8), "ndarray of uint8 (4, 5, 4)"),
        (np.zeros((4, 5, 3)), "ndarray of float64 (4, 5, 3)"),
        (np.zeros((0, 5, 3), np.uint8), "ndarray of uint8 (0, 5, 3)"),
        (np.zeros((2, 4, 5, 3), np.uint8), "ndarray of uint8 (2, 4, 5, 3)"),
        (torch.zeros(1, 3, 4, 5), "Tensor of float32 (1, 3, 4, 5)"),
        (torch.zeros(4, 5, 3), "Tensor of float32 (4, 5, 3)"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "Tensor of int64 (3, 4, 5)"),
        (torch.zeros(3, 4, 0), "Tensor of float32 (3, 4, 0)"),
        (Image.new("RGB", (0, 5)), "Image of 0x5 pixels"),
        ([np.zeros((4, 5, 3), np.uint8)] * 3 + [3.5], "images[3]: … got float"),
        ([[np.zeros((4, 5, 3), np.uint8)]], "images[0]: … got list"),
    ],
)
def test_anything_else_is_a_type_error_that_lists_what_is_taken(run, image, got):
    name, _, kind = got.rpartition(": … got ")
    with pytest.raises(TypeError) as error:
        Predictor(run, "cpu")(image)
    message = str(error.value)
    assert message.startswith(f"{name or 'the image'}: must be a path, a PIL image, an ndarray (H, W, 3) of uint8")
    assert message.endswith(f"got {kind}.")


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([0.0, 255.0], "from 0 to 255: divide it by 255, or give uint8"),
        ([-0.5, 0.9], "from -0.5 to 0.9: give RGB before any normalization"),
        ([-2.1, 2.6], "from -2.1 to 2.6: give RGB before any normalization"),
        ([0.0, float("nan")], "from nan to nan"),
    ],
)
def test_float_tensors_outside_0_to_1_are_refused(run, values, remedy):
    image = torch.tensor(values)[torch.arange(60) % 2].reshape(3, 4, 5)
    with pytest.raises(ValueError, match=re.escape(remedy)):
        Predictor(run, "cpu")(image)


def test_files_and_batches_that_cannot_be_used(run, photos):
    predictor = Predictor(run, "cpu")
    with pytest.raises(UserError, match="none.png does not exist"):
        predictor("none.png")
    with pytest.raises(UserError, match="too thin"):
        predictor(np.zeros((1, 300, 3), np.uint8))
    with pytest.raises(UserError, match="image in memory has floating-point pixels"):
        predictor(Image.new("F", (40, 40)))
    with pytest.raises(ValueError, match="batch_size=0: must be 1 or more"):
        predictor(photos, batch_size=0)


@pytest.fixture
def detections():
    boxes = torch.tensor([[8.0, 4.0, 40.5, 30.0], [20.0, 10.0, 50.0, 36.0]])
    return Detections(boxes, torch.tensor([0.9, 0.25]), torch.tensor([2, 1]), (40, 60), CATEGORIES)


def test_detections_become_coco_results(detections):
    assert len(detections) == 2 and detections.names == ["dog", "cat"]
    assert detections.to_coco(image_id=12) == [
        {"image_id": 12, "category_id": 9, "bbox": [8.0, 4.0, 32.5, 26.0], "score": 0.9},
        {"image_id": 12, "category_id": 3, "bbox": [20.0, 10.0, 30.0, 26.0], "score": 0.25},
    ]


def test_detections_are_drawn(detections):
    gray = torch.arange(240, dtype=torch.uint8).repeat(10).reshape(40, 60).expand(3, 40, 60)
    drawn = np.array(detections.draw(gray))
    factor = drawn.shape[0] // 40
    assert drawn.shape == (40 * factor, 60 * factor, 3)
    colors = distinct_colors(["cat", "dog"])
    left_edge = drawn[20 * factor, 8 * factor]
    assert tuple(left_edge) == colors["dog"] and (drawn == colors["cat"]).all(2).any()
    np.testing.assert_array_equal(np.array(detections.draw(gray / 255)), drawn)
    with pytest.raises(ValueError, match="of an image of 60x40 pixels, this one has 40x60"):
        detections.draw(gray.transpose(1, 2))


def test_supervision_takes_them(detections):
    supervision = pytest.importorskip("supervision")
    found = detections.to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 2
    np.testing.assert_array_equal(found.xyxy, detections.boxes.numpy())
    np.testing.assert_array_equal(found.confidence, detections.scores.numpy())
    assert found.class_id.tolist() == [2, 1] and found["class_name"].tolist() == ["dog", "cat"]
    assert found[found["class_name"] == "cat"].confidence.tolist() == [0.25]
    same = supervision.Detections.from_transformers(vars(detections), {1: "cat", 2: "dog"})
    assert same == found
    image = np.zeros((40, 60, 3), np.uint8)
    assert supervision.LabelAnnotator().annotate(image.copy(), found).any()
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (40, 60), CATEGORIES)
    assert len(empty.to_supervision()) == 0 and empty.names == []


def test_without_a_best_checkpoint_the_last_is_opened_with_a_note(finished_run, tmp_path, capsys):
    run = shutil.copytree(finished_run, tmp_path / "run")
    open_run(run)
    assert not capsys.readouterr().err
    shutil.rmtree(run / "checkpoints" / "best")
    open_run(run)
    last = run / "checkpoints" / "last"
    assert capsys.readouterr().err == f"note: {run} has no best checkpoint: {last} is opened.\n"
    open_run(run, checkpoint="last")
    assert not capsys.readouterr().err
