"""Train a classifier of small images and evaluate it, or evaluate a trained one again.

detection train_classifier CONFIG [--output RUN] [key=value ...]
detection train_classifier --output RUN --resume [key=value ...]           continue a run that was stopped
detection train_classifier CONFIG --resume-or-start [...]                  continue it, or begin
detection train_classifier --evaluate RUN [--output DIR] [key=value ...]   into RUN/evaluation if DIR is left out
torchrun --nproc-per-node N -m detection.cli.train_classifier CONFIG ...   several processes

CONFIG is a file, or the name of a shipped config such as rcnn32_digits. Runs leave metrics.json and correct.json, which
has 1 or 0 for each image. Keys change the config: --evaluate RUN network.backbone.inference_steps=5.
"""

import argparse
import json
import sys
from pathlib import Path

from detection.cli.train import choose_run, folder_name, parse_training, training_parser, until_signaled
from detection.errors import UserError, command_line


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = training_parser("train_classifier", __doc__)
    parser.add_argument("--evaluate", type=Path, metavar="RUN", help="evaluate the network of this run")
    args = parse_training(parser, argv)
    if sum((args.config is not None, args.resume, args.evaluate is not None)) != 1:
        raise UserError("give one of: a config such as rcnn32_digits, --resume, --evaluate RUN.")
    return args


@command_line
def main(argv: list[str] | None = None) -> None:
    """Open config and data, then train or evaluate; nothing is written before both are sound."""
    args = parse(argv)
    with until_signaled():
        _train_or_evaluate(args)


def _train_or_evaluate(args: argparse.Namespace) -> None:
    from detection.classification.config import load_classifier_config, open_classifier_config
    from detection.classification.evaluation import evaluate_classifier
    from detection.classification.training import train_classifier
    from detection.runs.folder import taken_folder
    from detection.training.loaders import build_accelerator

    if args.evaluate is not None:
        print(json.dumps(evaluate_classifier(args.evaluate, args.output, args.device, args.overrides), indent=2))
        return
    config, folder, resume = choose_run(args, load_classifier_config, open_classifier_config)
    accelerator = build_accelerator(config.precision, args.device)
    with taken_folder(folder, folder_name(args), accelerator) as folder:
        train_classifier(config, folder, accelerator, resume=resume)


if __name__ == "__main__":
    sys.exit(main())
