"""What a run is, to an ablation: which script makes it, what its config is, and what can be read from its folder.

Ablations know nothing else about detectors. Another kind of run is another class with these methods.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np


class CorruptRun(Exception):
    """What a run folder lacks or holds that cannot be read: the rest of a sentence that begins with the folder."""


class StaleRun(Exception):
    """Why a run that is finished says nothing any more, such as other data in the place of its own."""


class PerImageResults(Protocol):
    """What a run got right, image by image.

    Attributes:
        images_key: equal for runs that were measured on the same images.
        num_images: N.
    """

    @property
    def images_key(self) -> str: ...  # noqa: D102

    @property
    def num_images(self) -> int: ...  # noqa: D102

    def resampled(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Every number of `Kind.read` on resamplings of the images, (S,) each, from how often each is held, (S, N)."""
        ...


@dataclass(frozen=True)
class Workload:
    """A model at work, to be measured.

    Attributes:
        parameters: how many numbers it has.
        flops: operations of a forward pass on one image.
        train_step: updates it once on one batch, always the same.
        infer: looks at one image.
    """

    parameters: int
    flops: int
    train_step: Callable[[], object]
    infer: Callable[[], object]


class Kind(ABC):
    """One kind of run; configs and evidence are its own business, here they are passed on.

    Attributes:
        command: arguments of Python that train a run: `python *command CONFIG --output RUN key=value …`.
        columns: the metrics of the report's tables, in their order.
        metrics: the metrics that there are; an ablation's own `metric` is one of them.
        widths: keys of layer widths, of which the first that a config has is widened to match another's size.
    """

    command: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    widths: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def load(self, path: Path) -> Any:
        """The config of a file; a `UserError` where it is none."""

    @abstractmethod
    def override(self, config: Any, overrides: Sequence[str]) -> Any:
        """The config with `key=value` changes; a `UserError` that names the nearest key where there is none such."""

    @abstractmethod
    def plain(self, config: Any) -> dict[str, Any]:
        """The config as its run's `config.json` holds it."""

    @abstractmethod
    def architecture(self, config: Any) -> Any:
        """The part of `plain` that decides what training and inference cost."""

    @abstractmethod
    def size(self, config: Any, what: str) -> int:
        """`parameters` or `flops` of the model, the same without its data; a `UserError` where it cannot be built."""

    @abstractmethod
    def prepare(self, config: Any) -> None:
        """Make the data where a config says how; a `UserError` where that fails."""

    @abstractmethod
    def read(self, folder: Path) -> dict[str, float]:
        """The numbers of a finished run: `metrics`, and `METRIC/CLASS` for each class; NaN where one is not defined.

        Raises:
            CorruptRun: it is not whole.
            StaleRun: its data is not what it was.
        """

    @abstractmethod
    def evidence(self, folder: Path) -> PerImageResults:
        """What the run found; a `UserError` where that cannot be read."""

    @abstractmethod
    def workload(self, config: Any) -> Workload:
        """The model from its random start, on images of its own data; a `UserError` where they are not there."""

    def progress(self, folder: Path) -> str:
        """How far a run is that is still at work, in two or three words; empty if it does not tell."""
        return ""

    def can_resume(self, folder: Path) -> bool:
        """Whether `command --output RUN --resume` goes on with a stopped run: it left a checkpoint of this package."""
        return (folder / "checkpoints" / "last" / "state.pt").is_file()

    def digest(self, plain: Any) -> str:
        """SHA-256 of plain data: equal digests, equal settings."""
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_json(path: Path, kind: type) -> Any:
    """What a file of a run folder holds.

    Raises:
        CorruptRun: it is missing, cannot be read, or holds something else than a `kind`.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CorruptRun(f"{path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise CorruptRun(f"{path.name} cannot be read ({error})") from None
    if not isinstance(content, kind):
        raise CorruptRun(f"{path.name} holds no {kind.__name__}")
    return content
