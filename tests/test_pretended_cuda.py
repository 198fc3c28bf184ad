"""Every part and config as on CUDA: nothing mixes devices, and a training step waits for the device where it must."""

import dataclasses
import json
from collections import Counter
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch

from detection.analysis.attention import attention_over_pixels
from detection.analysis.explain import explain_detections
from detection.backbones import RCNN
from detection.classification import Classifier, ImageAugmentation
from detection.classification.data import Batches, Images
from detection.config import Config, from_plain, load_config, to_plain
from detection.context import AttentionLSTM, SpatialRNN
from detection.data.sampling import TrainBatches
from detection.detector import build_detector
from detection.inference import InferenceConfig
from detection.insertion import add_context, with_context
from detection.predictor import Predictor
from detection.testing import padded_batch
from detection.tiles import Tiles
from detection.training.device_batches import to_device
from detection.training.evaluate import evaluate_run
from detection.training.loaders import build_accelerator
from detection.training.optim import WeightAverage
from detection.training.run import train
from tests.config.test_shipped_configs import FILES, NUM_CLASSES, make_batch, shrunk
from tests.context.test_contract import CONTEXTS
from tests.heads.test_contract import HEADS, batch, without_boxes
from tests.pretended_cuda import CUDA, Pretended, PretendedCuda, tensors_in
from tests.tiny_runs import DETECTOR, tiny_config

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: pytest -m gpu")

KERNELS = ("ops.sweep.triton_scan", "ops.sweep.triton_selective_scan", "ops.triton_line_propagation")
KERNELS += ("ops.grid.triton_linear",)
NEEDED = {"ops/nms.py", "ops/sampling.py", "ops/roi_align.py"}
"""Where a training step waits: for the number of boxes that NMS keeps, of those sampled, of those of each level."""

ONCE = {"regions/rpn.py", "heads/hungarian.py"}
"""Where only the first step on a device does: for anchors and the table of permutations."""

LARGE = ("vgg16", "resnet50", "googlenet")


def require_cuda(*arguments, **settings):
    assert all(isinstance(tensor, Pretended) for tensor in tensors_in((arguments, settings)))


@pytest.fixture
def cuda():
    """Results of Triton's kernels are not computed."""
    with ExitStack() as stack:
        for module in KERNELS if find_spec("triton") else ():
            stack.enter_context(patch(f"detection.{module}._launch", require_cuda))
        yield stack.enter_context(PretendedCuda())


def built(config):
    torch.manual_seed(0)
    detector = build_detector(config, NUM_CLASSES, resize_in_training=False).to("cuda")
    detector._values_checked = True  # inputs are checked once, with waits
    return detector


def step(cuda, detector, images, targets):
    """Train a step; returns the number of its waits by file, without those of a first step."""
    images, targets = to_device(images, targets, CUDA)
    cuda.waits.clear()
    losses = detector.train()(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or p.grad.is_cuda for p in detector.parameters())
    waits = Counter()
    for wait, count in cuda.waits.items():
        waits[wait.rpartition(" ")[2].partition(":")[0]] += count
    return Counter({file: count for file, count in waits.items() if file not in ONCE})


@torch.no_grad()
def detected(detector, images):
    found = detector.eval()([image.to(CUDA) for image in images])
    assert all(tensor.is_cuda for tensor in tensors_in(found))
    return found


def test_mixtures_raise_as_on_a_gpu(cuda):
    here, there = torch.arange(3.0), torch.arange(3.0).cuda()
    assert there.is_cuda and torch.zeros(2, device="cuda").is_cuda and torch.tensor([1], device=there.device).is_cuda
    assert there.new_tensor(1.0).is_cuda and there.new_zeros(2).is_cuda and not there.cpu().is_cuda
    for mix in (
        lambda: there + here,
        lambda: torch.cat([here, there]),
        lambda: there @ here,
        lambda: here[there.long()],
        lambda: there.gather(0, here.long()),
        lambda: torch.nn.Linear(3, 2)(there),
        lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
        lambda: there.add_(here),
    ):
        with pytest.raises(RuntimeError):
            mix()
    assert ((there + torch.tensor(1.0))[here.long()] == here.cuda() + 1).all()


def test_waits_are_counted_by_their_place(cuda):
    there = torch.arange(3.0).cuda()
    for wait in (
        there.tolist,
        there[0].item,
        there.nonzero,
        lambda: there[there > 1],
        lambda: bool(there.sum() > 0),
        lambda: torch.tensor([1], device="cuda"),
    ):
        cuda.waits.clear()
        wait()
        assert cuda.waits.total() == 1
    cuda.waits.clear()
    torch.where(there > 1, there, 0).cumsum(0)[torch.tensor([1]).to("cuda", non_blocking=True)]
    assert not cuda.waits
    assert step(cuda, built(DETECTOR), *batch()) == {"ops/nms.py": 1, "ops/sampling.py": 1}


