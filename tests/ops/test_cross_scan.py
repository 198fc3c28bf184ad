"""Cross-scans against a loop over locations that skips those outside; by hand; alone and in a batch; exported."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from detection.cells import MLSTM, RGLRU, S6, SSD, MinGRU, MinLSTM
from detection.export.onnx_file import write_onnx
from detection.ops.cross_scan import cross_scan, route_scan
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.traced import lines_of_any_length
from tests.ops.sweeps import LINEAR, SIZE, corner, draw, holes, make

ALL = " ".join(DIRECTIONS)
CELLS = [*LINEAR, partial(MinLSTM, bias=False), partial(RGLRU, learned_initial_state=True), S6, SSD, MLSTM]
every_cell = pytest.mark.parametrize(
    "cell", CELLS, ids=lambda cell: getattr(cell, "__name__", "") or str(cell.keywords)
)


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """Routes of SSD and the mLSTM are several pieces, the last of which is shorter than the others."""
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 5)


def order(route, height, width):
    places = [(i, j) for i in range(height) for j in range(width)]
    places = places if route in ("right", "left") else sorted(places, key=lambda place: place[::-1])
    return places[::-1] if route in ("left", "up") else places


def naive(cells, x, valid, routes=DIRECTIONS):
    """One location of one image after the other; those outside are left out."""
    b, _, h, w = x.shape
    outputs = []
    for cell, route in zip(cells, routes, strict=True):
        out = [[torch.zeros(b, SIZE, dtype=x.dtype) for _ in range(w)] for _ in range(h)]
        for image in range(b):
            state = None
            for i, j in order(route, h, w):
                if valid[image, 0, i, j]:
                    x_ij = x[image : image + 1, :, i, j]
                    state = cell.step(x_ij, cell.initial_state(x_ij) if state is None else state)
                    chosen = torch.arange(b)[:, None] == image
                    out[i][j] = torch.where(chosen, state[0], out[i][j])
        outputs.append(torch.stack([torch.stack(row, -1) for row in out], -2))
    return torch.cat(outputs, 1)


@every_cell
@pytest.mark.parametrize("mask", [corner, holes], ids=["corner", "holes"])
def test_it_equals_a_loop_that_skips_what_is_outside(cell, mask):
    torch.manual_seed(0)
    cells, valid = make(cell), mask()
    x, grad = draw(cells)
    leaves = [x, *(p for c in cells for p in c.parameters())]
    found, expected = cross_scan(cells, x, valid), naive(cells, x, valid)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(*(torch.autograd.grad(y, leaves, grad) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@every_cell
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 4), (2, 4, 1)], ids=str)
def test_thin_maps_without_a_mask(cell, shape):
    torch.manual_seed(0)
    cells = make(cell)
    x, _ = draw(cells, shape)
    everything = torch.ones(shape[0], 1, *shape[1:], dtype=torch.bool)
    torch.testing.assert_close(cross_scan(cells, x, None), naive(cells, x, everything))


@every_cell
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)], ids=str)
def test_alone_is_as_in_a_batch(cell, dtype, tolerance):
    torch.manual_seed(0)
    cells = make(cell, dtype=dtype)
    x, _ = draw(cells, (2, 9, 11), dtype)
    valid = corner((2, 9, 11))
    h, w = int(valid[0].any(2).sum()), int(valid[0].any(1).sum())
    batched, alone = cross_scan(cells, x, valid), cross_scan(cells, x[:1, :, :h, :w], None)
    torch.testing.assert_close(batched[:1, :, :h, :w], alone, rtol=tolerance, atol=tolerance)
    other = torch.where(valid, x, torch.inf)
    assert torch.equal(cross_scan(cells, other, valid), batched)
    (gradient,) = torch.autograd.grad(batched.square().sum(), x)
    assert not gradient[~valid.expand_as(x)].any() and gradient.isfinite().all()


def test_by_hand():
    """a = 1/2 everywhere, the input is 1 at the first location: each step halves it, across the ends of lines."""
    b = torch.zeros(1, 4, 2, 3)
    b[:, :, 0, 0] = 1
    right, left, down, up = route_scan(torch.full_like(b, 0.5), b, ALL)[0]
    assert right.tolist() == [[1, 1 / 2, 1 / 4], [1 / 8, 1 / 16, 1 / 32]]
    assert down.tolist() == [[1, 1 / 4, 1 / 16], [1 / 2, 1 / 8, 1 / 32]]
    assert left.tolist() == up.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_only_the_first_location_of_a_route_takes_in_all():
    """The RG-LRU's √(1 − a²) is 1 there, and not at the beginnings of other lines."""
    torch.manual_seed(0)
    cells = make(RGLRU)
    x, _ = draw(cells)
    x = torch.zeros_like(x)
    x[:, 2 * SIZE :] = 1  # what is taken in
    right = cross_scan(cells, x, None)[0, :SIZE]
    a, b = cells[0].coefficients(x[0, :, 1, 0], None)
    torch.testing.assert_close(right[:, 1, 0], a * right[:, 0, -1] + b)


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 1, 3)], ids=str)
def test_a_route_as_one_line_as_on_an_accelerator_equals_its_lines(shape, monkeypatch):
    torch.manual_seed(0)
    cells = make(MinGRU)
    x, _ = draw(cells, shape)
    expected = cross_scan(cells, x, corner(shape))
    monkeypatch.setattr("detection.ops.cross_scan.use_triton", lambda x: True)
    torch.testing.assert_close(cross_scan(cells, x, corner(shape)), expected)


