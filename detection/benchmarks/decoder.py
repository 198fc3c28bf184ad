"""The LSTM decoder and its matching at the paper's size, measured for `benchmark.py`."""

from detection.analysis.timing import Figures, interleaved, settle_on

REGIONS, STEPS = 2400, 5  # a batch of 8 images of 640x480, a grid of 20x15 each


def matching(device: str) -> Figures:
    """2400 regions with 5 steps, 30 % and all of them with ground-truth boxes: ours at once against SciPy region by
    region.

    Then the decoder, with its embedding, matching and loss, forward and backward, against GoogLeNet's forward and
    backward of the 8 images.
    """
    import torch

    torch.manual_seed(0)
    figures: Figures = {}
    for share in (0.3, 1.0):
        ours, loop, price = matchings(device, share)
        # Some regions have two cheapest matchings: L1 distances often stay the same when two ground-truth boxes are
        # swapped.
        torch.testing.assert_close(price(ours()), price(loop()))
        times = interleaved({"SciPy in a loop": loop, "ours": ours}, 15, settle_on(device))
        figures |= {f"{share:.0%} with ground-truth boxes, {name}": figure for name, figure in times.items()}
    return figures | decoder_share(device)


def matchings(device: str, share: float):
    """The two ways to match the same random regions, as functions, and what a region pays for a matching."""
    import torch
    from scipy.optimize import linear_sum_assignment

    from detection.heads.costs import Lexicographic
    from detection.heads.hungarian import match

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

    def price(matched):
        paid = cost.gather(2, matched.clamp(min=0)[:, :, None])[:, :, 0]
        return paid.where(matched >= 0, 0).sum(1)

    return lambda: match(cost, targets), loop, price


def random_regions(device: str, share: float):
    """Ground-truth boxes, of which `share` of the regions have one or more, and what was said: boxes, codes and logits."""
    import torch

    from detection.heads.box_codes import PixelOffsets
    from detection.heads.hungarian import Truths

    regions = torch.tensor([0.0, 0, 64, 64], device=device).expand(REGIONS, 4)
    codes = torch.randn(2, REGIONS, STEPS, 4, device=device) * 10 + torch.tensor([0.0, 0, 40, 60], device=device)
    boxes = PixelOffsets().decode(codes.flatten(0, 1), regions.repeat(2, 1)).unflatten(0, (2, REGIONS))
    counts = torch.randint(1, STEPS + 1, (REGIONS,), device=device) * (torch.rand(REGIONS, device=device) < share)
    valid = torch.arange(STEPS, device=device) < counts[:, None]
    labels = torch.ones(REGIONS, STEPS, dtype=torch.long, device=device)
    logits = torch.randn(REGIONS, STEPS, 2, device=device)
    return Truths(boxes[0], codes[0], labels, valid), boxes[1], codes[1], logits


def decoder_share(device: str) -> Figures:
    """A decoder's forward and backward pass over that of its backbone."""
    from functools import partial

    import torch

    from detection.backbones import GoogLeNet
    from detection.cells import TiedLSTM
    from detection.heads import SequenceHead
    from detection.heads.box_codes import PixelOffsets
    from detection.heads.lstm_decoder import LSTMDecoder

    targets, *_ = random_regions(device, 0.3)
    decoder = partial(LSTMDecoder, cell=partial(TiedLSTM, bias=False), init_range=0.1)
    head = SequenceHead(1024, 1, 1, decoder=decoder, box_coder=partial(PixelOffsets), batch_size_per_image=None).to(
        device
    )
    backbone = GoogLeNet(weights=None).to(device)
    images = torch.rand(8, 3, 480, 640, device=device)
    windows = [torch.tensor([[0.0, 0, 64, 64]], device=device).expand(REGIONS // 8, 4)] * 8
    descriptors = torch.randn(REGIONS, 1024, 1, 1, device=device, requires_grad=True)
    grad = torch.randn(8, 1024, 15, 20, device=device)

    def decode():
        _, losses = head(descriptors, windows, [(480, 640)] * 8, targets)
        torch.stack(list(losses.values())).sum().backward()

    def see():
        backbone(images)["c5"].backward(grad)

    return interleaved({"decoder, with backward": decode, "GoogLeNet, with backward": see}, 5, settle_on(device))
