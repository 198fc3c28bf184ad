"""The kernels of line propagation equal the CPU's operation in Triton's interpreter."""

import pytest

from tests.ops.interpreted import prints_equal

pytest.importorskip("triton")

# Triton reads its switch when it is imported, so the interpreter has a process of its own.
PROGRAM = """
import torch

from detection.ops import line_propagation as ours
from detection.ops import triton_line_propagation as kernels


def same(found, expected, dtype):
    tolerance = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 5e-2}
    torch.testing.assert_close(found, expected, **tolerance)


def compare(shape, groups, directions, dtype=torch.float32, masked=True, strided=False):
    torch.manual_seed(0)
    b, d, h, w = shape
    names = directions.split()
    valid = torch.rand(b, 1, h, w) > 0.3 if masked else None
    weight = ours.neighbor_weights(torch.randn(b, len(names) * groups * 3, h, w), valid, names)
    x = (torch.randn(b, d, h, w) * (1 if valid is None else valid)).to(dtype)
    grad = torch.randn(b, len(names) * d, h, w).to(dtype)
    if strided:
        x, grad = x.mT.contiguous().mT, grad.repeat_interleave(2, 3)[..., ::2]
    out = ours.line_propagation(x, weight, directions)
    found = kernels.launch_line_propagation(x, weight, directions)
    same(found, out, dtype)
    assert found.stride() == out.stride()
    expected = ours.line_propagation_backward(grad, out, weight, directions)
    for a, e in zip(kernels.launch_line_propagation_backward(grad, out, weight, directions), expected, strict=True):
        same(a, e, dtype)


def count_launches():
    # Through autograd, as on CUDA.
    launched = []
    launch, ours.use_triton = kernels._launch, lambda x: True
    kernels._launch = lambda kernel, *a: (launched.append(kernel.fn.__name__), launch(kernel, *a))
    x = torch.randn(2, 4, 3, 4, requires_grad=True)
    weight = torch.rand(2, 12, 3, 4, requires_grad=True)
    ours.line_propagation(x, weight, "right left down up").sum().backward()
    assert launched == ["_propagate", "_propagate_backward"], launched


compare((2, 4, 3, 5), 1, "right left down up")
compare((2, 6, 4, 3), 2, "up right", strided=True)
compare((1, 5, 3, 4), 5, "left down", masked=False)
compare((1, 18, 2, 3), 1, "left up", torch.bfloat16)
compare((1, 4, 1, 4), 2, "right up", torch.float16)
compare((1, 3, 4, 1), 1, "left down")
# Lines of more than one tile.
compare((1, 2, 2, 66), 1, "down", masked=False)
count_launches()
print("equal")
"""


def test_interpreted_kernels_equal_the_cpus():
    assert prints_equal(PROGRAM)
