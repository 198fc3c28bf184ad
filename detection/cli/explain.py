"""Show what decided the class of each detection: boxes held fixed, the image covered patch by patch.

detection explain RUN IMAGE|FOLDER|GLOB ... [--output DIR] [--score S] [--top N] [--patch N] [--device D]
detection explain RUN                     on the run's validation images

Writes into DIR (explanations, or the next free of explanations-2, -3, ...) for each image
  NAME.png   a row for each of its N best detections: lit where covering the image with its mean color, or exchanging
             its color channels, lowers the probability of the detection's class, and next to it by the gradient of
             that probability
  NAME.json  class, probability and box of these detections; of the patches at least a patch away from the box the one
             that lowers the probability most (far_patch, xyxy in pixels), and by how much (drop); neither where none
             lowers it
and, of two images or more,
  mean.png   the mean over these detections of all images, by a patch's place relative to the object: where context
             comes from
  mean.json  its numbers (mean_drop), and the place at least a patch away that matters most (far)
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from detection.cli import DEVICE, DEVICES, command_parser, require_free
from detection.errors import UserError, command_line

if TYPE_CHECKING:
    from detection.config import Config


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser("explain", __doc__, trust=True)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a training run, or a checkpoint")
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="image file, folder, or quoted pattern; the run's validation images if left out",
    )
    parser.add_argument("--output", type=Path, help="a new folder; explanations, explanations-2, ... if left out")
    parser.add_argument("--score", type=float, help="least score of a detection; as of `detection predict` if left out")
    parser.add_argument("--top", type=int, default=6, metavar="N", help="detections an image (default 6)")
    parser.add_argument(
        "--patch", type=int, default=2, metavar="N", help="side of a patch, in locations of the feature map that the "
        "context reads (default 2)"
    )  # fmt: skip
    parser.add_argument("--device", choices=DEVICES, help=DEVICE)
    args = parser.parse_args(argv)
    for name in ("top", "patch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be 1 or more.")
    if args.score is not None and not 0 <= args.score <= 1:
        raise UserError(f"--score {args.score}: must be between 0 and 1.")
    require_free(args.output)
    return args


def validation_images(config: "Config") -> Iterator[Path]:
    """Yield the files of a run's validation split, in its order."""
    from detection.training.evaluate import own_split
    from detection.training.loaders import open_split

    files = own_split(config, "val")
    index = open_split("data.val", files)
    for i in range(len(index)):
        yield Path(files.images) / index.file_name(i)


@command_line
def main(argv: list[str] | None = None) -> None:
    """Open the run, and explain the detections in one image after the other."""
    args = parse(argv)
    import torch

    from detection.analysis.explain import explain_detections, require_fixed_boxes
    from detection.analysis.explain_mean import MeanDrops
    from detection.analysis.explain_plots import LEAST_DROP, describe, write_explanation, write_means
    from detection.atomic_write import atomic_folder
    from detection.cli.predict import output_folder
    from detection.data.images import read_image
    from detection.detector import require_visible
    from detection.names import short_line, short_name, unique_stems
    from detection.predictor import Predictor
    from detection.runs.image_files import find_images
    from detection.training.loaders import require_device
    from detection.training.preemption import watch

    require_device(args.device)
    found = find_images(args.images).paths if args.images else None
    predictor = Predictor(args.run, args.device, args.score, trust=args.trust)
    require_fixed_boxes(predictor.detector)
    paths = list(validation_images(predictor.config) if found is None else found)
    means = MeanDrops()
    with (
        watch(until_exit=True),
        output_folder(args.output, "explanations") as output,
        atomic_folder(output.resolve()) as folder,
    ):
        for path, stem in zip(paths, unique_stems(paths, taken=("mean",)), strict=True):
            image = read_image(path)
            height, width = image.shape[:2]
            require_visible(height, width, predictor.detector.min_size, predictor.detector.max_size, str(path))
            detections = predictor(image)
            if not len(detections):
                print(short_line(f"{path}: nothing found with a score of {predictor.score:.3g} or more"))
                continue
            boxes, labels = detections.boxes[: args.top], detections.labels[: args.top]
            pixels = torch.from_numpy(image).permute(2, 0, 1).to(predictor.device)  # (3, H, W)
            options = {"patch": args.patch, "label": f"covering {stem}"}
            explanation = explain_detections(predictor.detector, pixels, boxes, labels, **options)
            means.add(explanation, boxes.numpy())
            described = describe(explanation, detections.names[: args.top], boxes.numpy())
            classes = [category.name for category in predictor.categories]
            write_explanation(folder, stem, image, explanation, described, classes)
            for entry in described:
                where = f"no patch far from it lowers that by {LEAST_DROP}"
                if entry.get("drop", 0) >= LEAST_DROP:
                    x, y = entry["far_patch"][:2]
                    where = f"{entry['drop']:.2f} less by the patch at {x:.0f}, {y:.0f}"
                print(short_line(f"{path}: {short_name(entry['class'])} {entry['probability']:.2f}: {where}"))
        if len(paths) > 1 and means.detections:
            print(write_means(folder, means))
    if any(output.iterdir()):
        print(short_line(f"written to {output}"))
    else:
        output.rmdir()
        print("nothing to explain, and nothing is written: lower --score")


if __name__ == "__main__":
    sys.exit(main())
