"""Metrics and costs as texts of a table."""

from collections.abc import Sequence

from detection.ablation.costs import ArchitectureCost
from detection.ablation.summary import AblationSummary, Spread
from detection.ablation.verdicts import Verdict
from detection.evaluation.intervals import LEVEL, format_interval

COST_COLUMNS = (
    "parameters",
    "FLOPs (G)",
    "training step (ms)",
    "training step ×",
    "inference (ms)",
    "inference ×",
    "training memory (MB)",
    "inference memory (MB)",
)


def spread(summary: AblationSummary, data: str, variant: str, metric: str) -> str:
    """`mean ± sd` among seeds that learned, with their number where it is not all; or which seeds are missing."""
    if seeds := summary.missing_seeds(data, variant):
        return f"missing: seed {', '.join(map(str, seeds))}"
    found = summary.spread(data, variant, metric)
    if found is None:
        return "n/a"
    text = f"{found.mean:.3f}" + ("" if found.sd is None else f" ± {found.sd:.3f}")
    learned = found.learned
    return text + (f" ({sum(learned)} of {len(learned)})" if learned and not all(learned) else "")


def difference(
    summary: AblationSummary, data: str, variant: str, metric: str, verdict: Verdict, against: str = ""
) -> str:
    """A difference with its interval, marked where the verdict is significant, or why there is none."""
    against = against or summary.plan.ablation.reference
    if summary.missing_seeds(data, variant) or summary.missing_seeds(data, against):
        return "missing"
    if not summary.same_images(data, variant, against):
        return "other images"
    found = [summary.spread(data, name, metric) for name in (variant, against)]
    if any(spread is not None and not spread.has_learned for spread in found):
        return "not learned"
    if verdict.interval is None and all(found):
        # Where seeds learned with both, no resampling changes the difference, or few images define the metric.
        return "no interval" if _learned_with_both(found) else "no seed of both"
    seeds = len(summary.plan.ablation.seeds)
    of_all = f" ({verdict.interval.seeds} of {seeds})" if verdict.interval and verdict.interval.seeds < seeds else ""
    return format_interval(verdict.interval, verdict.is_significant) + of_all


def _learned_with_both(found: Sequence[Spread | None]) -> bool:
    """Whether a seed has learned with all, or no chance level is stated."""
    learned = [spread.learned for spread in found if spread is not None and spread.learned is not None]
    return any(all(of_seed) for of_seed in zip(*learned, strict=True)) if learned else True


def p_value(p: float) -> str:
    """Format with three digits; one that is significant is not rounded to the level, which is not."""
    if p < 0.001:
        return "below 0.001"
    text, level = f"{p:.3f}", f"{1 - LEVEL:.3f}"
    return f"below {1 - LEVEL:.2g}" if p < 1 - LEVEL and text == level else text


def cost(found: ArchitectureCost | None, reference: ArchitectureCost | None) -> list[str]:
    """The texts of `COST_COLUMNS`."""
    if found is None:
        return ["missing"] * len(COST_COLUMNS)
    return [
        f"{found.parameters:,}",
        f"{found.flops / 1e9:.3f}",
        f"{found.train_step_s * 1e3:.1f}",
        f"{found.train_step_s / reference.train_step_s:.2f}" if reference else "missing",
        f"{found.inference_s * 1e3:.1f}",
        f"{found.inference_s / reference.inference_s:.2f}" if reference else "missing",
        f"{found.train_bytes / 1e6:.1f}",
        f"{found.inference_bytes / 1e6:.1f}",
    ]
