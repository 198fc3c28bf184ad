"""Size-matched controls: the reference made wider, until it is as large as the variant that it is compared with.

A variant may beat the reference by its additional parameters or FLOPs alone. The control has as many of them elsewhere.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detection.ablation.ablation import Ablation
from detection.atomic_write import write_json
from detection.errors import UserError

Size = Literal["parameters", "flops"]
_MOST = 64.0


@dataclass(frozen=True)
class Control:
    """A widened reference.

    Attributes:
        name: its name as a variant.
        overrides: its changes, those of the reference first.
        size: its parameters or FLOPs; `target` has those of the variant that it matches.
    """

    name: str
    overrides: tuple[str, ...]
    size: int
    target: int


def find_controls(
    ablation: Ablation, base: Path, overrides: Sequence[str], what: Size, saved: Path
) -> tuple[dict[str, Control], str]:
    """Find a control for every variant that is larger than the reference, on the first of the data sets.

    FLOPs depend a little on the number of proposals, which may differ on another machine; controls that were saved
    before are read again, so that they stay the same.

    Args:
        ablation: with the variants.
        base: its config file.
        overrides: changes of the base for every run.
        what: what is matched.
        saved: the file that `save_controls` wrote, if there is one.

    Returns:
        The controls by variant, and a digest of all settings that they follow from.

    Raises:
        UserError: no layer width is named, or widening it is not enough.
    """
    run_type, reference = ablation.run_type, ablation.reference
    common = [*next(iter(ablation.data.values())), *overrides]
    base_config = run_type.load(base)

    def config_of(changes: Iterable[str]) -> Any:
        return run_type.override(base_config, [*common, *changes])

    configs = {name: config_of(changes) for name, changes in ablation.variants.items()}
    digest = run_type.digest([what, list(ablation.widen), {name: run_type.plain(c) for name, c in configs.items()}])
    found = _load_controls(saved, digest)
    if found is not None:
        return found, digest
    own, widths = ablation.variants[reference], find_widths(ablation, run_type.plain(configs[reference]))
    sizes = {name: run_type.size(config, what) for name, config in configs.items()}
    found = {}
    for name in ablation.variants:
        if sizes[name] > sizes[reference]:
            changes, size = widen(widths, sizes[name], lambda texts: run_type.size(config_of([*own, *texts]), what))
            if changes != _times(widths, 1.0):
                found[name] = Control(_name(reference, changes), (*own, *changes), size, sizes[name])
    return found, digest


def save_controls(path: Path, controls: dict[str, Control], digest: str) -> None:
    """Write what `find_controls` returned, for the next time."""
    plain = {name: dataclasses.asdict(control) for name, control in controls.items()}
    write_json(path, {"digest": digest, "controls": plain})


def _load_controls(path: Path, digest: str) -> dict[str, Control] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["digest"] != digest:
            return None
        controls = {name: Control(**plain) for name, plain in content["controls"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {name: dataclasses.replace(c, overrides=tuple(c.overrides)) for name, c in controls.items()}


def _name(reference: str, changes: Sequence[str]) -> str:
    widths = [width for text in changes for width in re.findall(r"\d+", text.partition("=")[2])]
    return f"{reference}-wide-{'-'.join(widths)}"


def find_widths(ablation: Ablation, plain: dict[str, Any]) -> dict[str, int | list[int]]:
    """Find the layer widths that are widened together, by key.

    Raises:
        UserError: the reference's config has none, or a value that is no width.
    """
    keys = ablation.widen or tuple(key for key in ablation.run_type.widths if _at(plain, key) is not None)[:1]
    if not keys:
        known = ", ".join(ablation.run_type.widths)
        raise UserError(
            f"wider than {ablation.reference}: it has no width to widen ({known}); name its keys in the ablation, as "
            "widen=('detector.head.hidden_channels',)."
        )
    widths = {key: _at(plain, key) for key in keys}
    for key, width in widths.items():
        channels = width if isinstance(width, list) else [width]
        if not channels or not all(isinstance(n, int) and not isinstance(n, bool) for n in channels):
            raise UserError(f"wider than {ablation.reference}: its {key} is {width!r}, which is no width.")
    return widths


def widen(
    widths: dict[str, int | list[int]], target: int, size: Callable[[Sequence[str]], int]
) -> tuple[tuple[str, ...], int]:
    """Multiply all widths by the factor that comes nearest to a size; returns them as overrides, and the size.

    Raises:
        UserError: 64 times as wide is still too small.
    """
    # Doubling brackets the size; then bisection, until both ends round to the same widths, which are integers.
    low, high = 1.0, 2.0
    while size(_times(widths, high)) < target:
        low, high = high, 2 * high
        if high > _MOST:
            raise UserError(f"wider: {', '.join(widths)} {_MOST:g} times as wide is still smaller; name other widths.")
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
