"""Figures in which every seed is a point: the metric of each variant, and its profile over a suite."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detection.ablation.summary import Spread
from detection.evaluation.seeds import Estimate, Learning
from detection.names import plot_name

MOST_BANDS = 6
"""Most variants whose profiles are drawn with bands: more hide each other."""


def plot_points(axes: Axes, places: Sequence[float], values: Sequence[float], filled: Sequence[bool], **style) -> None:
    """Draw points that are filled, or hollow for seeds that have not learned."""
    for kind in (True, False):
        chosen = [(x, y) for x, y, f in zip(places, values, filled, strict=True) if f is kind]
        inside = {} if kind else {"markerfacecolor": "white"}
        axes.plot([x for x, _ in chosen], [y for _, y in chosen], linestyle="", **{"markersize": 4, **style, **inside})


def plot_seeds(rows: Sequence[tuple[str, Spread | None]], learning: Learning | None, title: str, metric: str) -> Figure:
    """Draw every seed of each variant, with the mean among seeds that learned and its interval as a bar.

    Args:
        rows: name of a variant and its metric; None is missing.
        learning: chance and the level above which a seed has learned, drawn as lines; None where chance is not stated.
        title: of the figure.
        metric: name of the horizontal axis.
    """
    figure = Figure(figsize=(7.5, 1.4 + 0.36 * max(1, len(rows))), dpi=120, layout="constrained")
    axes = figure.subplots()
    if learning is not None:
        axes.axvline(learning.chance, color="black", linewidth=0.8, label="chance")
        if learning.is_above_chance:
            axes.axvline(learning.threshold, color="black", linewidth=0.8, linestyle=":", label="has learned")
    for place, (_, spread) in enumerate(rows):
        if spread is None:
            where = {"xycoords": ("axes fraction", "data"), "va": "center"}
            axes.annotate("missing", (0.02, place), **where, color="#c60", fontsize=9)
            continue
        if spread.has_learned:
            mean = spread.estimate
            axes.plot([mean.low, mean.high], [place, place], color="C0", linewidth=6, alpha=0.25, solid_capstyle="butt")
            axes.plot([mean.value], [place], color="C0", marker="|", markersize=12)
        # Equal values are kept apart by a small offset.
        heights = place + np.linspace(-0.15, 0.15, len(spread.values)) * (len(spread.values) > 1)
        filled = spread.learned or (True,) * len(spread.values)
        plot_points(axes, spread.values, heights.tolist(), filled, color="C0", marker="o")
    axes.set_yticks(range(len(rows)), [plot_name(name, 40) for name, _ in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=metric, title=plot_name(title, 120))
    axes.grid(axis="x", alpha=0.3)
    if learning is not None:
        figure.legend(loc="outside lower right", ncols=2, fontsize=8, frameon=False)
    return figure


def plot_profiles(rows: Sequence[tuple[str, Sequence[Estimate]]], thresholds: Sequence[float], title: str) -> Figure:
    """Draw the share of runs above each score, a line per variant, with its pointwise interval as a band."""
    figure = Figure(figsize=(7.5, 4.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    for number, (name, shares) in enumerate(rows):
        style: dict[str, Any] = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        axes.plot(thresholds, [share.value for share in shares], label=plot_name(name), drawstyle="steps-post", **style)
        if len(rows) <= MOST_BANDS:
            ends = [share.low for share in shares], [share.high for share in shares]
            axes.fill_between(thresholds, *ends, color=style["color"], alpha=0.12, linewidth=0, step="post")
    axes.set(
        xlabel="score: 0 is chance, 1 is perfect", ylabel="share of runs above it", title=title, ylim=(-0.02, 1.02)
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure
