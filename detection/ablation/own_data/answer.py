"""The answer to a question of one difference, in words: helps, hurts, level within ± x, or not with these seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detection.evaluation.intervals import LEVEL, Interval, expected_half_width, format_interval

MARGIN = 0.03
"""Differences within ± this are level for a person who chooses a detector, and no more than a quarter of the metric:
detectors that have hardly learned are level by nothing that context does."""

LEAST = 0.01
"""A difference below this is too small to be called a help, even where its interval excludes 0."""

FEW_IMAGES = 10
"""Fewer evaluated images than this show nothing of others: resampled, they seem to vary too little."""

MOST_SEEDS = 100
"""Up to which numbers of seeds are tried for what would decide."""

Outcome = Literal["helps", "hurts", "level", "undetermined", "missing"]


@dataclass(frozen=True)
class Answer:
    """The answer of one comparison.

    Attributes:
        outcome: `helps` and `hurts` where the difference is significant and not negligible, `level` where the interval
            is within ± the margin, `missing` where a run is; else `undetermined`.
        text: the same in words with numbers.
        by_seeds: whether it is undetermined for the number of seeds, and not for another reason.
    """

    outcome: Outcome
    text: str
    by_seeds: bool = False


def judge(
    interval: Interval | None,
    p_value: float | None,
    metric: str,
    best: float = 1.0,
    images: int = FEW_IMAGES,
    seeds: Sequence[int] = (),
) -> Answer:
    """Decide on a difference.

    Args:
        interval: the difference with its interval; None where runs or the metric are missing.
        p_value: of the difference, adjusted for other comparisons; None where it is not tested.
        metric: its name, for the text.
        best: the higher mean of the two that are compared.
        images: number of evaluated images.
        seeds: those of the ablation, which more would come after; none for 0, 1, …
    """
    margin = min(MARGIN, best / 4)
    if interval is None:
        reasons = "runs are missing, it is not defined, or too few images decide it"
        return Answer("missing", f"no {metric} to compare: {reasons}")
    found = f"{metric} {format_interval(interval, mark=False)}"
    if reason := _too_little(interval, images):
        return Answer("undetermined", f"cannot be determined, {found}; {reason}")
    is_significant = p_value is not None and p_value < 1 - LEVEL
    if is_significant and abs(interval.value) >= LEAST:
        outcome = "helps" if interval.value > 0 else "hurts"
        return Answer(outcome, f"{outcome}, {found}")
    ends = max(abs(interval.low), abs(interval.high))
    if 0 < margin and ends <= margin and p_value is not None:
        # Rounded up, as the interval is not within what is less; by less than rounding errors it is.
        bound = math.ceil(ends * 1000 - 1e-9) / 1000
        return Answer("level", f"level within ± {bound:.3f} {metric}, {found}")
    if margin < MARGIN:
        hardly = f"both have so low an {metric} that they have hardly learned: train for more epochs first"
        return Answer("undetermined", f"cannot be determined, {found}; {hardly}")
    return Answer(
        "undetermined", f"cannot be determined with these seeds, {found}; {_remedy(interval, seeds)}", by_seeds=True
    )


def _too_little(interval: Interval, images: int) -> str:
    """Return why no interval can decide; empty where one can."""
    if interval.seeds < 2:
        return "one pair of seeds shows nothing of other seeds: run three or more"
    if images < FEW_IMAGES:
        return f"{images} evaluated image{'s show' if images != 1 else ' shows'} too little of others: evaluate on more"
    if interval.has_few_images:
        return "too few of the evaluated images have such objects: evaluate on more"
    return ""


def _remedy(interval: Interval, given: Sequence[int]) -> str:
    more = more_seeds(interval)
    if more is None:
        return (
            f"by the variance between these {interval.seeds} seeds no number up to {MOST_SEEDS} would decide it if the "
            "difference stays as it is: more evaluation images would, or it is near the limits of what counts"
        )
    seeds = "1 more seed" if more == 1 else f"{more} more seeds"
    given = given or range(interval.seeds)
    free = max(given) + 1
    option = ",".join(map(str, [*given, *range(free, free + more)]))
    by = f" (--seeds {option})" if len(option) <= 30 else ""
    because = f"estimated from the variance between these {interval.seeds} if the difference stays as it is"
    return f"{seeds} would{by}, {because}"


def more_seeds(interval: Interval) -> int | None:
    """Estimate how many more seeds would decide between helps, hurts and level; None where `MOST_SEEDS` are too few.

    The difference and the variances of seeds and images are taken to stay as they are, and the interval to shrink with
    Student's t: until it excludes 0, or is within ± `MARGIN`.
    """
    value = abs(interval.value)
    for seeds in range(interval.seeds + 1, MOST_SEEDS + 1):
        half = expected_half_width(interval, seeds)
        if (half < value and value >= LEAST) or half + value <= MARGIN:
            return seeds - interval.seeds
    return None


def together(against: dict[str, Answer], default: str, reference: str, *, finished: bool = False) -> Answer:
    """Join the answers against the reference and against the one as large: context helps only if it beats both.

    Args:
        against: answers by name of what `default` is compared with, the reference first.
        default: the variant that the question is about.
        reference: the variant without context.
        finished: whether all runs of these are, so that a missing answer has another reason.
    """
    plain, *others = (against[name].outcome for name in (reference, *(n for n in against if n != reference)))
    if plain == "helps" and all(other == "helps" for other in others):
        return Answer("helps", f"Context helps on these data: {default} is ahead of all that it is compared with.")
    if plain == "helps" and "missing" not in others:
        return Answer(
            "undetermined",
            f"{default} is ahead of {reference}, but it is not shown that this is more than a wider detector gives.",
        )
    by_what = "with these seeds" if against[reference].by_seeds else "by these runs"
    texts: dict[Outcome, str] = {
        "hurts": f"Context hurts on these data: {default} is behind {reference}.",
        "level": f"Context makes no difference that matters on these data: {default} is level with {reference}.",
        "undetermined": f"Whether context helps on these data cannot be determined {by_what}.",
    }
    if plain not in texts:
        reason = "too few images decide it: evaluate on more" if finished else "runs are missing"
        return Answer("missing", f"There is no answer{' yet' * (not finished)}: {reason}.")
    return Answer(plain, texts[plain])