def test_layouts_types_and_no_images():
    torch.manual_seed(0)
    cells = make(MinGRU, dtype=torch.float32)
    x, _ = draw(cells, dtype=torch.float32)
    expected = cross_scan(cells, x, holes())
    assert expected.is_contiguous(memory_format=torch.channels_last)
    for other in (x.contiguous(memory_format=torch.channels_last), x.repeat_interleave(2, 3)[..., ::2]):
        torch.testing.assert_close(cross_scan(cells, other, holes()), expected)
    half = cross_scan(cells, x.bfloat16(), holes())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.05)
    assert cross_scan(cells, x[:0], None).shape == (0, 4 * SIZE, 3, 4)


def test_the_operation_is_what_pytorch_asks_of_one():
    torch.manual_seed(0)
    a, b = (torch.rand(2, 6, 3, 4, requires_grad=True) for _ in range(2))
    torch.library.opcheck(route_scan, (a, b, "left down"))


def test_gradcheck():
    torch.manual_seed(0)
    a, b = (torch.rand(1, 4, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: route_scan(a, b, ALL), (a, b))


def test_forward_mode_differentiation_is_refused():
    cells = make(MinGRU)
    x, _ = draw(cells)
    with pytest.raises(NotImplementedError, match="cross_scan: .* use reverse mode"):
        torch.func.jvp(lambda x: cross_scan(cells, x, None), (x.detach(),), (torch.ones_like(x),))


class Scan(nn.Module):
    def __init__(self, cell):
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.ModuleList(make(cell, dtype=torch.float32))

    def forward(self, x, valid):
        return cross_scan(list(self.cells), x, valid)


@pytest.mark.parametrize(
    "cell",
    [RGLRU, partial(MinLSTM, learned_initial_state=True), S6, SSD, MLSTM],
    ids=["rglru", "minlstm", "s6", "ssd", "mlstm"],
)
def test_an_exported_file_is_exact_at_any_size(cell, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    module, path = Scan(cell), tmp_path / "scan.onnx"
    axes = {name: {0: "batch", 2: "height", 3: "width"} for name in ("x", "valid")}
    with lines_of_any_length():
        write_onnx(module, inputs(module, (2, 3, 5)), ["h"], path, opset=17, dynamic=axes)
    session = onnxruntime.InferenceSession(path)
    for shape in ((2, 3, 5), (1, 6, 2), (3, 1, 4)):
        assert difference(session, module, shape) < 1e-5


def test_an_exported_file_of_one_size_has_its_pieces(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    module, path = Scan(MLSTM), tmp_path / "scan.onnx"
    write_onnx(module, inputs(module, (2, 2, 7)), ["h"], path, opset=17)
    assert difference(onnxruntime.InferenceSession(path), module, (2, 2, 7)) < 1e-5


def inputs(module, shape):
    return {"x": draw(module.cells, shape, torch.float32)[0].detach(), "valid": corner(shape)}


def difference(session, module, shape):
    own = inputs(module, shape)
    (found,) = session.run(None, {name: t.numpy() for name, t in own.items()})
    return np.abs(found - module(**own).detach().numpy()).max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_half_precision_are_float32(dtype):
    torch.manual_seed(0)
    cells = [MinGRU(3, bias=False) for _ in DIRECTIONS]
    x = torch.randn(2, 6, 5, 7).to(dtype)
    assert torch.equal(cross_scan(cells, x, None), cross_scan(cells, x.float(), None).to(dtype))
