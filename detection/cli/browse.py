"""Draw what the detector really sees on one sheet, and count its objects and their sizes.

detection browse CONFIG|RUN [--split train|val] [--count N] [--output FILE.png] [key=value ...]
detection browse CONFIG|RUN --augmented [--epoch E] ...

CONFIG is a file or the name of a shipped config. Plain: images resized as for the detector, with their boxes.
Augmented: a row an image, first unchanged, then exactly as training gets it in the four epochs from E on. Printed sizes
are pixels at the detector's input: choose anchors by them.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.atomic_write import atomic_write
from detection.cli import CHANGES, command_parser
from detection.errors import UserError, command_line
from detection.names import short_names, visible

if TYPE_CHECKING:
    import numpy as np

    from detection.config import Config
    from detection.data.coco_index import CocoIndex
    from detection.data.dataset import DetectionDataset

EPOCHS = 4
LISTED = 100
"""Most classes that are printed."""
SIDE = 512
"""Most pixels of the longer side of an image on the sheet."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line and refuse what does not go together."""
    parser = command_parser("browse", __doc__, trust=True)
    parser.add_argument("source", metavar="CONFIG|RUN", help="a config file or name, or the folder of a training run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=CHANGES)
    parser.add_argument("--augmented", action="store_true", help="training images with their augmentation")
    parser.add_argument("--split", choices=("train", "val"), default="train", help="train if left out")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="images, spread over the split; 8")
    parser.add_argument("--epoch", type=int, metavar="E", help=f"first of the {EPOCHS} epochs with --augmented; 0")
    output, about = Path("browse.png"), "browse.png if left out; overwritten"
    parser.add_argument("--output", type=Path, default=output, metavar="FILE.png", help=about)
    args = parser.parse_args(argv)
    if args.count < 1:
        raise UserError(f"--count {args.count}: must be 1 or more.")
    if args.augmented and args.split == "val":
        raise UserError("--augmented: only training images are augmented; leave out --split val.")
    if args.epoch is not None and (args.epoch < 0 or not args.augmented):
        raise UserError(f"--epoch {args.epoch}: a number from 0 on, and only with --augmented.")
    if args.output.suffix != ".png" or args.output.is_dir():
        raise UserError(f"--output {args.output}: must be a file name that ends in .png.")
    return args


def open_source(source: str, overrides: list[str], split: str) -> "tuple[Config, DetectionDataset]":
    """Open the config and its untransformed images, checked as training checks them."""
    from detection.config import load_config
    from detection.config.files import find_config
    from detection.data.dataset import DetectionDataset, require_training_boxes
    from detection.runs.folder import open_config
    from detection.scenes.ensure import ensure_scenes
    from detection.training.loaders import open_split

    is_run = Path(source).is_dir()
    config = open_config(source, overrides) if is_run else load_config(find_config(source), overrides)
    ensure_scenes(config.data)
    files = getattr(config.data, split)
    index = open_split(f"data.{split}", files)
    empty = files.empty_images if split == "train" else "keep"
    images = DetectionDataset(index, Path(files.images), None, config.seed, empty)
    if split == "train":
        require_training_boxes(images)
    if not len(images):
        raise UserError(f"{index.path}: has no images; check the file.")
    return config, images


def size_lines(index: "CocoIndex", config: "Config") -> list[str]:
    """Format the number and size of each class, and quantiles of all sizes and aspect ratios."""
    import numpy as np

    from detection.analysis.anchor_fit import FIT, describe_anchor_fit, input_boxes
    from detection.config import to_plain

    boxes, labels = input_boxes(index, config), index.labels[~index.iscrowd]
    detector = config.detector
    lines = [f"input     shorter side {detector.min_size}, longer side at most {detector.max_size} px"]
    drawn = config.data.augmentation and config.data.augmentation.min_sizes
    if drawn:
        sides = ", ".join(map(str, drawn))
        lines.append(f"          training draws the shorter side from {sides} px; sizes below: without")
    if not len(boxes):
        return [*lines, "boxes     none"]
    sizes, ratios = np.sqrt(boxes.prod(axis=1)), boxes[:, 1] / boxes[:, 0].clip(1e-9)
    names = short_names(c.name for c in index.categories)
    frequent = np.argsort(-np.bincount(labels, minlength=len(names) + 1)[1:], kind="stable")
    shown = sorted(frequent[:LISTED].tolist())
    wide = max(len(names[row]) for row in shown)
    lines.append(f"\n{'class':{wide}}  {'boxes':>8}  median size")
    for row in shown:
        of_class = sizes[labels == row + 1]
        median = f"  {np.median(of_class):8.1f} px" if len(of_class) else ""
        lines.append(f"{names[row]:{wide}}  {len(of_class):8}{median}")
    if len(shown) < len(names):
        lines.append(f"{len(shown)} of {len(names)} classes, those with the most boxes")
    quantiles = (0, 1, 5, 25, 50, 75, 95, 99, 100)
    lines.append(f"\n{len(boxes)} boxes  " + "".join(f"{f'{q} %':>8}" for q in quantiles))
    for name, values in (("sqrt(area), px", sizes), ("height / width", ratios)):
        digits = 1 if values is sizes else 2
        lines.append(f"{name:15}" + "".join(f"{v:8.{digits}f}" for v in np.percentile(values, quantiles)))
    small = (f"{int((sizes < limit).sum())} under {limit} px" for limit in (8, 16, 32))
    lines.append(f"small: {', '.join(small)}")
    anchors: Any = to_plain(detector.regions)
    if "anchor_sizes" in anchors:
        pairs = zip(anchors["stages"], anchors["anchor_sizes"], strict=True)
        levels = (f"{stage} {'/'.join(map(str, sides))}" for stage, sides in pairs)
        lines.append(f"anchors now: {', '.join(levels)} px; height / width {anchors['aspect_ratios']}")
        if fit := describe_anchor_fit(boxes, config):
            share, better = fit
            lines.append(
                f"{share:.0%} of the boxes have the shape of an anchor (IoU {FIT:g} or more){better and ', '}{better}"
            )
    return lines


