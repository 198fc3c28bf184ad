"""Summaries and verdicts of results made by hand: which tests are made, of what, and how they are adjusted."""

import csv
import dataclasses
import math
from statistics import mean

import numpy as np
import pytest
from scipy.stats import fisher_exact, norm, ttest_rel

from detection.ablation import Ablation
from detection.ablation.plan import make_plan
from detection.ablation.primary import Primary
from detection.ablation.report.csv_export import to_csv
from detection.ablation.report.formatting import difference
from detection.ablation.run_types import CorruptRun
from detection.ablation.summary import AblationSummary, RunResult, Spread, _require_same
from detection.ablation.verdicts import verdicts
from detection.errors import UserError
from tests.ablation.coins import COINS

PLAIN = (0.50, 0.62, 0.70, 0.58)
MORE = {"much": (0.05, 0.06, 0.04, 0.055), "some": (0.01, 0.04, 0.03, 0.06), "less": (-0.02, -0.03, -0.05, -0.01)}


@pytest.fixture
def summarized(tmp_path):
    """Summarize accuracies by variant, which `effects` (S,) change on samples of images; `own` those of `other` too."""
    (tmp_path / "base.py").write_text("from tests.ablation.coins import CoinConfig\n\nconfig = CoinConfig()\n")

    def summarize(values, effects=(0.0, 0.0), own=(0.0,), primary=(), **more):
        variants = {name: [f"p=0.{number}"] for number, name in enumerate(values, start=1)}
        seeds = tuple(range(len(next(iter(values.values())))))
        primary = [(variant, "plain", "accuracy", "data") for variant in primary]
        ablation = Ablation("base.py", variants, seeds=seeds, run_type=COINS, primary=primary, **more)
        plan = make_plan("coins", ablation, tmp_path / "base.py", tmp_path / "out")
        plan = dataclasses.replace(plan, primary=ablation.comparisons, registered=ablation.comparisons)
        results = {}
        for run in plan.runs:
            value = values[run.variant][run.seed]
            samples = {"accuracy": value + np.array(effects) + (run.variant == "other") * np.array(own)}
            results[run.name] = RunResult({"accuracy": value}, "images", 100, samples, 10 * (run.seed + 1))
        return AblationSummary(plan, results, {})

    return summarize


def against_plain(summary):
    return {variant: verdict for (variant, _), verdict in verdicts(summary, "data", "accuracy").items()}


def moved(names):
    return {"plain": PLAIN, **{name: tuple(np.add(PLAIN, MORE[name])) for name in names}}


def paired_p(name):
    return ttest_rel(np.add(PLAIN, MORE[name]), PLAIN).pvalue


def test_p_values_are_of_the_paired_t_test_and_adjusted_together(summarized):
    found = against_plain(summarized(moved(MORE)))
    much, some, less = (paired_p(name) for name in ("much", "some", "less"))
    assert much < some < less < 0.1
    assert found["much"].p_mean == pytest.approx(3 * much) and found["some"].p_mean == pytest.approx(2 * some)
    assert found["less"].p_mean == pytest.approx(max(2 * some, less))
    assert [found[name].text for name in MORE] == ["higher", "undecided", "undecided"]
    assert found["less"].interval.value == pytest.approx(mean(MORE["less"]))


def test_each_primary_comparison_is_a_family(summarized):
    found = against_plain(summarized(moved(MORE), primary=("some", "less")))
    assert {name: verdict.p_mean for name, verdict in found.items()} == pytest.approx(
        {name: paired_p(name) for name in MORE}
    )
    assert [found[name].primary for name in MORE] == [False, True, True]
    lower = summarized({"plain": PLAIN, "less": tuple(np.subtract(PLAIN, MORE["much"]))})
    assert against_plain(lower)["less"].text == "lower"


