"""Learning curves: read from logs with damaged lines, and drawn for all variants."""

import json

import numpy as np

from detection.ablation.report.learning_curves import plot_learning, read_curve


def test_a_curve_is_read_from_a_log(tmp_path):
    lines = [
        {"step": 1, "epoch": 0, "loss": 2},
        {"epoch": 0, "AP": 0.1},
        {"epoch": 1, "AP": -1},
        {"epoch": 3, "AP": 0.4},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n[1]\n{"epoch": 4, "AP": NaN}\n{"epoch": 5, "A'
    (tmp_path / "log.jsonl").write_text(text)
    assert read_curve(tmp_path, "AP") == {1: 0.1, 4: 0.4}
    assert read_curve(tmp_path / "none", "AP") == {}


def test_every_variant_has_a_mean_and_its_seeds():
    variants = {"none": [{1: 0.1, 2: 0.3}, {1: 0.3, 2: 0.5, 3: 0.6}], "context": [{1: 0.2, 2: 0.8}], "late": []}
    figure = plot_learning(variants, "AP", "AP while training")
    (axes,) = figure.axes
    labels = [line.get_label() for line in axes.get_lines() if not line.get_label().startswith("_")]
    assert labels == ["none", "context", "late"]
    means = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_allclose(means["none"], [0.2, 0.4])
    np.testing.assert_allclose(means["context"], [0.2, 0.8])
    assert len(axes.get_lines()) == 5
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().x0 > axes.get_window_extent().x1, "the legend covers no curve"


def test_runs_that_were_evaluated_once_have_no_figure():
    assert plot_learning({"a": [{4: 0.5}], "b": []}, "AP", "title") is None
