"""Contract of a run type: the command that makes a run, its config, and how its folder is read.

Ablations know nothing else about detectors or classifiers. Another type of run is another class with these methods.
"""

import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from detection.ablation.workload import Effort, Workload
from detection.errors import UserError
from detection.reports.document import Figure
from detection.runs.checkpoint import newest_complete
from detection.runs.folder import config_json


class CorruptRun(Exception):
    """A run folder lacks something, or holds what cannot be read; the text completes a sentence about the folder."""


class StaleRun(Exception):
    """The metrics of a finished run are no longer valid; the text is the reason, such as data changed since."""


@dataclass(frozen=True)
class ChangedImages:
    """Images on which two variants differ most, drawn with the results of both.

    Attributes:
        saved: those that the second gets right.
        broken: those that the first gets right.
        text: how they were chosen, and how many there are of each kind.
    """

    saved: Sequence[Figure]
    broken: Sequence[Figure]
    text: str = ""


class PerImageResults(Protocol):
    """The results of a run, image by image.

    Attributes:
        images_key: equal for runs that were evaluated on the same images.
        num_images: N.
    """

    @property
    def images_key(self) -> str: ...  # noqa: D102

    @property
    def num_images(self) -> int: ...  # noqa: D102

    def resampled(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric of `RunType.read` on resampled images, (S,) each, given how often each is drawn, (S, N)."""
        ...


class RunType(ABC):
    """One type of run; its configs and per-image results are opaque to everything else.

    Attributes:
        command: arguments of Python that train a run: `python *command CONFIG --output RUN key=value …`.
        evaluate_command: arguments of Python that evaluate a finished run again, before `evaluate_arguments` and
            changes; none where that cannot be done.
        columns: metrics of the report's tables, in their order.
        metrics: all metrics; an ablation's `metric` is one of them.
        widths: keys of layer widths, of which the first that a config has is widened to match another model's size.
        epochs_key: key of the number of epochs, which a time budget may lower.
    """

    command: ClassVar[tuple[str, ...]]
    evaluate_command: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    widths: ClassVar[tuple[str, ...]] = ()
    epochs_key: ClassVar[str] = "schedule.epochs"

    @abstractmethod
    def load(self, path: Path) -> Any:
        """Read the config of a file; a `UserError` where it is none."""

    @abstractmethod
    def override(self, config: Any, overrides: Sequence[str]) -> Any:
        """Apply `key=value` changes to a config; a `UserError` names the nearest key where one is unknown."""

    def expand(self, overrides: Sequence[str]) -> Sequence[str]:
        """Replace changes that stand for several, such as a folder of data, by those."""
        return overrides

    def plain(self, config: Any) -> dict[str, Any]:
        """Serialize a config as its run's `config.json` does."""
        return config_json(config)

    @abstractmethod
    def architecture(self, config: Any) -> Any:
        """Return the part of `plain` that decides what training and inference cost."""

    def model(self, config: Any) -> Any:
        """Return the part of `plain` that decides whether the model can be built."""
        return self.architecture(config)

    @abstractmethod
    def size(self, config: Any, what: str) -> int:
        """Count the `parameters` or `flops` of the model, without its data; a `UserError` where it cannot be built."""

    @abstractmethod
    def prepare(self, config: Any) -> None:
        """Make the data if the config describes how; a `UserError` where that fails, or runs could not use the data."""

    def evaluated_on(self, config: Any) -> str:
        """Weights and images that `read` reports of a run with this config, to end a sentence; empty if unknown.

        Neither may have been chosen by the metrics reported: the best of k evaluations on the same images is too high.
        """
        return ""

    def chance(self, config: Any) -> dict[str, float]:
        """Metrics of a model that only guesses, where the data of a config state them; others are left out."""
        return {}

    def updates(self, folder: Path) -> int | None:
        """Updates of the weights in a finished run, from its `log.jsonl`; None if unknown."""
        try:
            return int(json.loads((folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])["step"])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None

    @abstractmethod
    def read(self, folder: Path) -> dict[str, float]:
        """Read a finished run's `metrics`, and `METRIC/CLASS` for each class; NaN where one is not defined.

        They are of the weights and images that `evaluated_on` names.

        Raises:
            CorruptRun: files are missing, cut off or contradict each other.
            StaleRun: its data has changed since.
            UserError: its data cannot be read, so that nothing is known of it.
        """

    @abstractmethod
    def per_image_results(self, folder: Path) -> PerImageResults:
        """Read a finished run's results; a `UserError` or `CorruptRun` where they cannot be read."""

    def evaluation_config(self, config: Any, changes: Sequence[str]) -> Any:
        """The config with which a run is evaluated again; a `UserError` where changes do not fit its weights."""
        return self.override(config, changes)

    def prepare_evaluation(self, config: Any) -> None:  # noqa: B027 (there may be nothing to do)
        """Make the data of an evaluation if its config describes how; a `UserError` where that fails."""

    def evaluate_arguments(self, run: Path, output: Path, config: Any) -> list[str]:
        """Arguments with which a run is evaluated again into the folder `output`, but for its changes.

        The command leaves `evaluation.json` there, with the `config`.
        """
        raise NotImplementedError

    def read_evaluation(self, output: Path) -> dict[str, float]:
        """Read what `read` does from the folder of an evaluation."""
        raise NotImplementedError

    def per_image_evaluation(self, output: Path) -> PerImageResults:
        """Read what `per_image_results` does from the folder of an evaluation."""
        raise NotImplementedError

    @abstractmethod
    def workload(self, config: Any) -> Workload:
        """Build the model at random weights, with images of its data; a `UserError` where the data is missing."""

    def effort(self, config: Any) -> Effort:
        """Count the work of a run with this config; a `UserError` where its data cannot be used."""
        raise UserError("the time of runs of this type cannot be estimated: leave out question= in the ablation.")

    def data_remarks(self, config: Any) -> list[str]:
        """Return sentences on what matters in the data before hours of training, leaks between splits first."""
        return []

    def overlap(self, config: Any) -> tuple[int, int]:
        """Number of training objects that overlap another of their class by an IoU of 0.5, and of all objects."""
        return 0, 0

    def changed_images(self, pairs: Sequence[tuple[Path, Path]], names: tuple[str, str], most: int) -> ChangedImages:
        """Draw the images that the second run of each pair gets right and the first does not, and the other way round.

        Args:
            pairs: folders of finished runs, a pair for each seed.
            names: what the first and the second runs of all pairs are.
            most: images of each kind.
        """
        return ChangedImages((), ())

    def progress(self, folder: Path) -> str:
        """Return the progress of a running run in two or three words; empty if unknown."""
        return ""

    def can_resume(self, folder: Path) -> bool:
        """Return whether `command --output RUN --resume` can continue a stopped run: it has a checkpoint."""
        return newest_complete(folder / "checkpoints" / "last").joinpath("state.pt").exists()

    def digest(self, plain: Any) -> str:
        """SHA-256 of serialized settings: equal digests, equal settings."""
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def process_command(self, arguments: Sequence[str], command: Sequence[str] = ()) -> list[str]:
        """Return the command that is run, with this process's Python; it trains unless another is given."""
        return [sys.executable, *(command or self.command), *arguments]

    def printed_command(self, arguments: Sequence[str], command: Sequence[str] = ()) -> list[str]:
        """Return the command that a person types: the installed one where it is a command of this package."""
        command = command or self.command
        package, _, name = command[-1].rpartition(".")
        return ["detection", name, *arguments] if package == "detection.cli" else ["python", *command, *arguments]


def epoch_progress(folder: Path, epochs_done: Callable[[Path], int]) -> str:
    """`epoch N of M` of a run that trains, empty while that cannot be read; `epochs_done` reads N from its folder."""
    try:
        epochs = json.loads((folder / "config.json").read_text(encoding="utf-8"))["schedule"]["epochs"]
        return f"epoch {epochs_done(folder)} of {epochs}"
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return ""


def read_json(path: Path, kind: type, name: str = "") -> Any:
    """Read a JSON file of a run folder, whose `name` in messages is that of the file unless it is given.

    Raises:
        CorruptRun: it is missing, cannot be read, or holds something other than a `kind`.
    """
    name = name or path.name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CorruptRun(f"{name} is missing") from None
    except (OSError, ValueError) as error:
        raise CorruptRun(f"{name} cannot be read ({error})") from None
    if not isinstance(content, kind):
        raise CorruptRun(f"{name} holds no {kind.__name__}")
    return content
