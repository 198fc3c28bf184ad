"""Two or more finished runs as a report: settings, figures, classes, and the images on which they differ most."""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from detection.ablation import formats
from detection.ablation.comparison import METRICS, FinishedRun, ImageDifference, differences, image_differences, numbers
from detection.ablation.comparison_pictures import draw_difference
from detection.ablation.document import Block, Bullets, Heading, Paragraph, Picture, Table
from detection.ablation.states import differences as setting_differences

EVEN = (0, 0)


def build_comparison(runs: Sequence[FinishedRun], pictures: int) -> list[Block]:
    """Everything about runs on the same images; each is compared with the first.

    Args:
        runs: two or more.
        pictures: most images to draw where a run is better than the first, and where it is worse.

    Raises:
        UserError: an image that is to be drawn is not there.
    """
    first, others = runs[0], runs[1:]
    blocks: list[Block] = [Heading(1, "Runs side by side"), *figures(runs)]
    for run in others:
        blocks += [Heading(2, f"{run.name} against {first.name}"), *_settings(first, run)]
        ranked = image_differences(first, run)
        blocks += [_counts(first, run, ranked), *_pictures(first, run, ranked, pictures)]
    return blocks


def figures(runs: Sequence[FinishedRun]) -> list[Block]:
    """Tables of all metrics and of AP50 by class, with differences to the first run."""
    first, others = runs[0], runs[1:]
    found = {run.name: numbers(run) for run in runs}
    apart = {run.name: differences(first, run) for run in others}

    def row(label: str, key: str) -> list[str]:
        cells = [label, _number(found[first.name][key])]
        for run in others:
            cells += [_number(found[run.name][key]), formats.interval(apart[run.name][key])]
        return cells

    head = [first.name, *(text for run in others for text in (run.name, f"{run.name} − {first.name}"))]
    classes = [key for key in found[first.name] if key.startswith("AP50/")]
    about = (
        f"{first.evidence.num_images} images. Differences with 95 % intervals from drawing the images again; each is "
        "one run, so they are about these trained networks on other images and tell nothing about another seed."
    )
    return [
        Paragraph(about),
        Table(["metric", *head], [row(metric, metric) for metric in METRICS]),
        Table(["AP50 of class", *head], [row(key.partition("/")[2], key) for key in classes]),
    ]


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def _settings(first: FinishedRun, run: FinishedRun) -> list[Block]:
    changed = setting_differences(run.config, first.config)
    if not changed:
        return [Paragraph("Their settings are the same.")]
    return [Paragraph("What was set otherwise:"), Bullets(changed)]


def _counts(first: FinishedRun, run: FinishedRun, ranked: Sequence[ImageDifference]) -> Block:
    saved, lost = (sum(len(getattr(d, name)) for d in ranked) for name in ("saved", "lost"))
    alarms = [sum(d.false_alarms[i] for d in ranked) for i in (0, 1)]
    better, worse = sum(d.gain > EVEN for d in ranked), sum(d.gain < EVEN for d in ranked)
    return Paragraph(
        f"Each at the score of its best F1 ({first.threshold:.2f} and {run.threshold:.2f}), IoU 0.5: {run.name} finds "
        f"{saved} objects that {first.name} misses and misses {lost} that it finds; false alarms {alarms[0]} → "
        f"{alarms[1]}. It is better on {better} images, worse on {worse}, even on {len(ranked) - better - worse}. An "
        "object that a false alarm of another class outscores does not count as found."
    )


def _pictures(first: FinishedRun, run: FinishedRun, ranked: Sequence[ImageDifference], pictures: int) -> list[Block]:
    better = [d for d in ranked if d.gain > EVEN][:pictures]
    worse = [d for d in reversed(ranked) if d.gain < EVEN][:pictures]
    blocks: list[Block] = []
    for title, chosen in ((f"Where {run.name} is better", better), (f"Where {run.name} is worse", worse)):
        if chosen:
            blocks.append(Heading(3, title))
            blocks += [_picture(first, run, difference) for difference in chosen]
    return blocks


def _picture(first: FinishedRun, run: FinishedRun, difference: ImageDifference) -> Picture:
    item = sorted(first.truth["images"], key=lambda image: image["id"])[difference.position]
    caption = (
        f"{item['file_name']}: {len(difference.saved)} objects saved, {len(difference.lost)} lost, "
        f"false alarms {difference.false_alarms[0]} → {difference.false_alarms[1]}"
    )
    name = f"{first.name}-{run.name}-{item['id']}.png".replace("/", "-")
    return Picture(name, caption, _png(draw_difference(first, run, difference)))


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
