"""The Triton kernels compile for an H100, as they are launched, where there is no GPU either."""

import pytest

from tests.ops.interpreted import prints_equal

triton = pytest.importorskip("triton")

PROGRAM = """
import re
import subprocess
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from detection.ops import triton_line_propagation
from detection.ops.grid import triton_linear
from detection.ops.sweep import triton_scan, triton_selective_scan


class H100:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


driver.set_active(H100())
run, compiled = jit.JITFunction.run, {}


def compile_only(self, *arguments, grid, warmup, **options):
    # The limits of a launch, in blocks.
    assert all(size <= most for size, most in zip(grid, (2**31 - 1, 65535, 65535)))
    kernel = run(self, *arguments, grid=grid, warmup=True, **options)
    compiled[id(kernel)] = kernel
    return kernel


jit.JITFunction.run = compile_only


def tensor(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def feature_map(b, c, h, w, dtype):
    return tensor(b, h, w, c, dtype=dtype).permute(0, 3, 1, 2)


def compile_all(b, c, h, w, dtype, groups=1):
    names, corners = "right left down up", "top_left top_right bottom_left bottom_right"
    x, wide, valid = feature_map(b, c, h, w, dtype), feature_map(b, 4 * c, h, w, dtype), tensor(b, 1, h, w).bool()
    for weight, mask in ((tensor(4, c), valid), (None, None)):
        triton_scan.launch_accumulate(x, weight, mask, names)
        triton_scan.launch_accumulate_backward(wide, wide, weight, names)
        triton_scan.launch_linear_scan(wide, wide, mask, names)
        triton_scan.launch_linear_scan_backward(wide, wide, wide, mask, names)
    weights = tensor(b, 12 * groups, h, w)
    triton_line_propagation.launch_line_propagation(x, weights, names)
    triton_line_propagation.launch_line_propagation_backward(wide, wide, weights, names)
    value, gates = tensor(b, h, w, c, dtype=dtype), tensor(b, h, w, 36 * groups)
    triton_linear.launch_grid_linear(value, gates, corners)
    triton_linear.launch_grid_linear_backward(tensor(b, h, w, 4 * c, dtype=dtype), value, gates, corners)


def compile_selective(lines, steps, size, states, reverse):
    arguments = (
        tensor(2, lines, steps, 2 * size + 2 * states), tensor(size, states), tensor(size + 2 * states), tensor(size),
        tensor(2, lines, steps).bool(), reverse,
    )
    triton_selective_scan.launch_selective_scan(*arguments)
    triton_selective_scan.launch_selective_scan_backward(tensor(2, lines, steps, size), *arguments)


def require_room(kernel):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spilled = int(re.search(r"STACK:([0-9]+)", text)[1])
    assert spilled <= 64 and kernel.metadata.shared <= 227 * 1024, (kernel.name, kernel.metadata, text)


for dtype in (torch.float32, torch.bfloat16, torch.float16):
    compile_all(4, 512, 38, 63, dtype)
compile_all(8, 128, 12, 12, torch.bfloat16, groups=8)
compile_all(1, 3, 1, 1, torch.float32)
compile_all(1, 2048, 3, 400, torch.bfloat16, groups=2048)
compile_selective(38, 63, 512, 16, False)
compile_selective(100, 152, 128, 16, True)
compile_selective(1, 1, 3, 1, False)
for kernel in compiled.values():
    require_room(kernel)
print("equal")
"""


@pytest.mark.slow
def test_kernels_compile_for_an_h100_without_spilling(tmp_path):
    try:
        assert triton.knobs.nvidia.ptxas.path and triton.knobs.nvidia.cuobjdump.path
    except RuntimeError as error:
        pytest.skip(f"Triton has no assembler here: {error}")
    assert prints_equal(PROGRAM, timeout=1800, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
