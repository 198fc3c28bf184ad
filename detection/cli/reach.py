"""Measure the effective receptive field of a context: the gradient of the center's output by the input, over the map.

detection reach CONFIG [--no-cells] [--size H W] [--output FILE.png] [key=value ...]
detection reach RUN [--cells] [--size H W] [--output FILE.png] [key=value ...]

CONFIG is a file or the name of a shipped config. A config's context is measured at initialization, on standard normal
input. A run's is measured as trained, on the feature maps of validation images, or on standard normal input where there
are none or with --size. With --cells, the default for a config whose context is a SpatialRNN, the same context is
measured with every recurrent cell at initialization, too.

Values are relative to the center's. Writes RUN/plots/reach.png, or reach-CONFIG.png in the current folder.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.cli import CHANGES, command_parser
from detection.errors import UserError, command_line
from detection.names import plot_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from detection.analysis.receptive_field import Inputs
    from detection.backbones import Backbone
    from detection.config import Config, Part
    from detection.detector import Detector

IMAGES, DRAWS = 4, 8
SIZE = (33, 33)
"""Locations of a random map: its border is 16 locations from the center."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line, and check it."""
    parser = command_parser("reach", __doc__, trust=True)
    parser.add_argument("source", type=Path, metavar="RUN|CONFIG", help="folder of a training run, or a config")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=CHANGES)
    parser.add_argument("--cells", action=argparse.BooleanOptionalAction, help="measure every recurrent cell, too")
    size = f"locations of the random input; {SIZE[0]} {SIZE[1]} if left out"
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help=size)
    default = "RUN/plots/reach.png or reach-CONFIG.png if left out (see above); overwritten"
    parser.add_argument("--output", type=Path, metavar="FILE.png", help=default)
    args = parser.parse_args(argv)
    if args.size is not None and min(args.size) < 1:
        raise UserError(f"--size {args.size[0]} {args.size[1]}: must be 1 or more.")
    args.is_run = args.source.is_dir()
    if args.output is None:
        run, config = args.source / "plots" / "reach.png", Path(f"reach-{args.source.stem}.png")
        args.output = run if args.is_run else config
    if args.output.suffix != ".png" or args.output.is_dir():
        raise UserError(f"--output {args.output}: must be a file name that ends in .png.")
    return args


def open_source(args: argparse.Namespace) -> "tuple[Config, Backbone, Detector | None]":
    """Return the config and backbone of the source, and for a run its detector.

    Raises:
        UserError: there is no context in them.
    """
    from detection.config import load_config
    from detection.config.files import find_config
    from detection.contracts import require_feature_maps
    from detection.runs.folder import open_config, open_run

    if args.is_run:
        config = open_config(args.source, args.overrides)
    else:
        config = load_config(find_config(args.source), args.overrides)
    if config.detector.context is None:
        raise UserError(f"{args.source}: has no context (detector.context is None) to measure.")
    if args.is_run:
        detector, _, config = open_run(args.source, overrides=args.overrides)
        return config, detector.backbone, detector
    backbone = config.detector.backbone()
    require_feature_maps("context", (config.detector.context_source,), backbone.out_channels)
    return config, backbone, None


def choose_inputs(
    size: list[int] | None, config: "Config", backbone: "Backbone", detector: "Detector | None"
) -> "tuple[Inputs, str]":
    """Return the contexts' inputs and their description: maps of validation images, or standard normal ones."""
    from detection.analysis.receptive_field import image_inputs, random_inputs

    if detector is not None and size is None:
        images = validation_images(config)
        if images:
            return image_inputs(detector, images), f"feature maps of {len(images)} validation images"
    source = config.detector.context_source
    height, width = size or SIZE
    return random_inputs(backbone.out_channels[source], height, width, DRAWS, config.seed), "standard normal input"


def validation_images(config: "Config") -> "list[Tensor]":
    """Return a few images of the validation data; none, after a line with the reason, where it is missing."""
    from detection.analysis.samples import sample_positions
    from detection.data.dataset import DetectionDataset
    from detection.training.loaders import open_split

    try:
        dataset = DetectionDataset(open_split("data.val", config.data.val), Path(config.data.val.images))
    except UserError as error:
        print(f"note     no validation images: {error}")
        return []
    return [dataset[position][0] for position in sample_positions(dataset, IMAGES)]


def measure_contexts(
    parts: "dict[str, Part]", trained: "nn.Module | None", channels: int, inputs: "Inputs", seed: int
) -> "dict[str, Tensor]":
    """Return the fields of the trained context, if there is one, and of each part at initialization, by name."""
    from detection.analysis.receptive_field import build_context, effective_receptive_field
    from detection.runs.logs import progress

    contexts = {} if trained is None else {"this run": lambda: trained}
    contexts |= {name: lambda part=part: build_context(part, channels, seed) for name, part in parts.items()}
    fields = {}
    with progress("measuring", len(contexts)) as bar:
        for name, context in contexts.items():
            fields[name] = effective_receptive_field(context(), inputs, draws=max(1, DRAWS // len(inputs)), seed=seed)
            bar.advance()
    return fields


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure atomically."""
    from detection.atomic_write import atomic_write

    try:
        atomic_write(path, lambda temporary: figure.savefig(temporary, format="png"))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output.") from None


@command_line
def main(argv: list[str] | None = None) -> None:
    """Open the source, measure, print a table and plot."""
    args = parse(argv)
    from detection.analysis.receptive_field import cell_of, receptive_field_table, with_each_cell
    from detection.analysis.receptive_field_plots import plot_receptive_field
    from detection.context import SpatialRNN

    config, backbone, detector = open_source(args)
    part: Any = config.detector.context
    cells = part.func is SpatialRNN and not args.is_run if args.cells is None else args.cells
    parts = with_each_cell(part) if cells else {} if args.is_run else {part.func.__name__: part}
    own = "this run" if args.is_run else cell_of(part).func.__name__ if cells else None

    inputs, what = choose_inputs(args.size, config, backbone, detector)
    source = config.detector.context_source
    trained = None if detector is None else detector.context
    fields = measure_contexts(parts, trained, backbone.out_channels[source], inputs, config.seed)
    height, width = next(iter(fields.values())).shape
    size = f"{height} x {width} locations of {backbone.strides[source]} px"
    print(f"input    {what}, {size}")
    print(receptive_field_table(fields))
    name = args.source.resolve().stem
    title = f"Effective receptive field of {plot_name(name, 60)}, {part.func.__name__} on {source}\n{what}, {size}"
    save_figure(plot_receptive_field(fields, title, backbone.strides[source], own), args.output)
    print(f"drawn in {args.output}")


if __name__ == "__main__":
    sys.exit(main())
