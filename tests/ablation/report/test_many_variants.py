"""Figures of a report whose variants are many."""

from detection.ablation.costs import ArchitectureCost
from detection.ablation.report.figures import plot_costs, plot_curves
from detection.ablation.summary import Spread


def assert_legend_fits(figure):
    figure.canvas.draw()
    (legend,) = figure.legends
    assert legend.get_window_extent().y0 >= 0 and len(legend.get_texts()) == 40


def test_a_legend_of_many_variants_fits():
    names, spread = [f"variant {number}" for number in range(40)], Spread((0.1, 0.2))
    cost = ArchitectureCost(1, 1, 1.0, 1.0, 0, 0)
    assert_legend_fits(plot_costs([(name, spread, cost) for name in names], "AP", "costs"))
    assert_legend_fits(plot_curves([(name, [spread, spread]) for name in names], [1, 2], "AP", "distance"))