def draw_images(
    images: "DetectionDataset", config: "Config", count: int, epochs: range
) -> "tuple[list[np.ndarray], list[str]]":
    """Draw each image, plain and then once an epoch; returns the drawings and their titles."""
    from copy import copy

    import numpy as np

    from detection.analysis.samples import sample_positions
    from detection.analysis.visualize import distinct_colors
    from detection.data.transforms import Transform

    plain, augmented = copy(images), copy(images)
    plain.transform = Transform(None, config.detector.min_size, config.detector.max_size)
    augmented.transform = Transform(config.data.augmentation, config.detector.min_size, config.detector.max_size)
    items, titles = [], []
    for position in sample_positions(images, count):
        row = [plain[position], *(augmented[epoch, position] for epoch in epochs)]
        row_of_index = int(np.flatnonzero(images.index.image_ids == row[0][1]["image_id"])[0])
        columns = (Path(images.index.file_name(row_of_index)).name, *(f"epoch {e}" for e in epochs))
        for title, (image, target) in zip(columns, row, strict=True):
            items.append((image, target))
            titles.append(f"{title}, {image.shape[2]}x{image.shape[1]}")
    longest = max(max(image.shape[1:]) for image, _ in items)
    scale = SIDE // longest if longest <= SIDE else SIDE / longest
    names = [c.name for c in images.categories]
    colors = distinct_colors(names)
    return [_draw_image(image, target, scale, names, colors) for image, target in items], titles


def _draw_image(image: Any, target: dict, scale: float, names: list[str], colors: dict) -> "np.ndarray":
    """Draw an image with its boxes, enlarged by an integer factor or shrunk; all of a sheet by the same."""
    import numpy as np
    from PIL import Image

    from detection.analysis.visualize import draw_boxes

    pixels, boxes = image.permute(1, 2, 0).numpy(), target["boxes"].numpy()  # (H, W, 3)
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        pixels = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
        boxes, scale = boxes * scale, 1
    labels = [names[k - 1] for k in target["labels"].tolist()]
    return draw_boxes(pixels, boxes, labels, colors=colors, min_side=int(scale) * min(pixels.shape[:2]))


@command_line
def main(argv: list[str] | None = None) -> None:
    """Open the images, print what is in them, and draw some."""
    args = parse(argv)
    from PIL import Image

    from detection.analysis.visualize import contact_sheet

    config, images = open_source(args.source, args.overrides, args.split)
    counts = images.counts
    print(f"{args.split:9} {counts['images']} images, {counts['boxes']} boxes ({visible(str(images.index.path))})")
    print("\n".join(size_lines(images.index, config)))
    if args.augmented and config.data.augmentation is None:
        print("note      data.augmentation is None: every epoch gets the same images")
    first = args.epoch or 0
    epochs = range(first, first + EPOCHS) if args.augmented else range(0)
    drawings, titles = draw_images(images, config, args.count, epochs)
    sheet = contact_sheet(drawings, columns=1 + len(epochs) if args.augmented else 4, titles=titles)
    atomic_write(args.output, lambda temporary: Image.fromarray(sheet).save(temporary, format="png"))
    print(f"\ndrawn in  {visible(str(args.output))}")


if __name__ == "__main__":
    sys.exit(main())