@pytest.mark.parametrize("name", CONTEXTS)
def test_contexts_wait_for_nothing(cuda, name):
    context = CONTEXTS[name](6).to("cuda")
    x, valid = padded_batch(6, ((2, 3), (3, 1)), 3, 3)
    x, valid = x.detach().to("cuda").requires_grad_(), valid.to("cuda")
    cuda.waits.clear()
    with torch.autocast("cuda", torch.bfloat16):
        context(x, valid).float().square().sum().backward()
    assert not cuda.waits and x.grad.is_cuda and all(p.grad.is_cuda for p in context.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_heads(cuda, name):
    detector, (images, targets) = built(dataclasses.replace(DETECTOR, **HEADS[name])), batch()
    regions = torch.tensor([[0.0, 0, 30, 40], [5, 5, 9, 9]])
    crowd = [{**target, "ignored": regions[: 2 - i]} for i, target in enumerate(targets)]
    for given in (targets, [without_boxes(targets[0]), targets[1]], [without_boxes(t) for t in targets], crowd):
        waits = step(cuda, detector, images, given)
        assert set(waits) <= NEEDED and waits.total() <= 4
    detected(detector, images)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if any(part in name for part in LARGE) else ()) for name in FILES],
)
def test_configs(cuda, name):
    config = from_plain(json.loads(json.dumps(shrunk(to_plain(load_config(FILES[name]))))), Config).detector
    images, targets = make_batch(config.segmentation is not None)
    detector = built(config)
    waits = step(cuda, detector, images, targets)
    assert set(waits) <= NEEDED and waits.total() <= 5
    detected(detector, images)


@pytest.mark.parametrize("precision", [pytest.param("no", marks=pytest.mark.slow), "fp16"])
@pytest.mark.usefixtures("blank_plots")
def test_a_run_and_its_use(cuda, shapes, tmp_path, precision):
    settings = ("schedule.epochs=1", "ema=0.9", "optimizer.clip_norm=1", "validation_loss=true", "optimizer.kind=adamw")
    config = tiny_config(shapes, f"precision={precision}", *settings)
    train(config, tmp_path / "run", build_accelerator(precision, "cuda"))
    evaluate_run(tmp_path / "run", output=tmp_path / "again", device="cuda")
    predictor = Predictor(tmp_path / "run", "cuda", 0.0)
    found = predictor(torch.rand(3, 64, 80), tiles=Tiles(48))
    assert len(found) and not found.boxes.is_cuda
    image = torch.rand(3, 64, 80).to("cuda")
    assert not explain_detections(predictor.detector, image, found.boxes[:2], found.labels[:2], patch=4).drops.is_cuda


def test_the_weight_average_waits_for_nothing(cuda):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.BatchNorm2d(2)).to("cuda")
    average = WeightAverage(module, 0.9)
    cuda.waits.clear()
    average.update_parameters(module)
    assert not cuda.waits and all(tensor.is_cuda for tensor in average.module.state_dict().values())


def test_a_classifier_waits_for_nothing(cuda):
    images = Images(torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), torch.arange(8) % 2, ("a", "b"))
    classifier = Classifier(2, partial(RCNN, channels=(4, 4), first_stride=1, num_steps=1))
    classifier.set_statistics(images.pixels)
    classifier.to("cuda")
    order = TrainBatches(8, 4, seed=0)
    batches = Batches(images.to(CUDA), order, ImageAugmentation(shift=1, flip=True), 6)
    cuda.waits.clear()
    for given in batches:
        classifier(*given)["loss_class"].backward()
    assert not cuda.waits


def test_box_iterations_and_mirrored_images(cuda):
    inference = InferenceConfig(num_box_iterations=2, voting_iou=0.5, flip=True)
    detected(built(dataclasses.replace(DETECTOR, inference=inference)), batch()[0])


def test_an_added_context_and_attention(cuda):
    detector = add_context(built(DETECTOR), partial(SpatialRNN, hidden_channels=8), "c3")
    assert set(step(cuda, detector, *batch())) <= NEEDED
    config = with_context(DETECTOR, partial(AttentionLSTM, hidden_channels=8), "c3")
    (weights,) = attention_over_pixels(built(config).eval(), [batch()[0][0].to("cuda")])
    assert not weights.is_cuda


def test_large_images(cuda, monkeypatch):
    monkeypatch.setattr("detection.large_images.LARGE", 1000)
    detected(built(DETECTOR), batch()[0])
