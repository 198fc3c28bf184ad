"""The Triton kernels equal the CPU operations, forward and backward, in the interpreter where there is no GPU."""

import pytest

from tests.ops.interpreted import prints_equal

pytest.importorskip("triton")

# Triton reads its switch when it is imported, so the interpreter has a process of its own.
PROGRAM = """
import sys

import torch

from detection.ops.sweep import triton_scan
from detection.ops.sweep.accumulate import accumulate, accumulate_backward
from detection.ops.sweep.linear_scan import linear_scan, linear_scan_backward


def same(found, expected, dtype):
    tolerance = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 5e-2}
    torch.testing.assert_close(found, expected, **tolerance)
    assert found.stride() == expected.stride()


def drawn(shape, directions, dtype, masked):
    torch.manual_seed(0)
    b, c, h, w = shape
    k = len(directions.split())
    valid = torch.rand(b, 1, h, w) > 0.3 if masked else None
    return k, valid, torch.randn(shape).to(dtype), torch.randn(b, k * c, h, w).to(dtype)


def compare_sums(shape, directions, dtype, weighted, masked):
    k, valid, x, grad = drawn(shape, directions, dtype, masked)
    weight = torch.rand(k, shape[1]) + 0.5 if weighted else None
    out = accumulate(x, weight, valid, directions)
    same(triton_scan.launch_accumulate(x, weight, valid, directions), out, dtype)
    found = triton_scan.launch_accumulate_backward(grad, out, weight, directions)
    for a, e in zip(found, accumulate_backward(grad, out, weight, directions), strict=True):
        same(a, e, dtype)


def compare_scans(shape, directions, dtype, masked):
    _, valid, _, grad = drawn(shape, directions, dtype, masked)
    a, new = torch.rand(grad.shape).to(dtype), torch.randn(grad.shape).to(dtype)
    out = linear_scan(a, new, valid, directions)
    same(triton_scan.launch_linear_scan(a, new, valid, directions), out, dtype)
    found = triton_scan.launch_linear_scan_backward(grad, out, a, valid, directions)
    for f, e in zip(found, linear_scan_backward(grad, out, a, valid, directions), strict=True):
        same(f, e, dtype)


def compare(shape, directions, dtype, weighted, masked):
    compare_sums(shape, directions, dtype, weighted, masked)
    compare_scans(shape, directions, dtype, masked)


def count_launches(weighted):
    # Through autograd, as on CUDA.
    sums, scans = (sys.modules[f"detection.ops.sweep.{name}"] for name in ("accumulate", "linear_scan"))
    launched = []
    launch, use_triton = triton_scan._launch, sums.use_triton
    triton_scan._launch = lambda kernel, *a, **k: (launched.append(kernel.fn.__name__), launch(kernel, *a, **k))
    sums.use_triton = scans.use_triton = lambda x: True
    x = torch.randn(2, 3, 3, 4, requires_grad=True)
    a = torch.rand(2, 12, 3, 4, requires_grad=True)
    weight = torch.rand(4, 3, requires_grad=True) if weighted else None
    for run in (lambda: accumulate(x, weight, None, "right left down up"),
                lambda: linear_scan(a, a, None, "right left down up")):
        launched.clear()
        y = run()
        assert len(launched) == 1, launched
        y.sum().backward()
        assert len(launched) == 2 and launched[1] == launched[0] + "_backward", launched
    triton_scan._launch = launch
    sums.use_triton = scans.use_triton = use_triton


for weighted in (False, True):
    count_launches(weighted)
compare((2, 3, 3, 4), "right left down up", torch.float32, True, True)
compare((2, 3, 3, 4), "up right down left", torch.bfloat16, True, False)
# Of more than 64 lines, which the gradient of the sums takes in tiles.
compare_sums((1, 17, 2, 70), "left down", torch.float32, True, True)
compare_sums((1, 4, 66, 2), "down left up", torch.float16, False, True)
compare((1, 130, 1, 3), "up left", torch.float32, False, False)
compare((1, 5, 3, 1), "down right", torch.float16, False, True)
print("equal")
"""


def test_interpreted_kernels_equal_the_cpus():
    assert prints_equal(PROGRAM)
