"""Images that one variant gets right and another does not, over all seeds, drawn with the results of both."""

from collections.abc import Sequence
from pathlib import Path

from detection.ablation.run_types import ChangedImages
from detection.comparison.comparison import FinishedRun, ImageDifference, image_differences, open_finished
from detection.comparison.report import draw_difference
from detection.names import short_name
from detection.reports.document import Figure
from detection.reports.files import image_png


def draw_changes(pairs: Sequence[tuple[Path, Path]], names: tuple[str, str], most: int, split: str) -> ChangedImages:
    """Draw the images with the largest change between two variants, as `RunType.changed_images` describes.

    The change of an image is the number of objects that the second finds more than the first, summed over the seeds,
    then the number of false positives that it has less. It is drawn with the seed that shows it most.

    Raises:
        UserError: a run or an image cannot be read.
    """
    opened = [tuple(_open(folder, name, split) for folder, name in zip(p, names, strict=True)) for p in pairs]
    by_image: dict[int, list[ImageDifference]] = {}
    for without, with_context in opened:
        for difference in image_differences(without, with_context):
            by_image.setdefault(difference.position, []).append(difference)
    gains = {position: _total(of_seeds) for position, of_seeds in by_image.items()}
    ranked = sorted(gains, key=lambda position: (gains[position], -position), reverse=True)
    saved = [position for position in ranked if gains[position] > (0, 0)]
    broken = [position for position in reversed(ranked) if gains[position] < (0, 0)]
    figures = [
        [_figure(kind, opened, by_image[position], names) for position in positions[:most]]
        for kind, positions in (("saved", saved), ("broken", broken))
    ]
    text = (
        f"Over {len(pairs)} seed{'s' * (len(pairs) > 1)} together, each run at the score of its best F1 and an IoU of "
        f"0.5, {names[1]} is better than {names[0]} on {len(saved)} of {len(by_image)} images and worse on "
        f"{len(broken)}. Those with the largest change are drawn."
    )
    return ChangedImages(figures[0], figures[1], text)


def _open(folder: Path, name: str, split: str) -> FinishedRun:
    return open_finished(folder, f"{name}, {folder.name}", split, last=split == "val")


def _total(of_seeds: Sequence[ImageDifference]) -> tuple[int, int]:
    objects, false_positives = zip(*(difference.gain for difference in of_seeds), strict=True)
    return sum(objects), sum(false_positives)


def _figure(
    kind: str,
    opened: Sequence[Sequence[FinishedRun]],
    of_seeds: Sequence[ImageDifference],
    names: tuple[str, str],
) -> Figure:
    sign = 1 if kind == "saved" else -1
    seed = max(range(len(of_seeds)), key=lambda s: [sign * gain for gain in of_seeds[s].gain])
    difference, (without, with_context) = of_seeds[seed], opened[seed]
    item = without.image_entry(difference.position)
    agreeing = sum([sign * gain for gain in d.gain] > [0, 0] for d in of_seeds)
    gained = f"{len(difference.gained)} object{'s' * (len(difference.gained) != 1)} gained"
    false_positives = f"{difference.false_positives[0]} → {difference.false_positives[1]}"
    caption = (
        f"{kind}, {short_name(item['file_name'], 80)}: with {names[1]} {gained}, {len(difference.lost)} lost, false "
        f"positives {false_positives}; {'better' if sign > 0 else 'worse'} with {agreeing} of {len(of_seeds)} seeds"
    )
    image = draw_difference(without, with_context, difference)
    return Figure(f"{kind}-{item['id']}.png", caption, image_png(image))
