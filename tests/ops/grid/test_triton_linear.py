"""The kernel of the linear two-dimensional recurrence equals the CPU's operation in Triton's interpreter."""

import pytest

from tests.ops.interpreted import prints_equal

pytest.importorskip("triton")

# Triton reads its switch when it is imported, so the interpreter has a process of its own.
PROGRAM = """
import torch

from detection.ops.grid import linear as ours
from detection.ops.grid import triton_linear as kernels


def forward_and_backward(value, gates, valid, corners, grad):
    out = torch.ops.detection.grid_linear(value, gates, valid, corners)
    return out, *torch.ops.detection.grid_linear_backward(grad, value, gates, valid, corners)


def compare(shape, heads, corners, dtype=torch.float32, masked=True, strided=False):
    torch.manual_seed(0)
    b, d, h, w = shape
    num = len(corners.split())
    valid = torch.rand(b, 1, h, w) > 0.3 if masked else None
    gates = torch.randn(b, num * heads * 9, h, w)
    value, grad = torch.randn(b, d, h, w).to(dtype), torch.randn(b, num * d, h, w).to(dtype)
    if strided:
        value, grad = value.mT.contiguous().mT, grad.repeat_interleave(2, 3)[..., ::2]
        gates = gates.repeat_interleave(2, 1)[:, ::2]
        valid = valid.mT.contiguous().mT
    found = []
    for interpreted in (False, True):
        ours.use_triton = lambda x: interpreted
        found.append(forward_and_backward(value, gates, valid, corners, grad))
    tolerance = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 5e-2}
    for a, e in zip(*found, strict=True):
        assert a.is_contiguous(memory_format=torch.channels_last) and a.dtype == e.dtype
        torch.testing.assert_close(a, e, **tolerance)
        assert valid is None or not (a * ~valid).any()


def count_launches():
    # Through autograd, as on CUDA.
    launched = []
    launch, ours.use_triton = kernels._launch, lambda x: True
    kernels._launch = lambda *a, **k: (launched.append(k), launch(*a, **k))
    value = torch.randn(2, 4, 3, 4, requires_grad=True)
    gates = torch.rand(2, 36, 3, 4, requires_grad=True)
    ours.grid_linear(value, gates, None, "top_left bottom_right").sum().backward()
    assert launched == [{}, {"keep": True}, {"back": True}], launched


every = "top_left top_right bottom_left bottom_right"
compare((2, 2, 2, 3), 1, every)
compare((2, 4, 3, 2), 2, "bottom_left top_right", strided=True)
compare((1, 3, 3, 4), 3, "top_right", masked=False)
compare((1, 18, 2, 2), 1, "bottom_right top_left", torch.bfloat16)
compare((1, 4, 1, 3), 1, "top_right bottom_left", torch.float16)
compare((1, 3, 4, 1), 1, "bottom_left top_left")
compare((1, 2, 1, 1), 1, "bottom_right")
# Diagonals of more than one tile, whose last is not full.
kernels.MAX_LINES = 2
compare((1, 2, 4, 3), 1, every)
count_launches()
print("equal")
"""


def test_interpreted_kernels_equal_the_cpus():
    assert prints_equal(PROGRAM)
