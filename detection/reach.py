"""How far a context sees: the gradient of one output cell with respect to each input cell (Luo et al. 2016).

The question that this field began with: what a plain recurrent net has seen fades with every step, what a gated one has
seen fades slower (Bengio et al. 1994; Hochreiter, Schmidhuber 1997). A part without recurrence has a reach too: two
3×3 convolutions see 2 cells far, an average sees the whole map.
"""

# C channels, H×W map.

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.transforms.functional import convert_image_dtype

from detection.cells import CELLS, Accumulator
from detection.config import Part
from detection.context import SpatialRNN
from detection.detector import Detector, valid_mask
from detection.errors import UserError

LITTLE = 0.01
"""A cell with less than this share of the centre's reach counts as out of reach."""

Inputs = Sequence[tuple[Tensor, Tensor]]

# Colours of Okabe and Ito 2008, which stay apart for colour-blind eyes; one a family, whose members differ in line.
_STYLES = {
    "TanhRNN": ("#D55E00", "-", "o"),
    "IRNN": ("#E69F00", "-", "s"),
    "ChannelIRNN": ("#E69F00", "--", "^"),
    "Accumulator": ("#E69F00", ":", "D"),
    "LSTM": ("#0072B2", "-", "o"),
    "PeepholeLSTM": ("#0072B2", "--", "s"),
    "GRU": ("#009E73", "-", "o"),
    "MUT1": ("#009E73", "--", "s"),
    "MUT2": ("#009E73", "-.", "^"),
    "MUT3": ("#009E73", ":", "D"),
    "MinGRU": ("#CC79A7", "-", "o"),
    "MinLSTM": ("#CC79A7", "--", "s"),
}
_FAINTEST = 1e-6
"""Where the plot ends; below it all is the same nothing."""


def reach(context: nn.Module, in_channels: int, height: int, width: int, *, draws: int = 8, seed: int = 0) -> Tensor:
    """`reach_on` with maps of standard normal numbers, all cells valid, and a direction for each.

    Args:
        context: in evaluation mode.
        in_channels: of the map that it reads.
        height: H.
        width: W.
        draws: maps.
        seed: of maps and directions.

    Returns:
        (H, W) float64, 1 at the centre (H // 2, W // 2).

    Raises:
        UserError: see `reach_on`.
    """
    return reach_on(context, random_inputs(in_channels, height, width, draws, seed), seed=seed)


def reach_on(context: nn.Module, inputs: Inputs, *, draws: int = 1, seed: int = 0) -> Tensor:
    """The norm of ∂(u · output at the centre) / ∂(input at a cell), for each cell, divided by the centre's own.

    u is a random unit vector over the output channels (normal numbers, normalised), and the norm is over the input
    channels. Their root mean square over draws of u and inputs estimates, up to the division, the Frobenius norm of the
    Jacobian between the two cells.

    Args:
        context: in evaluation mode, on the inputs' device.
        inputs: maps (1, C, H, W) and their valid cells (1, 1, H, W), a rectangle from the top left; of any sizes.
        draws: directions u for each input.
        seed: of the directions, which are equal for contexts of equal output channels.

    Returns:
        (H, W) float64, on the CPU, 1 at the centre (H // 2, W // 2). H and W are those of the smallest valid rectangle;
        larger ones are cut about their centres.

    Raises:
        UserError: the output at the centre does not depend on the input there, or the gradient is not finite.
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
    centre = found[height // 2, width // 2].item()
    if not (centre and found.isfinite().all()):
        problem = "not finite: look at its weights" if centre else "0 at the centre: look whether its ReLUs are alive"
        raise UserError(f"{type(context).__name__}: there is no reach to measure, its gradient is {problem}.")
    return found / centre


def _extent(valid: Tensor) -> tuple[int, int]:
    """Height and width of the valid rectangle."""
    return int(valid[0, 0].any(1).sum()), int(valid[0, 0].any(0).sum())


def _squared_gradient(
    context: nn.Module, x: Tensor, valid: Tensor, centre: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """The squared norm over channels of one direction's gradient: (H, W) float64 on the CPU."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        output = context(x, valid)[0, :, centre[0], centre[1]]
        direction = normalize(torch.randn(len(output), generator=generator), dim=0)
        (gradient,) = torch.autograd.grad(output @ direction.to(output), x)
    # In float64, for the square of what is left after a hundred steps may be 0 in float32.
    return gradient[0].double().square().sum(0).cpu()


def random_inputs(in_channels: int, height: int, width: int, count: int, seed: int = 0) -> Inputs:
    """Maps of standard normal numbers, all cells valid, for `reach_on`."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(1, 1, height, width, dtype=torch.bool)
    return [(torch.randn(1, in_channels, height, width, generator=generator), valid) for _ in range(count)]


@torch.no_grad()
def image_inputs(detector: Detector, images: Sequence[Tensor]) -> Inputs:
    """What a detector's context reads of images, for `reach_on`.

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

    Straight, because a spatial RNN walks rows and columns: cells that lie aslant are more steps away than their
    distance says, or not reached at all, and a mean with them would blur what separates the cells.

    Args:
        reached: (H, W), see `reach`.

    Returns:
        Distances from the centre in cells (n,), from 0 to the farthest border, and the reach there (n,).
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


