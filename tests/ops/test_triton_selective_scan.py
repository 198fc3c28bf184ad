"""The Triton kernels of the selective scan equal the CPU operation, in the interpreter where there is no GPU."""

import pytest

from tests.ops.interpreted import prints_equal

pytest.importorskip("triton")

# Triton reads its switch when it is imported, so the interpreter has a process of its own.
PROGRAM = """
import sys

import torch

from detection.ops.sweep import triton_selective_scan as kernels
from detection.ops.sweep.selective_scan import selective_scan, selective_scan_backward

operation = sys.modules["detection.ops.sweep.selective_scan"]


def compare(shape, size, states, masked, reverse, columns):
    torch.manual_seed(0)
    b, count, length = shape
    lines = torch.randn(b, count, length, 2 * size + 2 * states)
    if columns:
        lines = lines.transpose(1, 2).contiguous().transpose(1, 2)
    inside = torch.rand(shape) > 0.3 if masked else None
    lines = lines if inside is None else lines.where(inside[..., None], 0)
    vectors = -torch.rand(size, states) - 0.01, torch.randn(size + 2 * states), torch.randn(size)
    grad = torch.randn(*shape, size)
    arguments = lines, *vectors, inside, reverse
    torch.testing.assert_close(kernels.launch_selective_scan(*arguments), selective_scan(*arguments))
    found = kernels.launch_selective_scan_backward(grad, *arguments)
    for a, e in zip(found, selective_scan_backward(grad, *arguments), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
        assert a.stride() == e.stride()


def count_launches():
    # Through autograd, as on CUDA.
    launched = []
    launch = kernels._launch
    kernels._launch = lambda kernel, *a: (launched.append(kernel.fn.__name__), launch(kernel, *a))
    operation.use_triton = lambda x: True
    lines = torch.randn(2, 2, 3, 8, requires_grad=True)
    selective_scan(lines, -torch.ones(3, 1), torch.zeros(5), torch.ones(3), None, True).sum().backward()
    assert launched == ["_forward", "_backward"], launched
    long = torch.randn(1, 1, kernels.MAX_STEPS + 1, 4)
    selective_scan(long, -torch.ones(1, 1), torch.zeros(3), torch.ones(1), None, False)
    assert len(launched) == 2  # a line too long for a tile is scanned by PyTorch's operations
    kernels._launch = launch


compare((2, 3, 4), 5, 2, True, False, False)
compare((2, 2, 5), 3, 3, True, True, True)
# Two blocks of channels, the second with one.
compare((1, 2, 7), 33, 1, False, True, True)
compare((1, 1, 1), 1, 1, True, False, False)
compare((1, 1, 9), 2, 2, False, False, False)
count_launches()
print("equal")
"""


def test_interpreted_kernels_equal_the_cpus():
    assert prints_equal(PROGRAM)
