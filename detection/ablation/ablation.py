"""An ablation as its author writes it: one base, variants of it, data sets and seeds, in a Python file."""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.ablation.choice import Choice, require_choice
from detection.ablation.detectors import DETECTORS
from detection.ablation.own_data.question import Question, require_question
from detection.ablation.primary import Primary
from detection.ablation.run_types import RunType
from detection.config.files import find_config, run_file
from detection.config.overrides import as_overrides
from detection.errors import UserError

Changes = Sequence[str] | Mapping[str, Any]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Variants to compare: every variant is trained on every data set with every seed.

    Changes are `key=value` texts, or a mapping from dotted keys to values and parts (each a `partial` of a class),
    which are converted to such texts: each run is a command that can be pasted.

    Attributes:
        base: a config file, relative to the ablation's folder, or a shipped config's name; or a config, which the same
            file must name `config`, so that the file itself is the config file of its runs.
        variants: changes by name; a variant without any is the base itself.
        data: changes by name of the data set.
        seeds: random seeds, one run of each variant for each.
        reference: the variant that the others are compared with; the first if left out.
        metric: the main metric of the report.
        widen: keys of the layer widths that are widened together to match another variant's size; if left out, the
            first of the run type's `widths` that the reference has.
        curves: quantities that the data sets differ in, such as a distance: for each the data sets by name, with its
            value there. The report draws the metric over each, a line per variant.
        primary: the few comparisons that the ablation is made for, as (variant, against, metric, data set): they carry
            a verdict at 95 % each, if they were named before the first run; all others are adjusted by Holm.
        chance: the metric of a model that only guesses, by name of the data set: a number for `metric`, or numbers by
            metric. Seeds nearer to it than to the best one have not learned. ContextScenes state theirs.
        evaluate_on: changes by name, with which every finished run is evaluated again, such as larger images:
            `{"2x": changes}` for all data sets, or `{"2x": {data: changes}}` for some. The report has each as
            another data set, `DATA-NAME`.
        choice: settings that are chosen for each variant before the first run, by equally many tries of each.
        question: asks whether one variant helps on the data at hand, which the report answers first.
        run_type: detectors, classifiers or another type of run.
    """

    base: str | Path | Any
    variants: Mapping[str, Changes]
    data: Mapping[str, Changes] = dataclasses.field(default_factory=lambda: {"data": ()})
    seeds: tuple[int, ...] = (0, 1, 2)
    reference: str = ""
    metric: str = ""
    widen: tuple[str, ...] = ()
    curves: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    primary: Sequence[tuple[str, str, str, str]] = ()
    chance: Mapping[str, float | Mapping[str, float]] = dataclasses.field(default_factory=dict)
    evaluate_on: Mapping[str, Changes | Mapping[str, Changes]] = dataclasses.field(default_factory=dict)
    choice: Choice | None = None
    question: Question | None = None
    run_type: RunType = DETECTORS

    def only(self, variants: Sequence[str] = (), data: Sequence[str] = (), seeds: Sequence[int] = ()) -> "Ablation":
        """Select variants, data sets and seeds, all where none is named; what answers the question is always kept.

        Raises:
            UserError: an unknown name or seed.
        """
        parts: dict[str, Any] = {}
        for key, wanted in (("variants", variants), ("data", data), ("seeds", seeds)):
            known = getattr(self, key)
            for name in wanted:
                _require_known(key, name, known)
            kept = {*(wanted or known), *(self._always if key == "variants" else ())}
            parts[key] = (
                {name: value for name, value in known.items() if name in kept}
                if isinstance(known, Mapping)
                else tuple(seed for seed in known if seed in kept)
            )
        curves = {
            title: {name: place for name, place in places.items() if name in parts["data"]}
            for title, places in self.curves.items()
        }
        parts["primary"] = tuple(
            one
            for one in self.comparisons
            if {one.variant, one.against} <= set(parts["variants"]) and one.data in parts["data"]
        )
        parts["chance"] = {name: value for name, value in self.chance.items() if name in parts["data"]}
        parts["evaluate_on"] = {
            name: {d: changes for d, changes in by_data.items() if d in parts["data"]}
            for name, by_data in self.evaluations.items()
        }
        parts["choice"] = None if self.choice is None else self.choice.only(parts["variants"])
        parts["question"] = None if self.question is None else self.question.only(parts["variants"])
        parts["curves"] = {title: places for title, places in curves.items() if len(places) > 1}
        return dataclasses.replace(self, **parts)

    @property
    def _always(self) -> list[str]:
        """The variants that no selection leaves out."""
        return [self.reference] if self.question is None else self.question.core(self)

    @property
    def comparisons(self) -> tuple[Primary, ...]:
        """The primary comparisons."""
        return tuple(Primary(*names) for names in self.primary)

    @property
    def evaluations(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """The changes of `evaluate_on` by name and data set."""
        return {name: dict(by_data) for name, by_data in self.evaluate_on.items()}  # type: ignore[arg-type]

    def chance_of(self, data: str, config: Any) -> dict[str, float]:
        """Metrics by chance on a data set with this config, of those for which the file or the data state one."""
        stated = self.chance.get(data)
        if stated is None:
            return self.run_type.chance(config)
        return dict(stated) if isinstance(stated, Mapping) else {self.metric: float(stated)}

    def beyond(self, part: "Ablation") -> list[str]:
        """List what a selection leaves out, such as `seeds 1, 2`."""
        missing = []
        for key in ("variants", "data", "seeds"):
            names = [str(name) for name in getattr(self, key) if name not in getattr(part, key)]
            if names:
                missing.append(f"{key} {', '.join(names)}")
        return missing

    def __post_init__(self) -> None:
        for key in ("variants", "data"):
            _require_names(key, getattr(self, key))
            texts = {name: as_overrides(changes, f"{key}[{name!r}]") for name, changes in getattr(self, key).items()}
            object.__setattr__(self, key, texts)
        _require_evaluable(self)
        texts = {name: _by_data(name, changes, self.data) for name, changes in self.evaluate_on.items()}
        object.__setattr__(self, "evaluate_on", {name: by_data for name, by_data in texts.items() if by_data})
        _require_seeds(self.seeds)
        if self.choice is not None:
            require_choice(self.choice, self.variants, self.seeds)
        object.__setattr__(self, "reference", self.reference or next(iter(self.variants)))
        object.__setattr__(self, "metric", self.metric or self.run_type.metrics[0])
        _require_known("reference", self.reference, self.variants)
        if self.question is not None:
            _require_alone(self)
            require_question(self.question, self.variants, self.reference)
        _require_known("metric", self.metric, self.run_type.metrics)
        _require_curves(self.curves, self.data)
        _require_primary(self)
        _require_chance(self)


def load_ablation(path: str | Path) -> tuple[Ablation, Path]:
    """Run an ablation file.

    Returns:
        Its `ablation`, and the config file that its runs are given.

    Raises:
        UserError: no such file, no `ablation = Ablation(...)` in it, or settings that do not fit.
    """
    path = Path(path)
    names = run_file(path, "ablation", _reason)
    ablation = names.get("ablation")
    if not isinstance(ablation, Ablation):
        raise UserError(f"{path}: an ablation must end in `ablation = Ablation(...)`; found {type(ablation).__name__}.")
    if isinstance(ablation.base, str | Path):
        base = path.parent / ablation.base
        if base.suffix != ".py":
            return ablation, find_config(ablation.base)
        if not base.is_file():
            raise UserError(f"{path}: base={str(ablation.base)!r}: there is no {base}; it is relative to this file.")
        return ablation, base
    if names.get("config") is not ablation.base:
        raise UserError(f"{path}: base is a config: name it `config` in this file, or give the path of a config file.")
    return ablation, path


def _reason(error: Exception) -> str:
    """The error's message; for a misspelt setting of `Ablation` with the nearest one."""
    unknown = re.search(r"Ablation.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return str(error)
    known = [field.name for field in dataclasses.fields(Ablation)]
    near = difflib.get_close_matches(unknown[1], known, n=1)
    return f"unknown key {unknown[1]}; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")