def reach_table(maps: Mapping[str, Tensor], distances: Sequence[int] = (4, 8, 16)) -> str:
    """Lines of text: for each reach by name its `decay` at some distances, and where it ends."""
    width = max(len("context"), *map(len, maps))
    lines = [
        f"{'context':{width}}" + "".join(f"{f'at {d}':>10}" for d in distances) + f"   under {100 * LITTLE:g} % at"
    ]
    for name, reached in maps.items():
        _, values = decay(reached)
        numbers = "".join(f"{f'{values[d]:.2g}' if d < len(values) else '-':>10}" for d in distances)
        end = out_of_reach(reached)
        lines.append(f"{name:{width}}{numbers}   {'beyond the map' if end is None else end}")
    return "\n".join(lines)


def plot_reach(maps: Mapping[str, Tensor], title: str, stride: int, own: str | None = None) -> Figure:
    """Draw decay over distance, and each reach as a picture; no global state of pyplot is touched.

    Args:
        maps: reaches (H, W) of one size by name.
        title: of the figure.
        stride: pixels a cell stands for.
        own: the name that is drawn thick.
    """
    rows = math.ceil(len(maps) / 7)
    columns = math.ceil(len(maps) / rows)
    one = len(maps) == 1
    size = (11.5, 5) if one else (12, 5.2 + 2.1 * rows)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=12)
    grid = figure.add_gridspec(1, 2) if one else figure.add_gridspec(2, 1, height_ratios=(4.4, 2.1 * rows))
    _plot_decay(figure.add_subplot(grid[0]), maps, stride, own)
    inner = grid[1].subgridspec(rows, columns)
    panels = [figure.add_subplot(inner[place]) for place in range(len(maps))]
    for place, (axes, (name, reached)) in enumerate(zip(panels, maps.items(), strict=True)):
        image = _plot_map(axes, name, reached, name == own and not one)
        if place // columns == rows - 1:
            axes.set_xlabel("cells", fontsize=8)
    figure.colorbar(image, ax=panels, label="reach, the centre's = 1 (grey: 0)", extend="both", shrink=0.9)  # type: ignore
    return figure


def _plot_decay(axes: Any, maps: Mapping[str, Tensor], stride: int, own: str | None) -> None:
    curves = {name: [t.numpy() for t in decay(reached)] for name, reached in maps.items()}
    positive = min(values[values > 0].min() for _, values in curves.values())
    bottom = min(10 ** math.floor(math.log10(max(positive, _FAINTEST))), LITTLE / 10)
    for place, (name, (distances, values)) in enumerate(curves.items()):
        color, line, marker = _STYLES.get(name, ("black", "-", ""))
        axes.plot(
            distances,
            # A reach of 0 has no place on the axis: its line leaves through the bottom.
            values.clip(bottom / 1e3),
            line,
            color=color,
            marker=marker,
            # Some cells start as others: where lines coincide, the markers of all of them are seen in turn.
            markevery=(place % 4, 4),
            markersize=5,
            linewidth=3.2 if name == own else 1.6,
            label=name,
        )
    axes.axhline(LITTLE, color="0.45", linewidth=1, linestyle=(0, (1, 2)))
    axes.text(0.005, LITTLE * 1.1, f"{100 * LITTLE:g} %", transform=axes.get_yaxis_transform(), color="0.35")
    farthest = max(len(distances) for distances, _ in curves.values()) - 1
    axes.set(yscale="log", xlim=(0, max(farthest, 1)), ylim=(bottom, None))
    axes.set(xlabel=f"distance along row and column (cells of {stride} px)", ylabel="reach, the centre's = 1")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if len(maps) > 1:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9, handlelength=3)
        for text in legend.get_texts():
            text.set_fontweight("bold" if text.get_text() == own else "normal")


def _plot_map(axes: Any, name: str, reached: Tensor, own: bool) -> Any:
    height, width = reached.shape
    top, left = height // 2, width // 2
    # Exact zeros are masked, and so stand apart from what is merely faint.
    image = axes.imshow(
        reached.where(reached > 0, torch.nan).numpy(),
        norm=LogNorm(1e-4, 1),
        cmap="viridis",
        extent=(-left - 0.5, width - left - 0.5, height - top - 0.5, -top - 0.5),
        interpolation="nearest",
    )
    axes.set_facecolor("0.85")
    axes.set_title(name, fontsize=9, fontweight="bold" if own else "normal")
    axes.tick_params(labelsize=7)
    return image
