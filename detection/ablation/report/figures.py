"""Figures of an ablation: differences with their intervals, and the metric over costs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from detection.ablation.costs import ArchitectureCost
from detection.ablation.summary import Spread
from detection.evaluation.intervals import Interval
from detection.names import plot_name


def plot_differences(rows: Sequence[tuple[str, Interval | None]], title: str, reference: str) -> Figure:
    """Draw each interval, None as missing, as a line with a dot at the difference, and a line at 0, the reference."""
    figure = Figure(figsize=(7.5, 1.4 + 0.32 * max(1, len(rows))), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for place, (_, interval) in enumerate(rows):
        if interval is None:
            offset = {"xytext": (4, 0), "textcoords": "offset points"}
            axes.annotate("missing", (0, place), **offset, va="center", color="#c60", fontsize=9)
            continue
        color = "C0" if interval.is_significant else "gray"
        axes.plot([interval.low, interval.high], [place, place], color=color, linewidth=2, solid_capstyle="butt")
        axes.plot([interval.value], [place], color=color, marker="o", markersize=5)
    axes.set_yticks(range(len(rows)), [plot_name(name, 40) for name, _ in rows])
    axes.set(
        ylim=(len(rows) - 0.5, -0.5), xlabel=f"difference to {plot_name(reference, 40)}", title=plot_name(title, 120)
    )
    axes.grid(axis="x", alpha=0.3)
    return figure


def plot_costs(
    rows: Sequence[tuple[str, Spread | None, ArchitectureCost | None]], metric: str, title: str
) -> Figure | None:
    """Draw the metric over parameters, FLOPs and time of a training step, a dot per variant; None if there is none."""
    known = [(name, spread, cost) for name, spread, cost in rows if spread is not None and cost is not None]
    if not known:
        return None
    axis: dict[str, Callable[[ArchitectureCost], float]] = {
        "parameters (M)": lambda cost: cost.parameters / 1e6,
        "FLOPs per image (G)": lambda cost: cost.flops / 1e9,
        "training step (ms)": lambda cost: cost.train_step_s * 1e3,
    }
    figure = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(axis), sharey=True)
    for axes, (label, value) in zip(panels, axis.items(), strict=True):
        for number, (name, spread, cost) in enumerate(known):
            style = {"color": f"C{number % 10}", "marker": "os^Dv"[number // 10 % 5]}
            axes.errorbar(
                value(cost), spread.mean, yerr=spread.sd or 0, capsize=2, linestyle="", label=plot_name(name), **style
            )
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(metric)
    figure.suptitle(plot_name(title, 120))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def plot_curves(
    rows: Sequence[tuple[str, Sequence[Spread | None]]], places: Sequence[float], metric: str, quantity: str
) -> Figure:
    """Draw the metric over a quantity, a line per variant with its standard deviation between seeds.

    Args:
        rows: name of a variant and its metric at each place; None leaves a gap.
        places: values of the quantity, ascending.
        metric: name of the vertical axis.
        quantity: name of the horizontal axis.
    """
    figure = Figure(figsize=(7.5, 4.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    apart = (places[-1] - places[0]) / 100
    for number, (name, spreads) in enumerate(rows):
        # Equal lines are kept apart by a small offset.
        aside = [place + apart * (number - (len(rows) - 1) / 2) / len(rows) * 4 for place in places]
        means = [math.nan if spread is None else spread.mean for spread in spreads]
        bars = [0 if spread is None else spread.sd or 0 for spread in spreads]
        style: dict[str, Any] = {
            "color": f"C{number % 10}",
            "marker": "os^Dv"[number // 10 % 5],
            "linestyle": ("-", "--")[number // 10 % 2],
        }
        axes.errorbar(aside, means, yerr=bars, capsize=2, markersize=4, linewidth=1.2, label=plot_name(name), **style)
    axes.set(xlabel=plot_name(quantity, 60), ylabel=metric, xticks=places)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure
