"""Effective receptive field of a context: gradients of one output location by the input locations (Luo et al. 2016).

What a plain recurrent net has read fades with every step, what a gated one has read fades more slowly (Bengio et al.
1994; Hochreiter, Schmidhuber 1997). Two 3×3 convolutions depend on 2 locations around, an average on the complete map.
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

NEGLIGIBLE = 0.01
"""A location with less than this share of the center's gradient counts as outside of the field."""

Inputs = Sequence[tuple[Tensor, Tensor]]


def effective_receptive_field(context: nn.Module, inputs: Inputs, *, draws: int = 1, seed: int = 0) -> Tensor:
    """Measure ‖∂(u · output at the center) / ∂(input at a location)‖ for each location, divided by the center's.

    u is a random unit vector over the output channels (normal values, normalized), and the norm is over the input
    channels. Its root mean square over draws of u and inputs estimates, up to the division, the Frobenius norm of the
    Jacobian between the two locations.

    Args:
        context: in evaluation mode, on the inputs' device.
        inputs: feature maps (1, C, H, W) and their valid locations (1, 1, H, W), a rectangle from the top left; of any
            sizes.
        draws: directions u for each input.
        seed: of the directions, the same for contexts of equal output channels.

    Returns:
        (H, W) float64, on the CPU, 1 at the center (H // 2, W // 2). H and W are those of the smallest valid rectangle;
        larger ones are cropped around their centers.

    Raises:
        UserError: the output at the center does not depend on the input there, or the gradient is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    extents = [(int(valid[0, 0].any(1).sum()), int(valid[0, 0].any(0).sum())) for _, valid in inputs]
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
        problem = "not finite: check its weights" if center else "0 at the center: check whether its ReLUs are alive"
        raise UserError(f"{type(context).__name__}: has no effective receptive field, its gradient is {problem}.")
    return found / center


def _squared_gradient(
    context: nn.Module, x: Tensor, valid: Tensor, center: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Return the squared norm over channels of one direction's gradient: (H, W) float64 on the CPU."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        output = context(x, valid)[0, :, center[0], center[1]]
        direction = normalize(torch.randn(len(output), generator=generator), dim=0)
        (gradient,) = torch.autograd.grad(output @ direction.to(output), x)
    # In float64, for after a hundred steps the square may be 0 in float32.
    return gradient[0].cpu().double().square().sum(0)


def random_inputs(in_channels: int, height: int, width: int, count: int, seed: int = 0) -> Inputs:
    """Draw `count` standard normal feature maps, all locations valid, for `effective_receptive_field`."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(1, 1, height, width, dtype=torch.bool)
    return [(torch.randn(1, in_channels, height, width, generator=generator), valid) for _ in range(count)]


@torch.no_grad()
def image_inputs(detector: Detector, images: Sequence[Tensor]) -> Inputs:
    """Compute what the context of a detector in evaluation mode reads of images (3, H, W) uint8."""
    inputs = []
    for image in images:
        batch, _ = detector.transform([convert_image_dtype(image)])
        source = detector.backbone(batch.tensors)[detector.context_source]
        stride = detector.backbone.strides[detector.context_source]
        inputs.append((source, valid_mask(batch.image_sizes, stride, source)))
    return inputs


def with_each_cell(context: Part) -> dict[str, Part]:
    """Return a spatial RNN with each of `CELLS`, by name; the cell it is given with keeps its settings.

    Raises:
        UserError: not a spatial RNN.
    """
    own = cell_of(context)
    cells = CELLS if own.func in CELLS else (own.func, *CELLS)
    return {c.__name__: partial(context, cell=own if own.func is c else partial(c)) for c in cells}


def cell_of(context: Part) -> Part:
    """Return the cell of a spatial RNN.

    Raises:
        UserError: not a spatial RNN.
    """
    if context.func is not SpatialRNN:
        raise UserError(
            f"--cells: the context is a {context.func.__name__}, without a recurrent cell; leave --cells out."
        )
    return context.keywords.get("cell", partial(Accumulator))


def build_context(context: Part, in_channels: int, seed: int = 0) -> nn.Module:
    """Build a context at initialization, in evaluation mode, without a change of torch's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return context(in_channels).eval()


def decay(field: Tensor) -> tuple[Tensor, Tensor]:
    """Return a field (H, W) by distance: the mean of the up to four locations left, right, above and below the center.

    A spatial RNN scans rows and columns, so oblique locations are more steps away than their distance, or outside of
    the field, and a mean with them would hide the differences between cells.

    Returns:
        Distances from the center in locations (n,), from 0 to the farthest border, and the mean there (n,).
    """
    height, width = field.shape
    row, column = height // 2, width // 2
    right, left = field[row, column:], field[row, : column + 1].flip(0)
    below, above = field[row:, column], field[: row + 1, column].flip(0)
    arms = (right, left, below, above)
    distances = torch.arange(max(map(len, arms)))
    return distances, torch.stack([torch.stack([arm[d] for arm in arms if d < len(arm)]).mean() for d in distances])


def field_radius(field: Tensor) -> int | None:
    """Return the first distance in locations whose `decay` is under `NEGLIGIBLE`; None if the map ends before it."""
    distances, values = decay(field)
    below = distances[values < NEGLIGIBLE]
    return int(below[0]) if len(below) else None


def receptive_field_table(fields: Mapping[str, Tensor], distances: Sequence[int] = (4, 8, 16)) -> str:
    """Format fields by name as lines of text: their `decay` at some distances, and their radius."""
    width = max(len("context"), *map(len, fields))
    lines = [
        f"{'context':{width}}" + "".join(f"{f'at {d}':>10}" for d in distances) + f"   under {100 * NEGLIGIBLE:g} % at"
    ]
    for name, field in fields.items():
        _, values = decay(field)
        columns = "".join(f"{f'{values[d]:.2g}' if d < len(values) else '-':>10}" for d in distances)
        radius = field_radius(field)
        lines.append(f"{name:{width}}{columns}   {'beyond the map' if radius is None else radius}")
    return "\n".join(lines)
