"""Metrics and costs as texts of a table."""

from detection.ablation.costs import ArchitectureCost
from detection.ablation.summary import AblationSummary
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
    """`mean ± sd`, or which seeds are missing."""
    if seeds := summary.missing_seeds(data, variant):
        return f"missing: seed {', '.join(map(str, seeds))}"
    found = summary.spread(data, variant, metric)
    if found is None:
        return "n/a"
    return f"{found.mean:.3f}" + ("" if found.sd is None else f" ± {found.sd:.3f}")


def difference(summary: AblationSummary, data: str, variant: str, metric: str) -> str:
    """A difference to the reference with its interval, or why there is none."""
    if summary.missing_seeds(data, variant) or summary.missing_seeds(data, summary.plan.ablation.reference):
        return "missing"
    if not summary.same_images(data, variant):
        return "other images"
    return format_interval(summary.difference(data, variant, metric))


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
