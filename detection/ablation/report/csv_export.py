"""All metrics of an ablation as CSV."""

import csv
import io
from collections.abc import Iterator

from detection.ablation.summary import AblationSummary
from detection.names import csv_name

_COLUMNS = "data variant metric class mean sd values reference difference low high missing".split()


def to_csv(summary: AblationSummary) -> str:
    """A line per metric, variant and data set; missing values are empty, with their seeds in `missing`.

    Names are as `csv_name` writes them: safe to open as a spreadsheet.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for data in summary.plan.ablation.data:
        for variant in summary.plan.variants:
            writer.writerows(_lines(summary, data, variant))
    return buffer.getvalue()


def _lines(summary: AblationSummary, data: str, variant: str) -> Iterator[list[object]]:
    reference, plan = summary.plan.ablation.reference, summary.plan
    missing = " ".join(f"seed-{seed}" for seed in summary.missing_seeds(data, variant))
    result = next((summary.results[r.name] for r in plan.of(data, variant) if r.name in summary.results), None)
    for key in plan.ablation.run_type.metrics if result is None else result.metrics:
        metric, _, of_class = key.partition("/")
        spread = summary.spread(data, variant, key)
        values = ["", "", ""] if spread is None else [spread.mean, spread.sd, " ".join(map(repr, spread.values))]
        interval = None if variant == reference else summary.difference(data, variant, key)
        ends = ["", "", ""] if interval is None else [interval.value, interval.low, interval.high]
        names = map(csv_name, (data, variant, metric, of_class))
        yield [*names, *values, csv_name(reference), *ends, missing]
