"""All metrics of an ablation as CSV."""

import csv
import io
import math
from collections.abc import Iterator

from detection.ablation.summary import AblationSummary, Spread
from detection.ablation.verdicts import Verdict, verdicts
from detection.names import csv_name

_COLUMNS = (
    "data variant metric class mean sd values learned share share_low share_high mean_low mean_high "
    "reference difference low high p p_share verdict primary missing chosen"
).split()


def to_csv(summary: AblationSummary) -> str:
    """A line per metric, variant and data set, and one more for each comparison with another than the reference.

    Such lines follow that of the variant, and have what it is compared with as their `reference`. Missing values are
    empty, with their seeds in `missing`.

    Names are as `csv_name` writes them: safe to open as a spreadsheet.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for data in summary.plan.ablation.data:
        of_runs = (name for result in summary.of_data(data) for name in result.metrics)
        metrics = dict.fromkeys([*summary.plan.ablation.run_type.metrics, *of_runs])
        found = {metric: verdicts(summary, data, metric) for metric in metrics}
        for variant in summary.plan.variants:
            writer.writerows(_lines(summary, data, variant, found))
    return buffer.getvalue()


def _lines(
    summary: AblationSummary, data: str, variant: str, found: dict[str, dict[tuple[str, str], Verdict]]
) -> Iterator[list[object]]:
    reference, plan = summary.plan.ablation.reference, summary.plan
    chosen = csv_name(plan.chosen[variant].option) if variant in plan.chosen else ""
    missing = " ".join(f"seed-{seed}" for seed in summary.missing_seeds(data, variant))
    result = next((summary.results[r.name] for r in plan.of(data, variant) if r.name in summary.results), None)
    for key in plan.ablation.run_type.metrics if result is None else result.metrics:
        metric, _, of_class = key.partition("/")
        spread = summary.spread(data, variant, key)
        values = ["", "", ""] if spread is None else [spread.mean, spread.sd, " ".join(map(repr, spread.values))]
        start = [*map(csv_name, (data, variant, metric, of_class)), *values, *_over_seeds(spread)]
        if variant == reference:
            yield [*start, csv_name(reference), *_outcome(None), missing, chosen]
        for (compared, against), verdict in found[key].items():
            if compared == variant:
                yield [*start, csv_name(against), *_outcome(verdict), missing, chosen]


def _outcome(verdict: Verdict | None) -> list[object]:
    """The difference with its ends, both p values, the verdict, and whether it is primary."""
    if verdict is None:
        return [""] * 7
    interval = verdict.interval
    ends = ["", "", ""] if interval is None else [interval.value, interval.low, interval.high]
    return [*ends, verdict.p_mean, verdict.p_share, verdict.text, int(verdict.primary)]


def _over_seeds(spread: Spread | None) -> list[object]:
    """Number and share of seeds that learned with its interval, and the ends of the mean's."""
    if spread is None:
        return [""] * 6
    ends = ["" if math.isnan(end) else end for end in (spread.estimate.low, spread.estimate.high)]
    share = spread.share
    learned = [""] * 4 if share is None else [sum(spread.learned or ()), share.value, share.low, share.high]
    return [*learned, *(ends if spread.has_learned else ["", ""])]
