"""Metrics and costs as texts of a table."""

from detection.ablation.costs import ArchitectureCost
from detection.ablation.summary import AblationSummary
from detection.ablation.verdicts import Verdict
from detection.evaluation.intervals import format_interval

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
        return "no seed of both"
    seeds = len(summary.plan.ablation.seeds)
    of_all = f" ({verdict.interval.seeds} of {seeds})" if verdict.interval and verdict.interval.seeds < seeds else ""
    return format_interval(verdict.interval, verdict.is_significant) + of_all


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
