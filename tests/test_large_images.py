"""Large images are resized to the bit as torchvision resizes them, in a fraction of the memory."""

import subprocess
import sys

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detection.large_images import LARGE, any_large, resized_batch


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_equal_to_torchvision(kind):
    transform = GeneralizedRCNNTransform(80, 133, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).eval()
    draw = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, *size), dtype=torch.uint8, generator=draw) for size in ((301, 400), (90, 77))]
    floats = [image / 255 for image in images]
    expected, _ = transform(floats)
    found = resized_batch(transform, images if kind == torch.uint8 else floats)
    assert torch.equal(found.tensors, expected.tensors) and found.image_sizes == expected.image_sizes


def test_what_is_large():
    assert any_large([torch.empty(3, 1, 1), torch.empty(3, LARGE, 1, device="meta")])
    assert not any_large([torch.empty(3, LARGE - 1, 1, device="meta")])


def test_a_detector_needs_little_memory_for_photographs():
    """Each of 4000x3000 pixels takes 144 MB as floats; all of them would take 0.6 GB, several times over."""
    script = """
import resource, torch
from detection.detector import build_detector
from tests.tiny_runs import DETECTOR
detector = build_detector(DETECTOR, 2).eval()
photos = [torch.zeros(3, 3000, 4000, dtype=torch.uint8)] * 4
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.no_grad():
    detector(photos)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400  # MB
