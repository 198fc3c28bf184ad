"""Figures of effective receptive fields, as `detection.analysis.receptive_field` measures them."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from detection.analysis.receptive_field import NEGLIGIBLE, decay

# Colors of Okabe and Ito 2008, which stay apart for color-blind eyes; one a family, whose members differ in line.
_STYLES = {
    "TanhRNN": ("#D55E00", "-", "o"),
    "IRNN": ("#E69F00", "-", "s"),
    "IndRNN": ("#E69F00", "--", "^"),
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
"""Lowest value of the plot."""


def plot_receptive_field(fields: Mapping[str, Tensor], title: str, stride: int, own: str | None = None) -> Figure:
    """Plot decay over distance, and each field as an image; the global state of pyplot stays as it is.

    Args:
        fields: effective receptive fields (H, W) of one size by name.
        title: of the figure.
        stride: pixels between locations.
        own: name of the field that is highlighted.
    """
    rows = math.ceil(len(fields) / 7)
    columns = math.ceil(len(fields) / rows)
    one = len(fields) == 1
    size = (11.5, 5) if one else (12, 5.2 + 2.1 * rows)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=12)
    grid = figure.add_gridspec(1, 2) if one else figure.add_gridspec(2, 1, height_ratios=(4.4, 2.1 * rows))
    _plot_decay(figure.add_subplot(grid[0]), fields, stride, own)
    inner = grid[1].subgridspec(rows, columns)
    panels = [figure.add_subplot(inner[place]) for place in range(len(fields))]
    for place, (axes, (name, field)) in enumerate(zip(panels, fields.items(), strict=True)):
        image = _plot_map(axes, name, field, name == own and not one)
        if place // columns == rows - 1:
            axes.set_xlabel("locations", fontsize=8)
    figure.colorbar(
        image, ax=panels, label="gradient norm, relative to the center (gray: 0)", extend="both", shrink=0.9
    )  # type: ignore
    return figure


def _plot_decay(axes: Any, fields: Mapping[str, Tensor], stride: int, own: str | None) -> None:
    curves = {name: [t.numpy() for t in decay(field)] for name, field in fields.items()}
    positive = min(values[values > 0].min() for _, values in curves.values())
    bottom = min(10 ** math.floor(math.log10(max(positive, _FAINTEST))), NEGLIGIBLE / 10)
    for place, (name, (distances, values)) in enumerate(curves.items()):
        color, line, marker = _STYLES.get(name, ("black", "-", ""))
        axes.plot(
            distances,
            # 0 is not on a logarithmic axis: its line leaves at the bottom.
            values.clip(bottom / 1e3),
            line,
            color=color,
            marker=marker,
            # Some cells are initialized as others: where lines coincide, their markers alternate.
            markevery=(place % 4, 4),
            markersize=5,
            linewidth=3.2 if name == own else 1.6,
            label=name,
        )
    axes.axhline(NEGLIGIBLE, color="0.45", linewidth=1, linestyle=(0, (1, 2)))
    axes.text(0.005, NEGLIGIBLE * 1.1, f"{100 * NEGLIGIBLE:g} %", transform=axes.get_yaxis_transform(), color="0.35")
    farthest = max(len(distances) for distances, _ in curves.values()) - 1
    axes.set(yscale="log", xlim=(0, max(farthest, 1)), ylim=(bottom, None))
    axes.set(xlabel=f"distance along row and column (locations of {stride} px)", ylabel="gradient norm / center's")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if len(fields) > 1:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9, handlelength=3)
        for text in legend.get_texts():
            text.set_fontweight("bold" if text.get_text() == own else "normal")


def _plot_map(axes: Any, name: str, field: Tensor, own: bool) -> Any:
    height, width = field.shape
    top, left = height // 2, width // 2
    # Exact zeros are masked, to differ from small values.
    image = axes.imshow(
        field.where(field > 0, torch.nan).numpy(),
        norm=LogNorm(1e-4, 1),
        cmap="viridis",
        extent=(-left - 0.5, width - left - 0.5, height - top - 0.5, -top - 0.5),
        interpolation="nearest",
    )
    axes.set_facecolor("0.85")
    axes.set_title(name, fontsize=9, fontweight="bold" if own else "normal")
    axes.tick_params(labelsize=7)
    return image
