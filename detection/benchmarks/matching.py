"""Matching of 2400 regions with 5 steps at once against SciPy in a loop, and the LSTM decoder against its backbone."""

from collections.abc import Callable
from functools import partial

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detection.analysis.timing import Measurements, interleaved, settle_on
from detection.backbones import GoogLeNet
from detection.cells import TiedLSTM
from detection.contracts import PooledRegions
from detection.heads import SequenceHead
from detection.heads.box_codes import PixelOffsets
from detection.heads.costs import Lexicographic
from detection.heads.hungarian import match
from detection.heads.lstm_decoder import LSTMDecoder
from detection.heads.region_targets import RegionTargets

REGIONS, STEPS = 2400, 5  # a batch of 8 images of 640x480, a grid of 20x15 each


def benchmark_matching(device: str) -> Measurements:
    """Measure the matching where 30 % and where all of the regions have ground-truth boxes.

    Then the decoder, with its embedding, matching and loss, forward and backward, against GoogLeNet's forward and
    backward of the 8 images.
    """
    torch.manual_seed(0)
    measured: Measurements = {}
    for share in (0.3, 1.0):
        ours, loop, cost_of = matchings(device, share)
        # Some regions have two cheapest matchings: swapping two ground-truth boxes often keeps the L1 distances.
        torch.testing.assert_close(cost_of(ours()), cost_of(loop()))
        times = interleaved({"SciPy in a loop": loop, "ours": ours}, 15, settle_on(device))
        measured |= {f"{share:.0%} with ground-truth boxes, {name}": value for name, value in times.items()}
    return measured | decoder_against_backbone(device)


def matchings(
    device: str, share: float
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], Callable[[Tensor], Tensor]]:
    """Return both matchings of the same random regions, as functions, and the cost of a matching by region."""
    targets, boxes, codes, logits = random_regions(device, share)
    cost = Lexicographic().cost(boxes, codes, logits, targets)

    def loop():
        matched = torch.full((REGIONS, STEPS), -1, device=device)
        for region in range(REGIONS):
            valid = targets.valid[region]
            if valid.any():
                steps, columns = linear_sum_assignment(cost[region][:, valid].cpu().numpy())
                matched[region, steps] = valid.nonzero()[:, 0][torch.as_tensor(columns, device=device)]
        return matched

    def cost_of(matched):
        paid = cost.gather(2, matched.clamp(min=0)[:, :, None])[:, :, 0]
        return paid.where(matched >= 0, 0).sum(1)

    return lambda: match(cost, targets), loop, cost_of


def random_regions(device: str, share: float) -> tuple[RegionTargets, Tensor, Tensor, Tensor]:
    """Return targets, of which a `share` of the regions has one or more, and predicted boxes, codes and logits."""
    regions = torch.tensor([0.0, 0, 64, 64], device=device).expand(REGIONS, 4)
    codes = torch.randn(2, REGIONS, STEPS, 4, device=device) * 10 + torch.tensor([0.0, 0, 40, 60], device=device)
    boxes = PixelOffsets().decode(codes.flatten(0, 1), regions.repeat(2, 1)).unflatten(0, (2, REGIONS))
    counts = torch.randint(1, STEPS + 1, (REGIONS,), device=device) * (torch.rand(REGIONS, device=device) < share)
    valid = torch.arange(STEPS, device=device) < counts[:, None]
    labels = torch.ones(REGIONS, STEPS, dtype=torch.long, device=device)
    logits = torch.randn(REGIONS, STEPS, 2, device=device)
    return RegionTargets(boxes[0], codes[0], labels, valid), boxes[1], codes[1], logits


def decoder_against_backbone(device: str) -> Measurements:
    """Measure a decoder's forward and backward pass and that of its backbone."""
    targets, *_ = random_regions(device, 0.3)
    decoder = partial(LSTMDecoder, cell=partial(TiedLSTM, bias=False), init_range=0.1)
    head = SequenceHead(1024, 1, 1, decoder=decoder, box_coder=partial(PixelOffsets), batch_size_per_image=None)
    head.to(device)
    backbone = GoogLeNet(weights=None).to(device)
    images = torch.rand(8, 3, 480, 640, device=device)
    windows = [torch.tensor([[0.0, 0, 64, 64]], device=device).expand(REGIONS // 8, 4)] * 8
    descriptors = torch.randn(REGIONS, 1024, 1, 1, device=device, requires_grad=True)
    regions = PooledRegions(descriptors, windows, [(480, 640)] * 8)
    grad = torch.randn(8, 1024, 15, 20, device=device)

    def decode():
        _, losses = head(regions, targets)
        torch.stack(list(losses.values())).sum().backward()

    def extract():
        backbone(images)["c5"].backward(grad)

    return interleaved({"decoder, with backward": decode, "GoogLeNet, with backward": extract}, 5, settle_on(device))