def test_a_difference_that_too_few_images_define_is_not_tested(summarized):
    """In some of the samples of images there is none that the metric is of."""
    summary = summarized(moved(("much", "some")), effects=(0.0, 0.0, 0.0, math.nan))
    found = against_plain(summary)["much"]
    assert found.interval.low > 0 and found.p_mean is None and not found.is_significant
    assert found.text == "too few images"
    assert difference(summary, "data", "much", "accuracy", found).endswith("] (too few images)")


def test_the_csv_has_a_line_for_each_comparison(summarized):
    """Of every variant with the reference, and of a primary pair without it."""
    summary = summarized(moved(("much", "some")))
    one = Primary("much", "some", "accuracy", "data")
    ablation = dataclasses.replace(summary.plan.ablation, primary=(one,))
    plan = dataclasses.replace(summary.plan, ablation=ablation, primary=(one,), registered=(one,))
    lines = csv.DictReader(to_csv(dataclasses.replace(summary, plan=plan)).splitlines())
    rows = {(row["variant"], row["reference"]): row for row in lines}
    assert list(rows) == [("plain", "plain"), ("much", "plain"), ("much", "some"), ("some", "plain")]
    found = rows["much", "some"]
    apart = np.subtract(MORE["much"], MORE["some"])
    assert float(found["difference"]) == pytest.approx(apart.mean()) and found["primary"] == "1"
    assert float(found["p"]) == pytest.approx(ttest_rel(apart, np.zeros(4)).pvalue)
    assert found["mean"] == rows["much", "plain"]["mean"] and rows["much", "plain"]["primary"] == "0"
    assert rows["plain", "plain"]["difference"] == rows["plain", "plain"]["p"] == ""


def test_a_variant_with_the_name_of_a_size_matched_control_is_refused(tmp_path, summarized):
    plan = summarized(moved(("much",))).plan
    controls = {"much": ("plain", ("width=20",))}
    with pytest.raises(UserError, match="'plain' is the name of a size-matched control; give yours another name"):
        make_plan("coins", plan.ablation, tmp_path / "base.py", tmp_path / "out", controls=controls)


CHANCE = {"data": 1 / 3}


def test_shares_are_tested_and_one_pair_of_eight_is_not(summarized):
    """Seven of eight seeds learn with one, one with the other: one pair has learned with both, which is no test."""
    good, bad = (0.9, 0.91, 0.92, 0.9, 0.91, 0.92, 0.9, 0.34), (0.8, *[0.34] * 7)
    p = fisher_exact([[7, 1], [1, 7]]).pvalue
    for values, text in (((bad, good), "learns more often"), ((good, bad), "learns less often")):
        summary = summarized(dict(zip(("plain", "other"), values, strict=True)), own=(-0.01, 0.01), chance=CHANCE)
        found = against_plain(summary)["other"]
        assert found.p_mean is None and found.p_share == pytest.approx(p) and found.text == text
        assert found.interval.seeds == 1 and abs(found.interval.value) == pytest.approx(0.1)
    some, other = (0.9, 0.9, 0.91, 0.92, *[0.34] * 4), (0.9, *[0.34] * 7)
    found = against_plain(summarized({"plain": some, "other": other}, chance=CHANCE))["other"]
    assert found.p_share == pytest.approx(fisher_exact([[4, 4], [1, 7]]).pvalue) and found.text == "undecided"


def test_what_has_not_learned_is_in_words(summarized):
    never, well = (0.33, 0.34, 0.33, 0.34), (0.9, 0.91, 0.9, 0.92)
    found = against_plain(summarized({"plain": well, "never": never}, chance=CHANCE))["never"]
    assert found.text == "has not learned in 10 to 40 updates" and found.interval is None
    found = against_plain(summarized({"plain": never, "well": well}, chance=CHANCE))["well"]
    assert found.text == "the reference has not learned in 10 to 40 updates, learns more often"


