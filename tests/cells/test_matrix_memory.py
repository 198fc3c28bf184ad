"""The cells of xLSTM: equal to their sums without a scale, and finite whatever their gates are."""

import pytest
import torch

from detection.cells import MLSTM, SLSTM
from detection.ops.sweep.dispatch import sweep

LENGTH, SIZE = 12, 4


def drawn(cell, spread=1.0):
    torch.manual_seed(0)
    made = cell(SIZE, num_heads=2).double()
    for parameter in made.parameters():
        parameter.data.normal_(std=0.5)
    return made, spread * torch.randn(2, made.projection_channels, 1, LENGTH, dtype=torch.float64)


@pytest.mark.parametrize("backend", ["auto", "steps"])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_an_mlstm_equals_its_sums_without_a_scale_and_a_floor_of_1(backend, shift):
    cell, x = drawn(MLSTM)
    x[:, 4 * SIZE : 4 * SIZE + 2] += shift  # i: below the floor, about it, above it
    found = sweep([cell], x, None, ["right"], backend=backend)[:, :, 0]
    memory, total = torch.zeros(2, 2, 2, 2, dtype=x.dtype), torch.zeros(2, 2, 2, dtype=x.dtype)
    below = 0
    for t in range(LENGTH):
        q, k, v, o = x[:, : 4 * SIZE, 0, t].view(2, 4, 2, 2).unbind(1)  # (images, heads, 2)
        q, k = q + cell.bias_hh[:SIZE].view(2, 2), k + cell.bias_hh[SIZE : 2 * SIZE].view(2, 2)
        i, f = (x[:, 4 * SIZE :, 0, t] + cell.bias_hh[2 * SIZE :]).view(2, 2, 2).unbind(1)
        i, f = i.exp()[..., None], f.sigmoid()[..., None]
        k = k / 2**0.5
        memory, total = f[..., None] * memory + (i * v)[..., None] * k[..., None, :], f * total + i * k
        size = (total * q).sum(-1, keepdim=True).abs()
        below += (size < 1).sum().item()
        expected = o.sigmoid() * (memory @ q[..., None])[..., 0] / size.clamp(min=1)
        torch.testing.assert_close(found[..., t], expected.flatten(1), rtol=1e-10, atol=1e-10)
    assert 0 < below < 4 * LENGTH if shift == 0 else below > 2 * LENGTH if shift < 0 else below < 2 * LENGTH


def test_an_slstm_equals_its_sums_without_a_scale():
    cell, x = drawn(SLSTM)
    found = sweep([cell], x, None, ["right"])[:, :, 0]
    h, c, n = (torch.zeros(2, SIZE, dtype=x.dtype) for _ in range(3))
    u = torch.stack([torch.block_diag(*gate) for gate in cell.weight_hh.view(4, 2, 2, 2)])
    for t in range(LENGTH):
        i, f, z, o = (
            x[:, :, 0, t].view(2, 4, SIZE) + torch.einsum("gij,nj->ngi", u, h) + cell.bias_hh.view(4, -1)
        ).unbind(1)
        c, n = f.sigmoid() * c + i.exp() * z.tanh(), f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        torch.testing.assert_close(found[..., t], h, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", [MLSTM, SLSTM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["auto", "steps"])
@pytest.mark.parametrize(("size", "piece"), [(200, 64), (200, 5), (50, 5)])
def test_extreme_gates_give_finite_values_and_gradients(cell, dtype, backend, size, piece, monkeypatch):
    """Gates of ±200, whose exponentials float32 does not have, in every order of a line."""
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", piece)
    made = cell(SIZE, num_heads=2).to(dtype)
    torch.manual_seed(0)
    x = torch.randn(64, made.projection_channels, 1, LENGTH, dtype=dtype)
    signs = torch.randint(-1, 2, (64, *x.shape[1:])).to(dtype)
    gates = slice(4 * SIZE, None) if cell is MLSTM else slice(0, 2 * SIZE)
    x[:, gates] = size * signs[:, gates]
    x.requires_grad_()
    valid = torch.rand(64, 1, 1, LENGTH) > 0.2
    y = sweep([made, made], x, valid, ["right", "left"], backend=backend)
    gradients = torch.autograd.grad(y, [x, *made.parameters()], torch.randn_like(y))
    assert y.isfinite().all() and all(g.isfinite().all() for g in gradients)
    assert y.abs().max() > 0.1