def _require_names(key: str, named: Mapping[str, Any]) -> None:
    if not isinstance(named, Mapping) or not named:
        raise UserError(f"{key}: must be a dictionary from names to changes, with one entry at least.")
    for name in named:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{key}: {name!r} names folders: use letters, digits, '.', '_', '+' and '-' only.")
    folded = [name.lower() for name in named]
    for name in named:
        if folded.count(name.lower()) > 1:
            raise UserError(f"{key}: {name!r} is there twice but for its case, which some file systems ignore.")


def _require_evaluable(ablation: Ablation) -> None:
    if not ablation.evaluate_on:
        return
    _require_names("evaluate_on", ablation.evaluate_on)
    if not ablation.run_type.evaluate_command:
        raise UserError("evaluate_on: runs of this type cannot be evaluated again; leave it out.")
    taken = dict.fromkeys(ablation.data, "a data set")
    for name in ablation.evaluate_on:
        for data in ablation.data:
            if (of_both := f"{data}-{name}") in taken:
                raise UserError(f"evaluate_on[{name!r}]: {of_both} is {taken[of_both]} already; choose another name.")
            taken[of_both] = f"evaluate_on[{name!r}] of {data}"


def _require_alone(ablation: Ablation) -> None:
    """Refuse what an ablation with a question cannot have, whose answer is of one difference on one data set."""
    if len(ablation.data) != 1:
        raise UserError(f"question: is of one data set, and data names {', '.join(ablation.data)}; keep one of them.")
    for key in ("choice", "evaluate_on"):
        if getattr(ablation, key):
            raise UserError(f"{key}: an ablation with a question cannot have it; leave one of them out.")


