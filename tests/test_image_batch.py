"""The batch of images is torchvision's to the bit, and so are its boxes."""

import pytest
import torch
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detection.image_batch import BatchTransform, inside_images, padded_images

STATISTICS = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
SIZES = {
    "equal": [(50, 70)] * 3,
    "multiples": [(64, 96)] * 2,
    "different": [(50, 70), (33, 64), (64, 31)],
    "one": [(50, 70)],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, None])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batches_are_torchvisions(sizes, dtype, skip, training):
    torch.manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    floats = [image.to(torch.float64 if dtype == torch.float64 else torch.float32) / 255 for image in images]
    given = images if dtype == torch.uint8 else floats
    if dtype is None:  # of both types
        given = [*images[:1], *floats[1:]]
    targets = [{"boxes": torch.rand(i, 4) * 30, "labels": torch.ones(i)} for i in range(len(sizes))]
    ours, theirs = (
        kind(40, 60, *STATISTICS, _skip_resize=skip).train(training)
        for kind in (BatchTransform, GeneralizedRCNNTransform)
    )
    kept = [image.clone() for image in given]
    expected, expected_targets = theirs(floats, targets)
    batch, found = ours(given, targets, floats[0].dtype)
    assert torch.equal(batch.tensors, expected.tensors) and batch.image_sizes == expected.image_sizes
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(found, expected_targets, strict=True))
    assert found[0] is not targets[0] and all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))
    detections = [{"boxes": t["boxes"] * 3} for t in found]
    again = theirs.postprocess([dict(d) for d in detections], expected.image_sizes, sizes)
    own = ours.postprocess(detections, batch.image_sizes, sizes)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(own, again, strict=True))


def test_crowd_regions_follow_their_image():
    images = [torch.rand(3, 20, 40), torch.rand(3, 30, 30)]
    box = torch.tensor([[1.0, 2, 9, 9]])
    targets = [{"boxes": box}, {"boxes": box, "ignored": torch.cat([box, box])}]
    _, found = BatchTransform(40, 80, *STATISTICS)(images, targets)
    assert "ignored" not in found[0] and torch.equal(found[1]["ignored"], found[1]["boxes"].expand(2, -1))
    assert found[0]["boxes"].tolist() == [[2, 4, 18, 18]]


def test_gradients_reach_the_images():
    images = [torch.rand(3, 33, 40, requires_grad=True), torch.rand(3, 40, 20, requires_grad=True)]
    transform = BatchTransform(40, 80, [0.0] * 3, [0.5] * 3, _skip_resize=True)
    transform(images)[0].tensors.sum().backward()
    assert all((image.grad == 2).all() for image in images)


def test_weights_in_half_precision_do_not_round_the_statistics():
    transform = nn.ModuleList([BatchTransform(40, 80, *STATISTICS)]).half()[0]
    image = [torch.rand(3, 40, 40)]
    assert torch.equal(transform(image)[0].tensors, BatchTransform(40, 80, *STATISTICS)(image)[0].tensors)


def test_padded_images_and_what_is_inside():
    maps = [torch.ones(2, 3, dtype=torch.uint8), torch.full((4, 1), 2, dtype=torch.uint8)]
    batch = padded_images(maps, (4, 3), fill=9)
    assert batch.tolist() == [[[1, 1, 1], [1, 1, 1], [9, 9, 9], [9, 9, 9]], [[2, 9, 9]] * 4]
    inside = inside_images([(2, 3), (4, 1)], 4, 3, torch.device("cpu"))
    assert torch.equal(inside, batch != 9)
    assert inside_images([(9, 16)], 3, 3, torch.device("cpu"), stride=8)[0].int().tolist() == [[1, 1, 0]] * 2 + [
        [0] * 3
    ]
