"""Export a trained run as an ONNX file, checked with ONNX Runtime against the run.

detection export RUN [--size H W | --dynamic] [--opset N] [--output FILE] [--images IMAGE ...] [key=value ...]

Writes FILE (RUN/onnx/model.onnx) and next to it predict_onnx.py, which detects with it and needs no torch.

The file takes images (B, 3, H, W), float RGB in [0, 1], each resized as the run does (predict_onnx.py shows how) and in
the top left, and sizes (B, 2), their heights and widths. It gives boxes (B, n, 4) in pixels of the batch, labels
(B, n), scores (B, n) and counts (B). Class names and preprocessing are in its metadata.

By default it takes one image of one size, which holds every image of the run; with --dynamic any number of any size.
Before it is written, its detections are compared with the run's on images: those of --images, else of the validation
set, else drawn ones. The docs have a table of what can be exported: docs/export.md.

Exit code 2: a mistake in the command, a part without an ONNX form, or a file that differs; nothing is written.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detection.cli import CHANGES, command_parser
from detection.errors import UserError, command_line
from detection.names import short_line, visible

if TYPE_CHECKING:
    import numpy as np

    from detection.config import Config
    from detection.export.verification import Verification

COMPARED = 6
"""Images that the file and the run are compared on."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line and refuse what does not go together."""
    parser = command_parser("export", __doc__, trust=True)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a training run, or a checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"of the run's config: {CHANGES}")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="of the file (default onnx)")
    about = "of the batch, into which images are made to fit; if left out, the size that holds every image of the run"
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help=about)
    parser.add_argument("--dynamic", action="store_true", help="any number of images of any size")
    parser.add_argument("--opset", type=int, default=17, metavar="N", help="version of ONNX's operators (default 17)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a new file; RUN/onnx/model.onnx if left out")
    parser.add_argument("--images", nargs="+", metavar="IMAGE", help="images, folders or patterns to compare on")
    args = parser.parse_args(argv)
    if args.size and args.dynamic:
        raise UserError("--size is for a file of one size, --dynamic for any: leave one of them out.")
    if args.size and min(args.size) < 32:
        raise UserError(f"--size {args.size[0]} {args.size[1]}: both must be 32 or more.")
    return args


@command_line
def main(argv: list[str] | None = None) -> None:
    """Open the run, export it and print what was compared."""
    args = parse(argv)
    from detection.export.export import ExportSettings, default_size, export, require_opset
    from detection.export.onnx_file import require_onnx
    from detection.predictor import choose_score, split_run
    from detection.runs.folder import open_run
    from detection.training.preemption import watch

    require_opset(args.opset)
    require_onnx()
    run, checkpoint = split_run(args.run)
    output = args.output or run / "onnx" / "model.onnx"
    if os.path.lexists(output):
        raise UserError(f"{output}: exists already; remove it, or choose another --output.")
    detector, categories, config = open_run(run, "cpu", checkpoint, args.overrides, args.trust)
    images, origin = comparison_images(args.images, config)
    score, _ = choose_score(run, None, checkpoint)
    size = None if args.dynamic else tuple(args.size) if args.size else default_size(detector)
    with watch(until_exit=True):  # a signal is an exception, so that no half-written file stays
        found = export(detector, categories, output, ExportSettings(size, args.opset, score), images)
    if config.precision != "no":
        print(f"precision   float32: the run's {config.precision} is of training and is not exported")
    print("takes       " + ("batches of any size" if size is None else f"one image, in a batch of {size[0]}x{size[1]}"))
    print_verification(found, origin)
    print(f"written to  {visible(str(output))}, and next to it predict_onnx.py")


def comparison_images(asked: list[str] | None, config: "Config") -> "tuple[list[np.ndarray], str]":
    """Return images (H, W, 3) uint8 RGB, and where they are from in words.

    Raises:
        UserError: those asked for cannot be read.
    """
    from detection.data.coco_index import load_index
    from detection.data.image_paths import resolve_image
    from detection.data.images import read_image
    from detection.runs.image_files import find_images

    if asked:
        paths = find_images(asked).paths[:COMPARED]
        return [read_image(path) for path in paths], "of --images"
    if config.data.val is not None and config.data.val.images:
        try:
            index = load_index(config.data.val.annotations)
            folder, rows = Path(config.data.val.images), range(min(COMPARED, len(index)))
            paths = [resolve_image(folder, index.file_name(row)) for row in rows]
            return [read_image(path) for path in paths], "of the validation set"
        except UserError:
            pass
    from detection.export.drawn_images import drawn_images

    return drawn_images(COMPARED), "that were drawn, as the validation set cannot be read here (--images takes others)"


def print_verification(found: "Verification", origin: str) -> None:
    """Print what was compared, how far it differs, and both times."""
    shapes = sorted({f"{shape[0]}x{shape[2]}x{shape[3]}" for shape in found.batches})
    print(short_line(f"compared    {found.compared} detections on {found.images} images {origin}"))
    print(short_line(f"            in batches of {', '.join(shapes)} (images x height x width)"))
    if found.lowered:
        print(f"            above a score of {found.threshold:.3g}: the run finds nothing above its own threshold")
    if found.undecided:
        print(f"            {found.undecided} more, which less than 1e-4 of a score or an IoU decides, were left out")
    print(f"differences at most {found.pixels:.1e} pixels and {found.score:.1e} of a score")
    seconds = (found.torch_seconds, found.onnx_seconds)
    torch_time, onnx_time = (f"{1000 * s / max(found.timed, 1):.1f} ms" for s in seconds)
    print(f"an image    {torch_time} by torch, {onnx_time} by ONNX Runtime, on this CPU")


if __name__ == "__main__":
    sys.exit(main())
