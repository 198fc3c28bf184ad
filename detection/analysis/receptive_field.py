"""How far a context sees: the gradient of one output cell with respect to each input cell (Luo et al. 2016).

The question that this field began with: what a plain recurrent net has seen fades with every step, what a gated one has
seen fades slower (Bengio et al. 1994; Hochreiter, Schmidhuber 1997). A part without recurrence has a reach too: two
3×3 convolutions see 2 cells far, an average sees the whole map.
"""

# C channels, H×W map.

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.transforms.functional import convert_image_dtype

from detection.cells import CELLS, Accumulator
from detection.config import Part
from detection.context import SpatialRNN
from detection.detector import Detector, valid_mask
from detection.errors import UserError

LITTLE = 0.01
"""A cell with less than this share of the center's reach counts as out of reach."""

Inputs = Sequence[tuple[Tensor, Tensor]]


def reach(context: nn.Module, in_channels: int, height: int, width: int, *, draws: int = 8, seed: int = 0) -> Tensor:
    """`effective_receptive_field_on` with maps of standard normal numbers, all cells valid, and a direction for each.

    Args:
        context: in evaluation mode.
        in_channels: of the map that it reads.
        height: H.
        width: W.
        draws: maps.
        seed: of maps and directions.

    Returns:
        (H, W) float64, 1 at the center (H // 2, W // 2).

    Raises:
        UserError: see `effective_receptive_field_on`.
    """
    return effective_receptive_field_on(context, random_inputs(in_channels, height, width, draws, seed), seed=seed)


def effective_receptive_field_on(context: nn.Module, inputs: Inputs, *, draws: int = 1, seed: int = 0) -> Tensor:
    """The norm of ∂(u · output at the center) / ∂(input at a cell), for each cell, divided by the center's own.

    u is a random unit vector over the output channels (normal numbers, normalized), and the norm is over the input
    channels. Their root mean square over draws of u and inputs estimates, up to the division, the Frobenius norm of the
    Jacobian between the two cells.

    Args:
        context: in evaluation mode, on the inputs' device.
        inputs: maps (1, C, H, W) and their valid cells (1, 1, H, W), a rectangle from the top left; of any sizes.
        draws: directions u for each input.
        seed: of the directions, which are equal for contexts of equal output channels.

    Returns:
        (H, W) float64, on the CPU, 1 at the center (H // 2, W // 2). H and W are those of the smallest valid rectangle;
        larger ones are cut about their centers.

    Raises:
        UserError: the output at the center does not depend on the input there, or the gradient is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    extents = [_extent(valid) for _, valid in inputs]
    height, width = (min(sides) for sides in zip(*extents, strict=True))
    total = torch.zeros(height, width, dtype=torch.float64)
    for (x, valid), (h, w) in zip(inputs, extents, strict=True):
        top, left = h // 2 - height // 2, w // 2 - width // 2
        for _ in range(draws):
            squares = _squared_gradient(context, x, valid, (h // 2, w // 2), generator)
            total += squares[top : top + height, left : left + width]
    found = (total / (draws * len(inputs))).sqrt()
    center = found[height // 2, width // 2].item()
    if not (center and found.isfinite().all()):
        problem = "not finite: look at its weights" if center else "0 at the center: look whether its ReLUs are alive"
        raise UserError(f"{type(context).__name__}: there is no reach to measure, its gradient is {problem}.")
    return found / center


def _extent(valid: Tensor) -> tuple[int, int]:
    """Height and width of the valid rectangle."""
    return int(valid[0, 0].any(1).sum()), int(valid[0, 0].any(0).sum())


def _squared_gradient(
    context: nn.Module, x: Tensor, valid: Tensor, center: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """The squared norm over channels of one direction's gradient: (H, W) float64 on the CPU."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        output = context(x, valid)[0, :, center[0], center[1]]
        direction = normalize(torch.randn(len(output), generator=generator), dim=0)
        (gradient,) = torch.autograd.grad(output @ direction.to(output), x)
    # In float64, for the square of what is left after a hundred steps may be 0 in float32.
    return gradient[0].double().square().sum(0).cpu()


