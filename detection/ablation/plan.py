"""From an ablation to its cells: which run, in which folder, by which command; all of it checked before any starts."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection.ablation.ablation import Ablation
from detection.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One run of an ablation.

    Attributes:
        data: its data set, by name.
        variant: its variant.
        seed: its seed.
        overrides: changes of the base that make it.
        folder: its run folder.
        config: the base with these changes.
        digest: of that config's plain data.
    """

    data: str
    variant: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path
    config: Any = field(repr=False, compare=False)
    digest: str

    @property
    def name(self) -> str:
        """What it is called in tables and lines."""
        return f"{self.data}/{self.variant}/seed-{self.seed}"

    @property
    def log(self) -> Path:
        """Where its output goes, beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True)
class Plan:
    """All cells of an ablation.

    Attributes:
        name: of the ablation's file.
        ablation: what its author wrote.
        base: the config file that runs are given.
        output: the folder that holds all of it.
        variants: changes by name, the controls of equal size among them.
        controls: for a variant the name of the widened reference that is as large as it.
        cells: every run, by data set, seed and variant: the first seed of all variants comes first.
        left_out: what the file has and this plan has not, as words.
    """

    name: str
    ablation: Ablation
    base: Path
    output: Path
    variants: Mapping[str, tuple[str, ...]]
    controls: Mapping[str, str]
    cells: tuple[Cell, ...]
    left_out: tuple[str, ...] = ()

    def of(self, data: str, variant: str) -> list[Cell]:
        """The cells of a variant on a data set, by seed."""
        return [cell for cell in self.cells if (cell.data, cell.variant) == (data, variant)]

    def command(self, cell: Cell) -> list[str]:
        """What makes a cell's run, for this machine's Python."""
        return [*self._program, _short(self.base), "--output", str(cell.folder), *cell.overrides, f"seed={cell.seed}"]

    def resume_command(self, cell: Cell) -> list[str]:
        """What goes on with a cell's run that was stopped."""
        return [*self._program, "--output", str(cell.folder), "--resume"]

    @property
    def _program(self) -> list[str]:
        return [sys.executable, *self.ablation.kind.command]

    def text(self, cell: Cell) -> str:
        """The command as it can be pasted."""
        return shlex.join(["python", *self.command(cell)[1:]])


def make_plan(
    name: str,
    ablation: Ablation,
    base: Path,
    output: Path,
    overrides: Sequence[str] = (),
    controls: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
) -> Plan:
    """Resolve every cell.

    Args:
        name: of the ablation's file.
        ablation: what its author wrote.
        base: the config file that runs are given.
        output: the folder that will hold all of it.
        overrides: changes of the base for every cell.
        controls: for a variant name and changes of the control that is as large as it; several may share one.

    Raises:
        UserError: changes that do not fit the base, a model that cannot be built, or two variants that are the same.
    """
    controls = controls or {}
    variants = {**ablation.variants, **dict(controls.values())}
    config, cells = ablation.kind.load(base), []
    for data, of_data in ablation.data.items():
        resolved = {}
        for variant, of_variant in variants.items():
            changes = (*overrides, *of_data, *of_variant)
            resolved[variant] = changes, _resolve(ablation, config, changes, f"{data}/{variant}")
        _require_different(ablation, data, {variant: config for variant, (_, config) in resolved.items()})
        cells += _cells(ablation, output / "runs" / data, data, resolved)
    _require_buildable(ablation, cells)
    return Plan(name, ablation, base, output, variants, {v: c for v, (c, _) in controls.items()}, tuple(cells))


def describe(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, for `ablation.json`."""
    ablation = plan.ablation
    return {
        "name": plan.name,
        "base": _short(plan.base),
        "variants": {name: list(changes) for name, changes in plan.variants.items()},
        "data": {name: list(changes) for name, changes in ablation.data.items()},
        "seeds": list(ablation.seeds),
        "reference": ablation.reference,
        "metric": ablation.metric,
        "controls": dict(plan.controls),
        "runs": {cell.name: {"config_hash": cell.digest, "command": plan.text(cell)} for cell in plan.cells},
    }


def _cells(ablation: Ablation, folder: Path, data: str, resolved: dict[str, tuple[tuple, Any]]) -> Iterator[Cell]:
    for seed in ablation.seeds:
        for variant, (changes, config) in resolved.items():
            seeded = ablation.kind.override(config, [f"seed={seed}"])
            digest = ablation.kind.digest(ablation.kind.plain(seeded))
            yield Cell(data, variant, seed, changes, folder / variant / f"seed-{seed}", seeded, digest)


def _resolve(ablation: Ablation, config: Any, changes: Sequence[str], name: str) -> Any:
    try:
        return ablation.kind.override(config, changes)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _require_different(ablation: Ablation, data: str, configs: dict[str, Any]) -> None:
    seen: dict[str, str] = {}
    for variant, config in configs.items():
        digest = ablation.kind.digest(ablation.kind.plain(config))
        if digest in seen:
            raise UserError(f"{data}: {seen[digest]} and {variant} are the same config; leave one of them out.")
        seen[digest] = variant


def _require_buildable(ablation: Ablation, cells: Sequence[Cell]) -> None:
    """Build every model once; a part that does not fit is told before hours have gone by."""
    built = set()
    for cell in cells:
        digest = ablation.kind.digest(ablation.kind.architecture(cell.config))
        if digest not in built:
            built.add(digest)
            try:
                ablation.kind.size(cell.config, "parameters")
            except UserError as error:
                raise UserError(f"{cell.data}/{cell.variant}: {error}") from None


def _short(path: Path) -> str:
    """A path from the current folder where it lies below it, which is the same in another checkout."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative
