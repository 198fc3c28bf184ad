"""Controls of equal size: the reference made wider, until it is as large as the variant that it is compared with.

A variant that beats the reference has beaten it with more parameters or more operations. Whether these would have done
as well anywhere else is what the control tells.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detection.ablation.ablation import Ablation
from detection.atomic_write import atomic_write
from detection.errors import UserError

What = Literal["parameters", "flops"]
_MOST = 64.0


@dataclass(frozen=True)
class Control:
    """A widened reference.

    Attributes:
        name: of the variant that it is.
        overrides: what makes it, the reference's own changes first.
        size: how large it came out.
        target: how large the variant is that it stands beside.
    """

    name: str
    overrides: tuple[str, ...]
    size: int
    target: int


def find_controls(
    ablation: Ablation, base: Path, overrides: Sequence[str], what: What, remembered: Path
) -> tuple[dict[str, Control], str]:
    """A control for every variant that is larger than the reference, on the first of the data sets.

    Operations depend a little on how many boxes there are, which another machine may count otherwise; so that a control
    stays the same, what was found before is read again.

    Args:
        ablation: whose variants they are.
        base: its config file.
        overrides: changes of the base for every cell.
        what: `parameters` or `flops`.
        remembered: the file that `remember` wrote for the same question, if it is there.

    Returns:
        The controls by variant, and the question as a digest.

    Raises:
        UserError: no width that could grow is named, or none is wide enough.
    """
    kind, reference = ablation.kind, ablation.reference
    common = [*overrides, *next(iter(ablation.data.values()))]
    base_config = kind.load(base)

    def config_of(changes: Iterable[str]) -> Any:
        return kind.override(base_config, [*common, *changes])

    configs = {name: config_of(changes) for name, changes in ablation.variants.items()}
    question = kind.digest([what, list(ablation.widen), {name: kind.plain(c) for name, c in configs.items()}])
    found = _recall(remembered, question)
    if found is not None:
        return found, question
    own = ablation.variants[reference]
    widths = find_widths(ablation, kind.plain(configs[reference]))
    sizes = {name: kind.size(config, what) for name, config in configs.items()}
    found = {}
    for name in ablation.variants:
        if sizes[name] > sizes[reference]:
            changes, size = widen(widths, sizes[name], lambda texts: kind.size(config_of([*own, *texts]), what))
            if changes != _times(widths, 1.0):
                found[name] = Control(_name(reference, changes), (*own, *changes), size, sizes[name])
    return found, question


def remember(path: Path, controls: dict[str, Control], question: str) -> None:
    """Write what `find_controls` found, for the next time."""
    plain = {name: dataclasses.asdict(control) for name, control in controls.items()}
    atomic_write(path, lambda file: file.write_text(json.dumps({"question": question, "controls": plain}, indent=2)))


def _recall(path: Path, question: str) -> dict[str, Control] | None:
    try:
        content = json.loads(path.read_text())
        if content["question"] != question:
            return None
        controls = {name: Control(**plain) for name, plain in content["controls"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {name: dataclasses.replace(c, overrides=tuple(c.overrides)) for name, c in controls.items()}


def _name(reference: str, changes: Sequence[str]) -> str:
    numbers = [number for text in changes for number in re.findall(r"\d+", text.partition("=")[2])]
    return f"{reference}-wide-{'-'.join(numbers)}"


def find_widths(ablation: Ablation, plain: dict[str, Any]) -> dict[str, int | list[int]]:
    """The layer widths that are widened together, by their keys.

    Raises:
        UserError: the reference's config has none, or one that is no width.
    """
    keys = ablation.widen or tuple(key for key in ablation.kind.widths if _at(plain, key) is not None)[:1]
    if not keys:
        known = ", ".join(ablation.kind.widths)
        raise UserError(
            f"--match: {ablation.reference} has no width to widen ({known}); name its keys in the ablation, as "
            "widen=('detector.head.hidden_channels',)."
        )
    widths = {key: _at(plain, key) for key in keys}
    for key, width in widths.items():
        numbers = width if isinstance(width, list) else [width]
        if not numbers or not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
            raise UserError(f"--match: {key} is {width!r} in {ablation.reference}, which is no width.")
    return widths


def widen(
    widths: dict[str, int | list[int]], target: int, size: Callable[[Sequence[str]], int]
) -> tuple[tuple[str, ...], int]:
    """The widths, all times one factor, that come nearest to a size, as texts; and that size.

    Raises:
        UserError: 64 times as wide is still too small: these widths hardly count.
    """
    low, high = 1.0, 2.0
    while size(_times(widths, high)) < target:
        low, high = high, 2 * high
        if high > _MOST:
            raise UserError(
                f"--match: {', '.join(widths)} {_MOST:g} times as wide is still smaller; name other widths."
            )
    while _times(widths, low) != _times(widths, high) and high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if size(_times(widths, middle)) < target else (low, middle)
    sizes = {_times(widths, factor): size(_times(widths, factor)) for factor in (low, high)}
    return min(sizes.items(), key=lambda item: abs(item[1] - target))


def _times(widths: dict[str, int | list[int]], factor: float) -> tuple[str, ...]:
    def grown(width: int | list[int]) -> int | tuple[int, ...]:
        return tuple(round(w * factor) for w in width) if isinstance(width, list) else round(width * factor)

    return tuple(f"{key}={grown(width)}" for key, width in widths.items())


def _at(plain: Any, key: str) -> Any:
    for name in key.split("."):
        plain = plain.get(name) if isinstance(plain, dict) else None
    return plain
