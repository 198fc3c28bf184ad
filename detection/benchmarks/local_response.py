"""Local response normalization of RCNN-96 against PyTorch's."""

import torch
from torch.nn.functional import local_response_norm

from detection.analysis.timing import Measurements, interleaved, settle_on
from detection.context.local_response_norm import LocalResponseNorm


def benchmark_local_response(device: str) -> Measurements:
    """Measure LRN of RCNN-96 on two 60x80 maps, forward and backward: ours and PyTorch's."""
    ours = LocalResponseNorm(96, 13).to(device)
    x = torch.rand(2, 96, 60, 80, device=device, requires_grad=True)

    def both_passes(norm) -> None:
        torch.autograd.grad(norm(x).sum(), x)

    functions = {
        "our LRN": lambda: both_passes(ours),
        "PyTorch's LRN": lambda: both_passes(lambda x: local_response_norm(x, 13, alpha=0.001, beta=0.75, k=1.0)),
    }
    return interleaved(functions, 15, settle_on(device))
