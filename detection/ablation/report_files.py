"""The report's files: Markdown with its pictures, one HTML page, and a CSV of all figures."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from detection.ablation.document import Block, Picture
from detection.ablation.html_page import to_html
from detection.ablation.markdown import to_markdown
from detection.ablation.summary import Summary
from detection.errors import UserError
from detection.whole_files import write_whole

COLUMNS = (
    "data", "variant", "metric", "class", "mean", "sd", "values", "reference", "difference", "low", "high", "missing"
)  # fmt: skip


def write_report(output: Path, name: str, blocks: Sequence[Block]) -> list[Path]:
    """Write `NAME.md`, its pictures and `NAME.html`; each file appears whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    pictures = [block for block in blocks if isinstance(block, Picture)]
    files: dict[str, bytes] = {picture.name: picture.png for picture in pictures}
    files |= {f"{name}.md": to_markdown(blocks).encode(), f"{name}.html": to_html(blocks).encode()}
    return write_files(output, files)


def write_files(output: Path, files: dict[str, bytes]) -> list[Path]:
    """Write files by name into a folder.

    Raises:
        UserError: it cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_whole(output / name, lambda path, content=content: path.write_bytes(content))
    except OSError as error:
        raise UserError(f"{output}: the report cannot be written there ({error.strerror}).") from None
    return [output / name for name in files]


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
