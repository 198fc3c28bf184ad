"""Resolve an ablation to its runs: config, folder and command of each, all checked before any starts."""

import dataclasses
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection.ablation.ablation import Ablation
from detection.ablation.choice import Chosen
from detection.ablation.primary import Primary
from detection.config.keys import full_overrides
from detection.config.parts import trust_arguments
from detection.errors import UserError


@dataclass(frozen=True)
class Run:
    """One run of an ablation: a variant on a data set with a seed.

    Attributes:
        overrides: changes of the base config, those of a later source over those of an earlier one: data, command line,
            variant.
        config: the base with these changes and the seed.
        digest: of that config's plain data.
        trained: the run whose weights this one evaluates again, in a folder below that run's; None for a training.
    """

    data: str
    variant: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path
    config: Any = field(repr=False, compare=False)
    digest: str
    trained: "Run | None" = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Its name in tables and printed lines."""
        return f"{self.data}/{self.variant}/seed-{self.seed}"

    @property
    def log(self) -> Path:
        """The file of its output, next to its folder."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True)
class Plan:
    """All runs of an ablation.

    Attributes:
        name: of the ablation's file.
        base: the config file of all runs.
        output: the folder of the ablation.
        variants: changes by name, the size-matched controls among them.
        controls: for a variant the name of the widened reference that is as large as it.
        runs: every run, by data set, seed and variant: the first seed of all variants comes first.
        left_out: parts of the file that this plan leaves out.
        primary: the primary comparisons of the file, those of parts that are left out among them.
        registered: those that were named before the first run.
        chosen: the options that the variants were given before, by variant.
    """

    name: str
    ablation: Ablation
    base: Path
    output: Path
    variants: Mapping[str, tuple[str, ...]]
    controls: Mapping[str, str]
    runs: tuple[Run, ...]
    left_out: tuple[str, ...] = ()
    primary: tuple[Primary, ...] = ()
    registered: tuple[Primary, ...] = ()
    chosen: Mapping[str, Chosen] = field(default_factory=dict)

    @property
    def trainings(self) -> tuple[Run, ...]:
        """The runs but for those that evaluate another again."""
        return tuple(run for run in self.runs if run.trained is None)

    @property
    def trained_data(self) -> tuple[str, ...]:
        """The data sets that are trained on."""
        return tuple(dict.fromkeys(run.data for run in self.trainings))

    def of(self, data: str, variant: str) -> list[Run]:
        """The runs of a variant on a data set, by seed."""
        return [run for run in self.runs if (run.data, run.variant) == (data, variant)]

    def is_primary(self, variant: str, against: str, metric: str, data: str) -> bool:
        """Whether a comparison was named before the first run, and still is."""
        one = Primary(variant, against, metric, data)
        return one in self.primary and one in self.registered

    def chance(self, data: str) -> dict[str, float]:
        """Metrics by chance on a data set, of those for which one is stated."""
        config = next(run.config for run in self.runs if run.data == data)
        return self.ablation.chance_of(data, config)

    def distinct(self, part: Callable[[Any], Any]) -> dict[str, Run]:
        """The first run of each digest of a part of its config."""
        found: dict[str, Run] = {}
        for run in self.runs:
            found.setdefault(self.ablation.run_type.digest(part(run.config)), run)
        return found

    def command(self, run: Run) -> list[str]:
        """The command that starts a run."""
        run_type = self.ablation.run_type
        command = run_type.command if run.trained is None else run_type.evaluate_command
        return run_type.process_command(self._arguments(run), command)

    def resume_command(self, run: Run) -> list[str]:
        """The command that continues a stopped run."""
        return self.ablation.run_type.process_command(["--output", str(run.folder), "--resume", *trust_arguments()])

    def printed_command(self, run: Run) -> str:
        """The command that starts a run, for pasting."""
        run_type = self.ablation.run_type
        command = run_type.command if run.trained is None else run_type.evaluate_command
        return shlex.join(run_type.printed_command(self._arguments(run), command))

    def record(self) -> dict[str, Any]:
        """The plan as plain data, for `ablation.json`."""
        return {
            "name": self.name,
            "base": _short(self.base),
            "variants": {name: list(changes) for name, changes in self.variants.items()},
            "data": {name: list(changes) for name, changes in self.ablation.data.items()},
            "seeds": list(self.ablation.seeds),
            "reference": self.ablation.reference,
            "metric": self.ablation.metric,
            "evaluate_on": {name: dict(by_data) for name, by_data in self.ablation.evaluations.items()},
            "controls": dict(self.controls),
            "chosen": {variant: dataclasses.asdict(chosen) for variant, chosen in self.chosen.items()},
            "primary": [list(one) for one in self.registered],
            "runs": {r.name: {"config_hash": r.digest, "command": self.printed_command(r)} for r in self.runs},
        }

    def _arguments(self, run: Run) -> list[str]:
        if run.trained is not None:
            arguments = self.ablation.run_type.evaluate_arguments(run.trained.folder, run.folder, run.config)
            return [*arguments, *run.overrides, *trust_arguments()]
        return [_short(self.base), "--output", str(run.folder), *run.overrides, f"seed={run.seed}", *trust_arguments()]


