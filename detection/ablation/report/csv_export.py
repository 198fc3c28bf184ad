"""The report's files: Markdown with its images, one HTML page, and a CSV of all figures."""

import csv
import io
from collections.abc import Iterator

from detection.ablation.summary import Summary

COLUMNS = (
    "data", "variant", "metric", "class", "mean", "sd", "values", "reference", "difference", "low", "high", "missing"
)  # fmt: skip


def to_csv(summary: Summary) -> str:
    """A line for each metric of each variant on each data set; what is missing is left empty, and told in `missing`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for data in summary.plan.ablation.data:
        for variant in summary.plan.variants:
            writer.writerows(_lines(summary, data, variant))
    return buffer.getvalue()


def _lines(summary: Summary, data: str, variant: str) -> Iterator[list[object]]:
    reference, kind = summary.plan.ablation.reference, summary.plan.ablation.kind
    lacking = " ".join(f"seed-{cell.seed}" for cell in summary.lacking(data, variant))
    run = next((summary.runs[c.name] for c in summary.plan.of(data, variant) if c.name in summary.runs), None)
    for key in kind.metrics if run is None else run.numbers:
        metric, _, of_class = key.partition("/")
        spread = summary.spread(data, variant, key)
        figures = ["", "", ""] if spread is None else [spread.mean, spread.sd, " ".join(map(repr, spread.values))]
        interval = None if variant == reference else summary.difference(data, variant, key)
        ends = ["", "", ""] if interval is None else [interval.value, interval.low, interval.high]
        yield [data, variant, metric, of_class, *figures, reference, *ends, lacking]
