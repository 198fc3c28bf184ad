"""Measure what we claim about speed. Ratios are of interleaved runs in one process; absolute times are only hints.

detection benchmark [NAME ...] [--device cpu|cuda] [--output FILE.json]

  train-step   our training step against the plain torchvision loop of the same model (EfficientNet-Lite0 FPN; two
               images of 240x320, and 16 of 128x128)
  dispatch     operations and time an image of a training forward of a small ION, at 2 and at 32 images
  sweep        four directions of recurrent cells against a plain loop and PyTorch's RNNs; memory; on CUDA bandwidth too
  recurrences  sweeps of every cell with an operation against the cell step by step; scratch memory
  cross-scan   routes over a complete map against one step after another in autograd
  line-propagation  lines that read the line before against the same in autograd
  grid         the two-dimensional LSTM and its linear form against the same by diagonals, and by locations, in autograd
  kernels      time in kernels of every cell's sweeps, how many they are, and their rate of memory against a copy's
  matching     2400 regions with 5 steps matched at once against SciPy in a loop; the decoder against its backbone
  ion-step, accnn-step, recurrent-step
               a training step of the configs {ion,accnn,recurrent}_lite0_finetune against one of finetune
  local-response  local response normalization of RCNN-96 against PyTorch's
  roi-align    our RoIAlign against torchvision's, backward alone and with the forward, at two sizes
  index        a synthetic file of COCO's size: first indexing, opening again, memory of a loading process
  evaluation   200 000 detections on 2000 images: pycocotools against hotcoco
  loading      decoders, loading processes and images in memory: images a second
  quickstart-step  an update of the quick start on 32 images in memory
  detector-step  Faster R-CNN with ResNet-50 and FPN on 4 images of 800x1216 against torchvision's loop, in bf16 and
               float32, and ION against it; on a CPU one small image, for a trial
"""

import sys
from pathlib import Path
from typing import Any

from detection.atomic_write import write_json
from detection.cli import command_parser
from detection.errors import UserError, command_line


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the named benchmarks, or all."""
    parser = command_parser("benchmark", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="see above; all if left out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="write the results as JSON, too")
    args = parser.parse_args(argv)
    import torch

    from detection.benchmarks import BENCHMARKS, machine

    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        raise UserError(f"{unknown[0]}: no such benchmark; known: {', '.join(BENCHMARKS)}.")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available here; use --device cpu.")
    report: dict[str, Any] = {"machine": machine(args.device)}
    for name in args.names or BENCHMARKS:
        report[name] = BENCHMARKS[name](args.device)
        print(name)
        for what, value in report[name].items():
            print(f"  {what:50} {value if isinstance(value, str) else format(value, '.4g')}", flush=True)
    if args.output is not None:
        write_json(args.output, report)


if __name__ == "__main__":
    sys.exit(main())
