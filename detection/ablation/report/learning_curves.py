"""Learning curves of all variants: the metric over epochs, from the logs of their runs."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from detection.names import plot_name

Curve = dict[int, float]
"""A metric by epochs trained."""


def read_curve(folder: Path, metric: str) -> Curve:
    """Read a metric from the evaluations in a run's log; what is damaged or undefined (-1) there is left out."""
    curve: Curve = {}
    log = folder / "log.jsonl"
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []:
        try:
            line = json.loads(text)
            epoch, value = line["epoch"], line[metric]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(epoch, int) and isinstance(value, int | float) and math.isfinite(value) and value != -1:
            curve[epoch + 1] = value
    return curve


def plot_learning(variants: Mapping[str, Sequence[Curve]], metric: str, title: str) -> Figure | None:
    """Draw each seed as a pale line and their mean as a strong one; None where no run was evaluated more than once.

    The mean is over the seeds that were evaluated after an epoch, and ends with the first that has stopped.
    """
    if all(len(curve) < 2 for curves in variants.values() for curve in curves):
        return None
    figure = Figure(figsize=(7.5, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    for number, (name, curves) in enumerate(variants.items()):
        drawn = [curve for curve in curves if curve]
        style: dict[str, Any] = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
        for curve in drawn if len(drawn) > 1 else []:
            axes.plot(list(curve), list(curve.values()), linewidth=0.7, alpha=0.35, **style)
        shared = sorted(set.intersection(*map(set, drawn))) if drawn else []
        means = [sum(curve[epoch] for curve in drawn) / len(drawn) for epoch in shared]
        axes.plot(shared, means, linewidth=1.8, marker="." if len(shared) < 30 else "", label=plot_name(name), **style)
    axes.set(xlabel="epochs trained", ylabel=metric, title=plot_name(title, 120))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure
