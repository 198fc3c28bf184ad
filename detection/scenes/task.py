"""A ContextScenes task: how it draws a scene, its classes, the knob that makes it harder, and its control version."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from detection.errors import UserError


@dataclass
class Scene:
    """One image and its ground truth.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        objects: category name and outline (V, 2) float xy in pixels of each object, in drawing order; of the complete
            object, also where a later one covers a little of it.
        cues: outlines (V, 2) float xy in pixels that hold everything the classes depend on; none where the objects show
            their classes themselves.
    """

    image: np.ndarray
    objects: list[tuple[str, np.ndarray]] = field(default_factory=list)
    cues: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Knob:
    """The setting of a task that `--difficulty` changes.

    Attributes:
        meaning: what the number counts, with its unit.
        default: its value where none is given.
        low: least value.
        high: largest value.
        integer: only integers make sense.
    """

    meaning: str
    default: float
    low: float
    high: float
    integer: bool = False

    def check(self, task: str, value: float | None) -> float:
        """Return the value, or the default for None.

        Raises:
            UserError: it is out of range, or no integer where one is needed.
        """
        if value is None:
            return self.default
        if not self.low <= value <= self.high or (self.integer and value != int(value)):
            kind = "an integer" if self.integer else "a number"
            raise UserError(
                f"--difficulty {value:g} makes no sense for {task}: "
                f"give {kind} from {self.low:g} to {self.high:g} ({self.meaning})"
            )
        return value


Draw = Callable[..., Scene]
"""(image's stream, size, difficulty, control's stream or None) → a scene; with `scales` also the canvas, its side."""


@dataclass(frozen=True)
class Task:
    """A question asked of a detector.

    Attributes:
        draw: makes one scene from the image's random stream, its size in pixels, the difficulty, and None or, for
            the control version, the stream from which `shown_class` draws the class that the cue shows.
        categories: names of all classes, in the order of their ids (from 1).
        knob: meaning and range of the difficulty.
        even: the classes are drawn evenly, and each by the same question.
        scales: `draw` also takes the side of the canvas in pixels. Objects and cues keep the lengths that they have in
            an image of `size`; places, gaps and the distance to the cue grow with the canvas.
    """

    draw: Draw
    categories: tuple[str, ...]
    knob: Knob
    even: bool = True
    scales: bool = False

    @property
    def chance(self) -> float | None:
        """AP50 of a detector that finds every object and guesses its class; None of one class, or of uneven ones."""
        return 1 / len(self.categories) if self.even and len(self.categories) > 1 else None


def shown_class(name: str, names: tuple[str, ...], control: np.random.Generator | None) -> str:
    """Return the class that a cue shows: the object's own or, in the control version, any, drawn regardless of it.

    The control's stream is not the image's: all else of the image, and its ground truth, stay as they are.
    """
    return name if control is None else names[control.integers(len(names))]
