"""The question that an ablation may ask of a data set: does the default context help, and is it more than size?"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from detection.config.overrides import as_overrides
from detection.errors import UserError

if TYPE_CHECKING:
    from detection.ablation.ablation import Ablation
    from detection.ablation.size_matched import Control

WIDER = "wider"
"""Name of the reference that is as large as the default context."""

CROWDED = 0.01
"""Share of objects that overlap another of their class by an IoU of 0.5 or more, from which a variant for it pays: NMS
at 0.5 can keep only one of two such objects."""


@dataclasses.dataclass(frozen=True)
class Question:
    """The question whether one variant helps against the reference, and against the reference made as large.

    Attributes:
        default: the variant that the answer is about.
        drop: variants that `--budget-hours` leaves out, the first one first.
        where_crowded: changes by name of variants that are added where objects overlap.
    """

    default: str
    drop: tuple[str, ...] = ()
    where_crowded: Mapping[str, Sequence[str] | Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def only(self, variants: Mapping[str, Any]) -> "Question":
        """Return the question for some variants alone."""
        drop = tuple(name for name in self.drop if name in variants or name in self.where_crowded)
        return dataclasses.replace(self, drop=drop)

    def core(self, ablation: "Ablation") -> list[str]:
        """The variants that are never left out."""
        return [name for name in (ablation.reference, WIDER, self.default) if name in ablation.variants]


def require_question(question: Question, variants: Mapping[str, Any], reference: str) -> None:
    """Check that a question fits the variants of its ablation.

    Raises:
        UserError: an unknown or reserved name, or a default that is the reference.
    """
    for name in question.where_crowded:
        if name in variants:
            raise UserError(f"question: where_crowded has {name!r}, which is a variant already; give it another name.")
    known = {*variants, *question.where_crowded}
    for name in (question.default, *question.drop):
        if name not in known:
            raise UserError(f"question: there is no variant {name!r}; known: {', '.join(sorted(known))}.")
    if question.default == reference or question.default not in variants:
        raise UserError(f"question: default={question.default!r} must be a variant other than {reference}.")
    if {question.default, reference, WIDER} & {*question.drop, *question.where_crowded}:
        raise UserError(f"question: {question.default}, {reference} and {WIDER} are never left out.")


def resolve_question(
    ablation: "Ablation", overlap: tuple[int, int], control: "Control | None", wanted: Sequence[str] = ()
) -> tuple["Ablation", list[str]]:
    """Add the variants that follow from the data and the base, and name the comparisons that answer the question.

    Args:
        ablation: with a question.
        overlap: number of objects that overlap another, and of all; 0 of 0 where that is not known.
        control: the reference made as large as the default; None where the default is no larger.
        wanted: the only variants that are to be run; none for all.

    Returns:
        The ablation, and a sentence on each thing that was decided.

    Raises:
        UserError: one of its variants has the name of the wider reference.
    """
    question, reference = ablation.question, ablation.reference
    assert question is not None
    if WIDER in ablation.variants:
        raise UserError(f"variants: {WIDER!r} is {reference} as large as {question.default}; give yours another name.")
    variants, texts = {reference: tuple(ablation.variants[reference])}, list[str]()
    if control is None:
        texts.append(f"{question.default} has no more FLOPs than {reference}: there is no wider one to compare with")
    else:
        variants[WIDER] = control.overrides
        changed = " ".join(control.overrides[len(variants[reference]) :])
        off = control.size / control.target - 1
        texts.append(f"{WIDER} is {reference} with {changed}: {off:+.1%} FLOPs against {question.default}")
    variants |= {name: tuple(v) for name, v in ablation.variants.items() if name not in variants}
    share = overlap[0] / max(1, overlap[1])
    for name, changes in question.where_crowded.items() if overlap[1] else ():
        is_crowded = share >= CROWDED
        verdict = f"left out, below {CROWDED:.0%}"
        if is_crowded:
            verdict = "one of the variants" if not wanted or name in wanted else "not among --variants"
            variants[name] = as_overrides(changes, f"question.where_crowded[{name!r}]")
        texts.append(
            f"{overlap[0]} of {overlap[1]} training objects ({share:.1%}) overlap another of their class by an IoU of "
            f"0.5 or more: {name} is {verdict}"
        )
    rivals = [reference, *([WIDER] if control else [])]
    primary = [(question.default, rival, ablation.metric, data) for rival in rivals for data in ablation.data]
    question = dataclasses.replace(question, where_crowded={}).only(variants)
    return dataclasses.replace(ablation, variants=variants, primary=primary, question=question), texts
