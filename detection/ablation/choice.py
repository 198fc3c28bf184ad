"""Settings chosen for each variant before an ablation, by equally many tries, on seeds that it does not report.

A variant that was tuned beats one that was not, whatever its merit. Here every variant has options, as many as the
others; each is trained on the data sets and seeds of the choice, and the one with the highest mean of the main metric
is the variant in the ablation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detection.config.overrides import as_overrides
from detection.errors import UserError

Changes = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """Options of each variant, and what they are tried on.

    Attributes:
        options: changes on top of the variant's by name of the option, by variant; equally many for each. A variant
            that is left out has nothing to choose.
        data: changes by name of the data set, as those of `Ablation`.
        seeds: random seeds; none of the ablation's own.
    """

    options: Mapping[str, Mapping[str, Changes]]
    data: Mapping[str, Changes]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise UserError("choice: options must have one variant at least.")
        numbers = {variant: len(options) for variant, options in self.options.items()}
        if len(set(numbers.values())) > 1:
            listed = ", ".join(f"{variant} {number}" for variant, number in numbers.items())
            raise UserError(f"choice: variants must have equally many options, or the comparison is unfair; {listed}.")

    def only(self, variants: Mapping[str, Any]) -> "Choice | None":
        """Keep the options of these variants; None where none of them has any."""
        kept = {variant: options for variant, options in self.options.items() if variant in variants}
        return replace(self, options=kept) if kept else None

    def tried(self, variants: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Return the changes of every variant with every option, by the name of both."""
        return {
            trial_name(variant, option): (*variants[variant], *as_overrides(changes, f"choice: {variant}, {option}"))
            for variant, options in self.options.items()
            for option, changes in options.items()
        }


@dataclass(frozen=True)
class Chosen:
    """The option that was chosen for a variant.

    Attributes:
        option: its name.
        changes: what it changes.
        means: the mean metric of each option over data sets and seeds, by its name.
    """

    option: str
    changes: tuple[str, ...]
    means: Mapping[str, float] = field(hash=False)


def trial_name(variant: str, option: str) -> str:
    """Return the name that a variant with an option has as a variant of the choice's ablation."""
    return f"{variant}+{option}"


def require_choice(choice: Choice, variants: Mapping[str, Any], seeds: Sequence[int]) -> None:
    """Check a choice against its ablation.

    Raises:
        UserError: options of an unknown variant, two of one name together with their variants, or a seed that the
            ablation reports.
    """
    for variant in choice.options:
        if variant not in variants:
            raise UserError(f"choice: there is no variant {variant!r}; known: {', '.join(variants)}.")
    trials: dict[str, tuple[str, str]] = {}
    for variant, options in choice.options.items():
        for option in options:
            former = trials.setdefault(trial_name(variant, option), (variant, option))
            if former != (variant, option):
                raise UserError(
                    f"choice: option {option!r} of {variant!r} and {former[1]!r} of {former[0]!r} are both named "
                    f"{trial_name(variant, option)}; give one of them another name."
                )
    shared = sorted(set(choice.seeds) & set(seeds))
    if shared:
        raise UserError(
            f"choice: seed {shared[0]} is one of the ablation's; choose with seeds that it does not report."
        )