def test_a_difference_is_of_the_seeds_with_which_both_learned(summarized):
    summary = summarized({"plain": (0.8, 0.8, 0.35, 0.8), "other": (0.9, 0.34, 0.9, 0.92)}, chance=CHANCE)
    found = summary.difference("data", "other", "accuracy")
    assert found.value == pytest.approx(0.11) and found.seeds == 2
    pairs = summary.seed_differences("data", "other", "accuracy")
    assert [both for _, both in pairs] == [True, False, False, True]
    assert [apart for apart, _ in pairs] == pytest.approx([0.1, -0.46, 0.55, 0.12])


def test_what_a_sample_of_images_does_to_both_cancels(summarized):
    effects = np.random.default_rng(0).normal(0, 0.1, 50)
    found = summarized(moved(["much"]), effects).difference("data", "much", "accuracy")
    assert found.image_variance == pytest.approx(0) and found.single_variance == pytest.approx(0)
    assert found.p_value == pytest.approx(paired_p("much"))


def test_results_on_other_images_are_not_compared(summarized):
    summary = summarized(moved(["much"]))
    summary.results["data/much/seed-1"] = dataclasses.replace(summary.results["data/much/seed-1"], images_key="others")
    assert summary.difference("data", "much", "accuracy") is None
    found = against_plain(summary)["much"]
    assert (found.p_mean, found.text) == (None, "other images")
    shares = summarized({"plain": (0.9,) * 4, "never": (0.34, 0.33, 0.34, 0.33)}, chance=CHANCE)
    assert against_plain(shares)["never"].p_share == pytest.approx(2 / 70)
    shares.results["data/never/seed-1"] = dataclasses.replace(shares.results["data/never/seed-1"], images_key="others")
    assert against_plain(shares)["never"].p_share is None
    del summary.results["data/much/seed-1"]
    assert against_plain(summary)["much"].text == "missing" and summary.missing_seeds("data", "much") == [1]


def test_the_margin_above_chance_is_of_the_best_of_all_runs(summarized):
    effects = np.array([-0.02, 0.02] * 50)
    never = summarized({"plain": (0.30, 0.31, 0.32, 0.33), "other": (0.30, 0.38, 0.3, 0.3)}, effects, chance=CHANCE)
    learning = never.learning("data", "accuracy")
    assert learning.best == 0.38 and learning.margin == pytest.approx(norm.isf(0.05 / 8) * np.std(effects, ddof=1))
    assert not learning.is_above_chance and not never.spread("data", "other", "accuracy").has_learned


def test_a_metric_has_its_own_chance_level_or_that_of_the_main_one(summarized, monkeypatch):
    summary = summarized(moved(["much"]))
    for name, result in summary.results.items():
        samples = {**result.resampled, "own": np.full(2, 0.25)}
        metrics = {**result.metrics, "own": 0.25}
        summary.results[name] = dataclasses.replace(result, metrics=metrics, resampled=samples)
    monkeypatch.setattr("detection.ablation.plan.Plan.chance", lambda plan, data: {"accuracy": 1 / 3, "own": 0.1})
    levels = [summary.learning("data", metric) for metric in ("accuracy", "own", "another")]
    assert [level.chance for level in levels] == [1 / 3, 0.1, 1 / 3]
    assert [level.best for level in levels] == pytest.approx([0.74, 0.25, 0.74])


def test_a_spread_is_of_the_seeds_that_learned():
    assert Spread((0.5, 0.7)).sd == pytest.approx(0.02**0.5) and Spread((0.5,)).sd is None
    some = Spread((0.9, 0.3, 0.7), (True, False, True))
    assert (some.mean, some.sd, some.share.value) == pytest.approx((0.8, 0.02**0.5, 2 / 3))


def test_metrics_and_results_of_two_runs_are_told_apart():
    _require_same({"AP": 0.5, "other": 1.0}, {"AP": 0.5 + 5e-7})
    for value in (0.5 + 2e-6, float("nan")):
        with pytest.raises(CorruptRun, match="its metrics.json holds AP 0.500000"):
            _require_same({"AP": 0.5}, {"AP": value})
