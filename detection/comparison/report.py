"""Report of a comparison: settings, metrics, classes, and the images on which the runs differ most."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detection.analysis.samples import LONGEST_DRAWN, draw_results, xywh_to_xyxy
from detection.analysis.visualize import contact_sheet, distinct_colors, draw_boxes, shrink
from detection.comparison.comparison import (
    FinishedRun,
    ImageDifference,
    image_differences,
    metric_differences,
    run_metrics,
)
from detection.config.differences import differences
from detection.data.federated import federated_remark
from detection.data.image_paths import resolve_image
from detection.data.images import read_image
from detection.evaluation.coco import AP_METRICS
from detection.evaluation.columns import class_names
from detection.evaluation.errors import analyze_errors
from detection.evaluation.intervals import LEVEL, format_interval
from detection.names import file_stem, short_name
from detection.reports.document import Block, Bullets, Figure, Heading, Paragraph, Table
from detection.reports.files import image_png
from detection.runs.records import version_differences

EVEN = (0, 0)


def build_comparison(runs: Sequence[FinishedRun], images: int) -> list[Block]:
    """Build all blocks of the report; each run is compared with the first.

    Args:
        runs: two or more runs on the same images.
        images: most images to draw where a run is better than the first, and where it is worse.

    Raises:
        UserError: an image to be drawn is missing.
    """
    first, *others = runs
    blocks: list[Block] = [Heading(1, "Comparison of runs"), *summary_blocks(runs)]
    for number, run in enumerate(others, start=2):
        ranked = image_differences(first, run)
        blocks += [Heading(2, f"{run.name} against {first.name}"), *_settings(first, run)]
        blocks += [_counts(first, run, ranked), *_figures(first, run, ranked, images, number)]
    return blocks


def summary_blocks(runs: Sequence[FinishedRun]) -> list[Block]:
    """Tables of metrics and errors, and warnings where versions differ, or not all classes are annotated."""
    return [*metric_tables(runs), *error_table(runs), *version_warning(runs), *federated_warning(runs)]


def metric_tables(runs: Sequence[FinishedRun]) -> list[Block]:
    """Tables of all metrics and of AP50 by class, with differences to the first run."""
    first, *others = runs
    metrics = {run.name: run_metrics(run) for run in runs}
    apart = {run.name: metric_differences(first, run) for run in others}

    def row(label: str, key: str) -> list[str]:
        texts = [label, _text(metrics[first.name][key])]
        for run in others:
            interval = apart[run.name][key]
            # Two values may differ by what no resampling of the images changes, as of a class with one object.
            both = not math.isnan(metrics[first.name][key] + metrics[run.name][key])
            difference = "no interval" if interval is None and both else format_interval(interval)
            texts += [_text(metrics[run.name][key]), difference]
        return texts

    head = [first.name, *(text for run in others for text in (run.name, f"{run.name} − {first.name}"))]
    classes = [key for key in metrics[first.name] if key.startswith("AP50/")]
    shown = [apart[run.name][key] for run in others for key in (*AP_METRICS, *classes)]
    tested = sum(interval is not None and not interval.has_few_images for interval in shown)
    about = (
        f"{first.per_image.num_images} images. Differences with 95 % intervals from bootstrapping the images; each is "
        "one run, so they are about these trained networks on other images, not about another seed. An asterisk marks "
        f"an interval that excludes 0; of runs that do not differ {(1 - LEVEL) * tested:.3g} of the {tested} intervals "
        "below would have one by chance, on average. Where so few images have objects that resamplings may have none, "
        "“too few images” is stated instead of a verdict."
    )
    return [
        Paragraph(about),
        Table(["metric", *head], [row(metric, metric) for metric in AP_METRICS]),
        Table(["AP50 of class", *head], [row(short_name(key.partition("/")[2]), key) for key in classes]),
    ]


def error_table(runs: Sequence[FinishedRun]) -> list[Block]:
    """Table of what each kind of error costs each run; nothing without hotcoco."""
    analyses = [analyze_errors(run.ground_truth, run.results) for run in runs]
    found = [a["delta_AP50"] for a in analyses if a is not None]
    if not found:
        return []
    calibration = [a["calibration"] for a in analyses if a is not None]
    rows = [[kind, *(f"{gains[kind]:+.3f}" for gains in found)] for kind in found[0]]
    rows.append(["calibration error", *("–" if c is None else f"{c['error']:.3f}" for c in calibration)])
    return [Table(["AP50 gained without errors of the kind", *(run.name for run in runs)], rows)]


def version_warning(runs: Sequence[FinishedRun]) -> list[Block]:
    """Warn of libraries that runs were made with in different versions; nothing where all are the same."""
    differing = version_differences({run.name: run.environment for run in runs})
    if not differing:
        return []
    items = [
        f"{lib}: {', '.join(f'{v} ({name})' for name, v in of_runs.items())}" for lib, of_runs in differing.items()
    ]
    about = "The runs were not all made with the same versions of libraries that touch pixels or numbers."
    return [Paragraph(about, True), Bullets(items)]


def federated_warning(runs: Sequence[FinishedRun]) -> list[Block]:
    """Warn of annotations that do not have all classes in each image, which runs are not measured by."""
    remark = federated_remark(runs[0].files["annotations"])
    return [] if remark is None else [Paragraph(f"{remark}.", True)]


def _text(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def _settings(first: FinishedRun, run: FinishedRun) -> list[Block]:
    changed = differences(run.config, first.config)
    if not changed:
        return [Paragraph("Their settings are the same.")]
    return [Paragraph("Differences of settings:"), Bullets(changed)]


def _counts(first: FinishedRun, run: FinishedRun, ranked: Sequence[ImageDifference]) -> Block:
    gained, lost = sum(len(d.gained) for d in ranked), sum(len(d.lost) for d in ranked)
    false = [sum(d.false_positives[i] for d in ranked) for i in (0, 1)]
    better, worse = sum(d.gain > EVEN for d in ranked), sum(d.gain < EVEN for d in ranked)
    return Paragraph(
        f"Each at the score of its best F1 ({first.threshold:.4g} and {run.threshold:.4g}), IoU 0.5: objects that "
        f"{run.name} alone finds: {gained}, that {first.name} alone finds: {lost}; false positives {false[0]} → "
        f"{false[1]}. It is better on {better} images, worse on {worse}, even on {len(ranked) - better - worse}. An "
        "object that a false positive of another class outscores does not count as found."
    )


def _figures(
    first: FinishedRun, run: FinishedRun, ranked: Sequence[ImageDifference], images: int, number: int
) -> list[Block]:
    better = [d for d in ranked if d.gain > EVEN][:images]
    worse = [d for d in reversed(ranked) if d.gain < EVEN][:images]
    blocks: list[Block] = []
    for title, chosen in ((f"Where {run.name} is better", better), (f"Where {run.name} is worse", worse)):
        if chosen:
            blocks.append(Heading(3, title))
            blocks += [_figure(first, run, difference, number) for difference in chosen]
    return blocks


def _figure(first: FinishedRun, run: FinishedRun, difference: ImageDifference, number: int) -> Figure:
    item = first.image_entry(difference.position)
    caption = (
        f"{short_name(item['file_name'], 80)}: objects gained {len(difference.gained)}, lost {len(difference.lost)}; "
        f"false positives {difference.false_positives[0]} → {difference.false_positives[1]}"
    )
    pair = f"{number}-{first.name}-{run.name}".replace("/", "-")  # numbered, as long names are cut
    name = f"{file_stem(pair)}-{item['id']}.png"
    return Figure(name, caption, image_png(draw_difference(first, run, difference)))


def draw_difference(first: FinishedRun, second: FinishedRun, difference: ImageDifference) -> np.ndarray:
    """Draw ground truth, the first run's detections and the second's in a row, wide ones in a column, (H, W, 3) uint8.

    In the ground truth a box that only the second run found is marked as gained, one that only the first found as lost.

    Raises:
        UserError: the image is missing or cannot be read.
    """
    item = first.image_entry(difference.position)
    path = resolve_image(Path(first.files["images"]), item["file_name"])
    image, factor = shrink(read_image(path), LONGEST_DRAWN)
    by_id = class_names(first.ground_truth)
    names = list(by_id.values())
    colors = distinct_colors(names)
    targets = first.matching.targets
    inside = np.flatnonzero((targets.image == difference.position) & ~targets.crowd)
    marks = dict.fromkeys(difference.gained, " gained") | dict.fromkeys(difference.lost, " lost")
    labels = [names[targets.category[index]] + marks.get(int(index), "") for index in inside]
    by_label = {label: colors[names[targets.category[i]]] for i, label in zip(inside, labels, strict=True)}
    panels = [draw_boxes(image, xywh_to_xyxy(targets.box[inside]) * factor, labels, colors=by_label)]
    for run in (first, second):
        found = [r for r in run.results if r["image_id"] == item["id"] and r["score"] >= run.threshold]
        panels.append(draw_results(image, found, by_id, colors, factor))
    titles = ("ground truth", *(f"{run.name}, score from {run.threshold:.4g}" for run in (first, second)))
    height, width = image.shape[:2]
    return contact_sheet(panels, columns=1 if width >= 2 * height else 3, titles=titles)  # legible on a page
