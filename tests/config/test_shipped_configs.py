"""Every file of configs/, made small, from a random start: it trains a step, it detects, and its texts hold."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from detection.config import Config, base_config, from_plain, load_config, override, to_plain
from detection.config.files import find_config, shipped_configs
from detection.context import SpatialRNN
from detection.detector import build_detector
from detection.errors import UserError
from detection.pretrained import load_pretrained
from detection.training.freezing import freeze

FILES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "configs").glob("*.py"))}
ION = sorted(name for name in FILES if name.startswith("ion_"))
NUM_CLASSES = 3
# VGG's fully connected layers and the ResNets' images would take most of the time.
SMALL = {
    "hidden_channels": 16,
    "min_size": 64,
    "max_size": 96,
    "pre_nms_top_n": [60, 40],
    "post_nms_top_n": [30, 20],
    "detections_per_image": 10,
}


def shrunk(plain):
    """Plain settings with small numbers wherever they are larger, and nothing to load."""
    if isinstance(plain, dict):
        small = {k: SMALL[k] if k in SMALL and v is not None else shrunk(v) for k, v in plain.items()}
        return {key: None if key == "weights" else value for key, value in small.items()}
    return [shrunk(value) for value in plain] if isinstance(plain, list) else plain


def make_batch(with_masks):
    """Two images of different sizes with a box or two."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=generator) for size in ((64, 96), (64, 70))]
    boxes = [[[8.0, 8, 50, 50], [40, 20, 90, 60]], [[5.0, 10, 60, 50]]]
    targets = [{"boxes": torch.tensor(b), "labels": torch.arange(len(b)) + 1} for b in boxes]
    for image, target in zip(images, targets, strict=True):
        if with_masks:
            target["semantic"] = torch.ones(image.shape[1:], dtype=torch.uint8)
    return images, targets


@pytest.mark.parametrize("name", FILES)
def test_a_config_trains_a_step_and_detects(name):
    """Built from its plain data, with its own freezing: every weight that is trained has a gradient, in each stage."""
    config = from_plain(json.loads(json.dumps(shrunk(to_plain(load_config(FILES[name]))))), Config)
    torch.manual_seed(0)
    detector = build_detector(config.detector, NUM_CLASSES, resize_in_training=False)
    assert load_pretrained(detector, None) == []
    images, targets = make_batch(config.detector.segmentation is not None)
    stages = {0, *(epoch for epoch in config.freeze.values() if epoch is not None)}
    assert max(stages) < load_config(FILES[name]).schedule.epochs
    for epoch in sorted(stages):
        freeze(detector, config.freeze, epoch)
        losses = detector(images, targets)
        assert ("loss_segmentation" in losses) == (config.detector.segmentation is not None)
        assert all(loss.isfinite() for loss in losses.values())
        detector.zero_grad()
        sum(losses.values()).backward()
        trained = {n: p for n, p in detector.named_parameters() if p.requires_grad}
        without = [n for n, p in trained.items() if p.grad is None or not p.grad.isfinite().all()]
        assert trained and not without, without
        frozen = [p for p in detector.parameters() if not p.requires_grad]
        assert all(p.grad is None for p in frozen)
    with torch.no_grad():
        found = detector.eval()(images)
    assert all(len(f["boxes"]) <= 10 and f["boxes"].isfinite().all() for f in found)


@pytest.mark.parametrize("name", shipped_configs())
def test_the_docstring_has_a_short_first_line_and_the_command(name):
    text = ast.get_docstring(ast.parse(find_config(name).read_text()))
    assert len(text.splitlines()[0]) <= 110
    command = {"ablations": "ablate", "classifiers": "train_classifier"}.get(name.rpartition("/")[0], "train")
    assert re.search(rf"^    detection {command} {name.rpartition('/')[2]}\b", text, re.MULTILINE)


@pytest.mark.parametrize("name", FILES)
def test_a_base_has_no_base(name):
    for base in re.findall(r'base_config\("(\w+)"\)', FILES[name].read_text()):
        assert "base_config(" not in FILES[base].read_text()


def test_an_unknown_base_is_one_sentence():
    with pytest.raises(UserError, match="finetun: .*did you mean finetune"):
        base_config("finetun")


@pytest.mark.parametrize("name", ION)
def test_the_ion_configs_have_two_layers_of_four_sweeps(name):
    context = load_config(FILES[name]).detector.context
    assert context.func is SpatialRNN and "layers" not in context.keywords


@pytest.mark.parametrize("name", ["ion_vgg16_voc07", "ion_vgg16_coco"])
def test_vggs_layers_come_from_the_backbones_training(name):
    detector = load_config(FILES[name]).detector
    backbone, head = detector.backbone.keywords, detector.head.keywords
    assert head["weights"] == f"VGG16_Weights.{backbone['weights']}"
    assert head["hidden_channels"] == 4096 and detector.pool.keywords["out_channels"] == 512


@pytest.mark.parametrize(
    ("plain", "ion"),
    [("faster_rcnn_resnet50_fpn_coco", "ion_resnet50_fpn_coco"), ("finetune", "ion_lite0_finetune")],
)
def test_context_and_pool_are_the_only_difference(plain, ion):
    """Such a pair is an ablation: all else equal."""
    plain, ion = (load_config(FILES[name]) for name in (plain, ion))
    parts = {name: getattr(plain.detector, name) for name in ("context", "context_source", "pool")}
    same = dataclasses.replace(ion, detector=dataclasses.replace(ion.detector, **parts))
    assert to_plain(same) == to_plain(plain)
    assert to_plain(ion) != to_plain(plain)


def test_the_voc_config_takes_the_overrides_that_its_text_names():
    items = [
        "detector.inference.num_box_iterations=2",
        "detector.inference.voting_iou=0.85",
        "detector.inference.flip=true",
        "detector.head.nms_threshold=0.475",
        "detector.segmentation=detection.segmentation.SegmentationLoss",
        "data.masks=boxes",
    ]
    text = FILES["ion_vgg16_voc07"].read_text()
    assert all(item in text for item in items)
    voc, coco = override(load_config(FILES["ion_vgg16_voc07"]), items), load_config(FILES["ion_vgg16_coco"])
    assert voc.detector.inference == coco.detector.inference
    assert voc.detector.head.keywords == coco.detector.head.keywords


def test_a_path_that_does_not_exist_names_the_nearest_file(tmp_path):
    (tmp_path / "mine.py").touch()
    for name, near in (("mime.py", tmp_path / "mine.py"), ("fintune.py", "finetune")):
        with pytest.raises(UserError, match=f"{name}: no such file, and no shipped config .* did you mean {near}"):
            find_config(tmp_path / name if name == "mime.py" else name)
    with pytest.raises(UserError, match=r"\.\./no.py: no such file"):
        find_config("../no.py")
    for name in (".", "/", "..", ""):
        with pytest.raises(UserError, match="no such file, and no shipped config of this name; `detection configs`"):
            find_config(name)