def _by_data(name: str, changes: Any, data: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The changes of an evaluation by data set; those for all are given once."""
    key = f"evaluate_on[{name!r}]"
    if not isinstance(changes, Mapping) or not set(changes) & set(data):
        # An empty mapping is what `only` leaves of an evaluation of data sets that are left out.
        if not changes and not isinstance(changes, Mapping):
            raise UserError(f"{key}: has no changes.")
        return dict.fromkeys(data, as_overrides(changes, key)) if changes else {}
    for known in changes:
        _require_known(key, known, data)
    return {known: as_overrides(of_data, f"{key}[{known!r}]") for known, of_data in changes.items()}


def _require_curves(curves: Any, data: Mapping[str, Any]) -> None:
    for title, places in curves.items():
        for name, place in places.items():
            _require_known(f"curves[{title!r}]", name, data)
            if isinstance(place, bool) or not isinstance(place, int | float):
                raise UserError(f"curves[{title!r}][{name!r}]={place!r}: must be a number.")
        if len(places) < 2:
            raise UserError(f"curves[{title!r}]: must have two data sets at least.")


def _require_primary(ablation: Ablation) -> None:
    primary = ablation.primary
    if isinstance(primary, str) or not isinstance(primary, Sequence):
        raise UserError(f"primary={primary!r}: must be a list of (variant, against, metric, data set).")
    for number, names in enumerate(primary):
        four = isinstance(names, Sequence) and len(names) == 4 and all(isinstance(name, str) for name in names)
        if isinstance(names, str) or not four:
            raise UserError(f"primary[{number}]={names!r}: must be (variant, against, metric, data set).")
        known = (ablation.variants, ablation.variants, ablation.run_type.metrics, ablation.data)
        for name, of_kind in zip(names, known, strict=True):
            _require_known(f"primary[{number}]", name, of_kind)
        if names[0] == names[1]:
            raise UserError(f"primary[{number}]: compares {names[0]} with itself.")
    if len({tuple(names) for names in primary}) < len(primary):
        raise UserError("primary: a comparison is there twice.")


def _require_chance(ablation: Ablation) -> None:
    if not isinstance(ablation.chance, Mapping):
        raise UserError(f"chance={ablation.chance!r}: must be numbers by data set, such as {{'beacon': 1 / 3}}.")
    for data, stated in ablation.chance.items():
        _require_known("chance", data, ablation.data)
        for metric, value in (stated if isinstance(stated, Mapping) else {ablation.metric: stated}).items():
            _require_known(f"chance[{data!r}]", metric, ablation.run_type.metrics)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise UserError(f"chance[{data!r}]={value!r}: must be a number from 0 to below 1.")


def _require_seeds(seeds: tuple[int, ...]) -> None:
    integers = isinstance(seeds, tuple) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
    if not integers or not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={seeds!r}: must be different integers from 0, in a tuple such as (0, 1, 2).")


def _require_known(key: str, value: Any, known: Any) -> None:
    if value not in known:
        names = [str(name) for name in known]
        near = difflib.get_close_matches(str(value), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}."
        raise UserError(f"{key}={value!r}: there is no such one; {hint}")