def make_plan(
    name: str,
    ablation: Ablation,
    base: Path,
    output: Path,
    overrides: Sequence[str] = (),
    controls: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
) -> Plan:
    """Resolve every run: the base, changed by its data, by `overrides`, and by its variant.

    `controls` has by variant the name and the changes of the control that is as large as it; several may share one. The
    other arguments are the plan's attributes.

    Raises:
        UserError: changes that do not fit the base, a model that cannot be built, or two variants or data sets that are
            the same.
    """
    controls = controls or {}
    for name, _ in controls.values():
        if name in ablation.variants:
            raise UserError(f"variants: {name!r} is the name of a size-matched control; give yours another name.")
    variants = {**ablation.variants, **dict(controls.values())}
    config, runs = ablation.run_type.load(base), []
    references: dict[str, Any] = {}
    for data, of_data in ablation.data.items():
        resolved = {}
        for variant, of_variant in [*variants.items()]:
            changes = (*ablation.run_type.expand((*of_data, *overrides)), *of_variant)
            resolved_config = _resolve(ablation, config, changes, f"{data}/{variant}")
            changes = full_overrides(config, changes)
            # With complete keys, as the commands and the record of the plan have them.
            variants[variant] = changes[len(changes) - len(of_variant) :]
            resolved[variant] = changes, resolved_config
        _require_different(ablation, f"{data}: ", {variant: config for variant, (_, config) in resolved.items()})
        references[data] = resolved[ablation.reference][1]
        runs += _runs(ablation, output / "runs" / data, data, resolved)
    _require_different(ablation, "data: ", references, "--data takes one")
    plan = Plan(name, ablation, base, output, variants, {v: c for v, (c, _) in controls.items()}, tuple(runs))
    _require_buildable(plan)
    return plan


def superseded(plan: Plan) -> list[str]:
    """Return a sentence for each override of the command line that variants replace by another value.

    Raises:
        UserError: the seed is among them, which every run has from the ablation.
    """
    run, of_data = plan.runs[0], next(iter(plan.ablation.data.values()))
    before, after = len(plan.ablation.run_type.expand([*of_data])), len(plan.variants[run.variant])
    found = []
    for item in run.overrides[before : len(run.overrides) - after]:  # of the command line, with complete keys
        key = item.partition("=")[0]
        if key == "seed":
            raise UserError(f"{item}: an ablation's runs have its own seeds; give --seeds.")
        names = [name for name, changes in plan.variants.items() if _sets(changes, key) and item not in changes]
        if names:
            found.append(f"{item} does not hold for variants with a value of their own: {', '.join(names)}")
    return found


def _sets(changes: Sequence[str], key: str) -> bool:
    """Whether changes set a key, or the part that it is a setting of."""
    return any(f"{key}.".startswith(f"{change.partition('=')[0]}.") for change in changes)


def _runs(ablation: Ablation, folder: Path, data: str, resolved: dict[str, tuple[tuple, Any]]) -> Iterator[Run]:
    for seed in ablation.seeds:
        for variant, (changes, config) in resolved.items():
            seeded = ablation.run_type.override(config, [f"seed={seed}"])
            digest = ablation.run_type.digest(ablation.run_type.plain(seeded))
            yield Run(data, variant, seed, changes, folder / variant / f"seed-{seed}", seeded, digest)


def _resolve(ablation: Ablation, config: Any, changes: Sequence[str], name: str) -> Any:
    try:
        return ablation.run_type.override(config, changes)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _require_different(
    ablation: Ablation, where: str, configs: dict[str, Any], remedy: str = "leave one of them out"
) -> None:
    seen: dict[str, str] = {}
    for name, config in configs.items():
        digest = ablation.run_type.digest(ablation.run_type.plain(config))
        if digest in seen:
            raise UserError(f"{where}{seen[digest]} and {name} are the same config; {remedy}.")
        seen[digest] = name


def _require_buildable(plan: Plan) -> None:
    """Build every model once, so that a part that does not fit is reported before hours of training."""
    for run in plan.distinct(plan.ablation.run_type.model).values():
        try:
            plan.ablation.run_type.size(run.config, "parameters")
        except UserError as error:
            raise UserError(f"{run.data}/{run.variant}: {error}") from None


def _short(path: Path) -> str:
    """A path relative to the current folder where it is below it, and so the same in another checkout."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative
