"""Norms over valid locations against PyTorch's on maps without padding, in one process and in two."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detection.context.masked_norms import MaskedBatchNorm, MaskedGroupNorm

K = 8


def a_batch(*sizes, height=5, width=6):
    x = torch.randn(len(sizes), K, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.zeros(len(sizes), 1, height, width, dtype=torch.bool)
    for mask, (h, w) in zip(valid, sizes, strict=True):
        mask[:, :h, :w] = True
    return x, valid


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_masked_norms_by_cutting_the_padding_off(kind):
    """The same values in a map without padding, gradients too; batch norm reads its locations as one long row."""
    x, valid = a_batch((3, 6), (5, 2))
    masked, plain = (
        (MaskedBatchNorm(K), nn.BatchNorm2d(K)) if kind == "batch" else (MaskedGroupNorm(4, K), nn.GroupNorm(4, K))
    )
    x.requires_grad_()
    y = masked.double()(x, valid)
    cut = [x[:1, :, :3, :6].flatten(2), x[1:, :, :5, :2].flatten(2)]
    found = [y[:1, :, :3, :6].flatten(2), y[1:, :, :5, :2].flatten(2)]
    if kind == "batch":
        cut, found = [torch.cat(cut, 2)], [torch.cat(found, 2)]
    for a, b in zip(cut, found, strict=True):
        expected = plain.double()(a[..., None])[..., 0]
        torch.testing.assert_close(b, expected)
        weights = torch.randn_like(expected)
        grads = [torch.autograd.grad((t * weights).sum(), x, retain_graph=True)[0] for t in (b, expected)]
        torch.testing.assert_close(*grads)
    if kind == "batch":
        assert all(torch.allclose(a, b) for a, b in zip(masked.buffers(), plain.buffers(), strict=True))


@pytest.mark.parametrize("norm", [MaskedBatchNorm(1), MaskedGroupNorm(1, 1)], ids=["batch", "group"])
def test_sums_beyond_float16_are_finite(norm):
    """300 and 100 are a mean of 200 and a deviation of 100; their squares sum to 3 million in half precision."""
    x, valid = torch.tensor([300.0, 100.0]).repeat(150).view(1, 1, 1, 300), torch.ones(1, 1, 1, 300, dtype=torch.bool)
    expected = torch.tensor([1.0, -1.0]).repeat(150).view_as(x)
    torch.testing.assert_close(norm(x.half(), valid).float(), expected, rtol=0, atol=1e-2)


def test_a_batch_without_a_valid_location_changes_no_statistics():
    x, valid = a_batch((0, 0))
    norm = MaskedBatchNorm(K).double()
    before = [t.clone() for t in norm.buffers()]
    assert norm(x, valid).isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))


def test_without_a_momentum_statistics_are_the_mean_over_batches():
    ours, theirs = MaskedBatchNorm(K).double(), nn.BatchNorm2d(K, momentum=None).double()
    ours.norm.momentum = None
    for shift in range(3):
        x, valid = a_batch((5, 6), (5, 6))
        torch.testing.assert_close(ours(x + shift, valid), theirs(x + shift))
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b)


SIZES = [(3, 6), (5, 2), (4, 4)]


def outcome(norm, x, valid, process=None):
    """Output, gradients and statistics of one update; of two processes the second has all images but the first."""
    part = slice(None) if process is None else slice(0, 1) if process == 0 else slice(1, None)
    weights = torch.arange(x.numel(), dtype=x.dtype).view_as(x).sin()
    x = x.requires_grad_()
    y = norm(x[part], valid[part])
    gradients = torch.autograd.grad((y * weights[part]).sum(), [x, *norm.parameters()])
    evaluated = norm.eval()(x[part], valid[part])
    return {"y": y, "evaluated": evaluated, "gradients": gradients, "buffers": list(norm.buffers())}


def in_a_process(rank, folder):
    """What each of two processes computes."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=int(rank), world_size=2)
    norm = nn.SyncBatchNorm.convert_sync_batchnorm(MaskedBatchNorm(K).double())
    torch.save(outcome(norm, *a_batch(*SIZES), process=int(rank)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_a_converted_batch_norm_has_the_statistics_of_all_processes(tmp_path):
    program = f"import sys; from {__name__} import in_a_process; in_a_process(*sys.argv[1:])"
    command, root = [sys.executable, "-c", program], Path(__file__).parents[2]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=root) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    expected = outcome(MaskedBatchNorm(K).double(), *a_batch(*SIZES))
    for key in ("y", "evaluated"):
        torch.testing.assert_close(torch.cat([first[key], second[key]]), expected[key])
    for a, b, both in zip(first["gradients"], second["gradients"], expected["gradients"], strict=True):
        torch.testing.assert_close(a + b, both)
    for a, b, both in zip(first["buffers"], second["buffers"], expected["buffers"], strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, both)


def test_a_converted_batch_norm_is_the_same_in_one_process():
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(MaskedBatchNorm(K).double())
    found, expected = (outcome(norm, *a_batch(*SIZES)) for norm in (converted, MaskedBatchNorm(K).double()))
    assert isinstance(converted.norm, nn.SyncBatchNorm) and torch.equal(found["y"], expected["y"])