def random_inputs(in_channels: int, height: int, width: int, count: int, seed: int = 0) -> Inputs:
    """Maps of standard normal numbers, all cells valid, for `effective_receptive_field_on`."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(1, 1, height, width, dtype=torch.bool)
    return [(torch.randn(1, in_channels, height, width, generator=generator), valid) for _ in range(count)]


@torch.no_grad()
def image_inputs(detector: Detector, images: Sequence[Tensor]) -> Inputs:
    """What a detector's context reads of images, for `effective_receptive_field_on`.

    Args:
        detector: in evaluation mode.
        images: (3, H, W) uint8 each.
    """
    inputs = []
    for image in images:
        batch, _ = detector.transform([convert_image_dtype(image)])
        source = detector.backbone(batch.tensors)[detector.context_source]
        stride = detector.backbone.strides[detector.context_source]
        inputs.append((source, valid_mask(batch.image_sizes, stride, source)))
    return inputs


def with_each_cell(context: Part) -> dict[str, Part]:
    """A spatial RNN with each of `CELLS`, by name; its own cell, which may be one more, comes with its settings.

    Raises:
        UserError: not a spatial RNN.
    """
    own = cell_of(context)
    cells = CELLS if own.func in CELLS else (own.func, *CELLS)
    return {c.__name__: partial(context, cell=own if own.func is c else partial(c)) for c in cells}


def cell_of(context: Part) -> Part:
    """The cell of a spatial RNN.

    Raises:
        UserError: not a spatial RNN.
    """
    if context.func is not SpatialRNN:
        raise UserError(f"--cells: the context is a {context.func.__name__}, without a recurrent cell; leave it out.")
    return context.keywords.get("cell", partial(Accumulator))


def build(context: Part, in_channels: int, seed: int = 0) -> nn.Module:
    """A context at its start, in evaluation mode; torch's own random numbers go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return context(in_channels).eval()


def decay(reached: Tensor) -> tuple[Tensor, Tensor]:
    """Reach by distance: the mean of the (up to four) cells that lie straight left, right, above and below.

    Straight, because a spatial RNN scans rows and columns: cells that lie aslant are more steps away than their
    distance says, or not reached at all, and a mean with them would blur what separates the cells.

    Args:
        reached: (H, W), see `reach`.

    Returns:
        Distances from the center in cells (n,), from 0 to the farthest border, and the reach there (n,).
    """
    height, width = reached.shape
    row, column = height // 2, width // 2
    arms = (
        reached[row, column:],
        reached[row, : column + 1].flip(0),
        reached[row:, column],
        reached[: row + 1, column].flip(0),
    )
    distances = torch.arange(max(map(len, arms)))
    return distances, torch.stack([torch.stack([arm[d] for arm in arms if d < len(arm)]).mean() for d in distances])


def out_of_reach(reached: Tensor) -> int | None:
    """The first distance in cells whose `decay` is under `LITTLE`; None where the map ends before it."""
    distances, values = decay(reached)
    below = distances[values < LITTLE]
    return int(below[0]) if len(below) else None


def receptive_field_table(features: Mapping[str, Tensor], distances: Sequence[int] = (4, 8, 16)) -> str:
    """Lines of text: for each reach by name its `decay` at some distances, and where it ends."""
    width = max(len("context"), *map(len, features))
    lines = [
        f"{'context':{width}}" + "".join(f"{f'at {d}':>10}" for d in distances) + f"   under {100 * LITTLE:g} % at"
    ]
    for name, reached in features.items():
        _, values = decay(reached)
        numbers = "".join(f"{f'{values[d]:.2g}' if d < len(values) else '-':>10}" for d in distances)
        end = out_of_reach(reached)
        lines.append(f"{name:{width}}{numbers}   {'beyond the map' if end is None else end}")
    return "\n".join(lines)
