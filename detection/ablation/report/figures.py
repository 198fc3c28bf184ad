"""Figures of an ablation: differences with their intervals, and the metric over costs; every seed is a point."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detection.ablation.costs import ArchitectureCost
from detection.ablation.report.seed_figures import plot_points
from detection.ablation.summary import Spread
from detection.ablation.verdicts import Verdict
from detection.names import plot_name


def plot_differences(
    rows: Sequence[tuple[str, Verdict, Sequence[tuple[float, bool]]]], title: str, reference: str
) -> Figure:
    """Draw each interval as a line with a bar at the difference, every seed as a point, and a line at 0, the reference.

    Rows are a variant's name, its verdict, and the difference of each seed with whether both variants have learned.
    """
    figure = Figure(figsize=(7.5, 1.4 + 0.32 * max(1, len(rows))), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for place, (_, verdict, seeds) in enumerate(rows):
        color, interval = "C0" if verdict.is_significant else "gray", verdict.interval
        if interval is None:
            offset = {"xytext": (4, 9 if seeds else 0), "textcoords": "offset points"}
            axes.annotate(plot_name(verdict.text, 80), (0, place), **offset, va="center", color="#c60", fontsize=8)
        else:
            axes.plot([interval.low, interval.high], [place, place], color=color, linewidth=2, solid_capstyle="butt")
            axes.plot([interval.value], [place], color=color, marker="|", markersize=12)
        heights = [place + 0.12 * (number - (len(seeds) - 1) / 2) / max(1, len(seeds)) for number in range(len(seeds))]
        plot_points(axes, [value for value, _ in seeds], heights, [f for _, f in seeds], color=color, marker="o")
    axes.set_yticks(range(len(rows)), [plot_name(name, 40) for name, *_ in rows])
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
    figure = Figure(figsize=(11, max(4.2, _legend_height(len(known)))), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(axis), sharey=True)
    for axes, (label, value) in zip(panels, axis.items(), strict=True):
        for number, (name, spread, cost) in enumerate(known):
            style = {"color": f"C{number % 10}", "marker": "os^Dv"[number // 10 % 5]}
            axes.errorbar(
                value(cost), spread.mean, yerr=spread.sd or 0, capsize=2, linestyle="", label=plot_name(name), **style
            )
            _draw_seeds(axes, value(cost), spread, style)
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(metric)
    figure.suptitle(plot_name(title, 120))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def plot_curves(
    rows: Sequence[tuple[str, Sequence[Spread | None]]], places: Sequence[float], metric: str, quantity: str
) -> Figure:
    """Draw the metric over a quantity: every seed as a point, a line per variant, bars of one standard deviation.

    Args:
        rows: name of a variant and its metric at each place; None leaves a gap.
        places: values of the quantity, ascending.
        metric: name of the vertical axis.
        quantity: name of the horizontal axis.
    """
    figure = Figure(figsize=(7.5, max(4.6, _legend_height(len(rows)))), dpi=120, layout="constrained")
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
        for place, spread in zip(aside, spreads, strict=True):
            _draw_seeds(axes, place, spread, {key: style[key] for key in ("color", "marker")})
    axes.set(xlabel=plot_name(quantity, 60), ylabel=metric, xticks=places)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _legend_height(number: int) -> float:
    """Return the height in inches of a figure whose legend has so many lines."""
    return 0.3 + 0.175 * number


def _draw_seeds(axes: Axes, place: float, spread: Spread | None, style: dict[str, Any]) -> None:
    if spread is not None:
        filled, places = spread.learned or (True,) * len(spread.values), [place] * len(spread.values)
        plot_points(axes, places, spread.values, filled, markersize=2.5, **style)
