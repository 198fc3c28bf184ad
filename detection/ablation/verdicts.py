"""Verdicts on the comparisons of an ablation, adjusted for the number of all of them.

A comparison of two variants has two tests: of the difference among seeds with which both learned, and of the shares of
seeds that learn (Fisher). A primary comparison is one family; all others of one metric on one data set are one
family, in which Holm's adjustment lets a false verdict happen at most 5 % of the time. A difference that too few images
define is not tested (`detection.evaluation.intervals`).
"""

from dataclasses import dataclass, replace

from detection.ablation.summary import AblationSummary
from detection.evaluation.intervals import LEVEL, TOO_FEW, Interval
from detection.evaluation.seeds import holm, share_p_value


@dataclass(frozen=True)
class Verdict:
    """The outcome of one comparison.

    Attributes:
        interval: the difference among seeds with which both learned; None where there is none.
        p_mean: its p value, adjusted; None where it is not tested.
        p_share: adjusted p value of equal shares of seeds that learn; None where no outcome could be significant.
        primary: it was named before the first run.
        text: what it shows, in words.
    """

    interval: Interval | None
    p_mean: float | None
    p_share: float | None
    primary: bool
    text: str

    @property
    def is_significant(self) -> bool:
        """Whether the difference among seeds that learned is."""
        return self.p_mean is not None and self.p_mean < 1 - LEVEL


def verdicts(summary: AblationSummary, data: str, metric: str) -> dict[tuple[str, str], Verdict]:
    """Compute the verdicts of all comparisons of a metric on a data set, by variant and what it is compared with."""
    pairs = _pairs(summary, data, metric)
    primary = {pair: summary.plan.is_primary(*pair, metric, data) for pair in pairs}
    intervals = {pair: summary.difference(data, pair[0], metric, pair[1]) for pair in pairs}
    p_values = {pair: _p_values(summary, data, metric, pair, intervals[pair]) for pair in pairs}
    families = [[pair] for pair in pairs if primary[pair]] + [[pair for pair in pairs if not primary[pair]]]
    adjusted: dict[tuple[tuple[str, str], str], float] = {}
    for family in families:
        tests = [((pair, what), p) for pair in family for what, p in p_values[pair].items()]
        adjusted |= dict(zip([test for test, _ in tests], holm([p for _, p in tests]), strict=True))
    found = {}
    for pair in pairs:
        p_mean, p_share = adjusted.get((pair, "mean")), adjusted.get((pair, "share"))
        verdict = Verdict(intervals[pair], p_mean, p_share, primary[pair], "")
        found[pair] = replace(verdict, text=_text(summary, data, metric, pair, verdict))
    return found


def _pairs(summary: AblationSummary, data: str, metric: str) -> list[tuple[str, str]]:
    plan = summary.plan
    pairs = [(variant, plan.ablation.reference) for variant in plan.variants if variant != plan.ablation.reference]
    pairs += [*plan.controls.items()]
    pairs += [
        (one.variant, one.against) for one in plan.ablation.comparisons if (one.data, one.metric) == (data, metric)
    ]
    return list(dict.fromkeys(pairs))


def _p_values(
    summary: AblationSummary, data: str, metric: str, pair: tuple[str, str], interval: Interval | None
) -> dict[str, float]:
    """The p values of `mean` and `share`, of those that are tested."""
    mine, theirs = (summary.spread(data, variant, metric) for variant in pair)
    if mine is None or theirs is None or not summary.same_images(data, *pair):
        return {}
    found: dict[str, float] = {}
    # One pair of several seeds is about the images alone, which is no verdict on other seeds, nor are few images one on
    # other images.
    if interval is not None and not interval.has_few_images and interval.seeds >= min(2, len(mine.values)):
        found["mean"] = interval.p_value
    if mine.learned is not None and theirs.learned is not None:
        p_share = share_p_value(mine.learned, theirs.learned)
        found |= {} if p_share is None else {"share": p_share}
    return found


def _text(summary: AblationSummary, data: str, metric: str, pair: tuple[str, str], verdict: Verdict) -> str:
    mine, theirs = (summary.spread(data, variant, metric) for variant in pair)
    if mine is None or theirs is None:
        return "missing" if any(summary.missing_seeds(data, variant) for variant in pair) else "n/a"
    if not summary.same_images(data, *pair):
        return "other images"
    if not mine.has_learned:
        return f"{'has not' if theirs.has_learned else 'neither has'} learned in {summary.updates(data, pair[0])}"
    other = "the reference" if pair[1] == summary.plan.ablation.reference else pair[1]
    words = [] if theirs.has_learned else [f"{other} has not learned in {summary.updates(data, pair[1])}"]
    if verdict.is_significant and verdict.interval is not None:
        words.append("higher" if verdict.interval.value > 0 else "lower")
    if verdict.p_share is not None and verdict.p_share < 1 - LEVEL and mine.share and theirs.share:
        words.append("learns more often" if mine.share.value > theirs.share.value else "learns less often")
    if verdict.interval is not None and verdict.interval.has_few_images:
        words.append(TOO_FEW)
    return ", ".join(words) or "undecided"
