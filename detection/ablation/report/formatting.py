"""Figures as texts of a table's cells."""

from detection.ablation.costs import Cost
from detection.ablation.summary import Summary
from detection.reports.formatting import interval

COST_COLUMNS = (
    "parameters",
    "operations (G)",
    "update (ms)",
    "update ×",
    "look (ms)",
    "look ×",
    "memory of an update (MB)",
    "of a look (MB)",
)


def spread(summary: Summary, data: str, variant: str, metric: str) -> str:
    """`mean ± sd`, or which seeds are missing."""
    found = summary.spread(data, variant, metric)
    lacking = summary.lacking(data, variant)
    if lacking:
        return "missing: seed " + ", ".join(str(cell.seed) for cell in lacking)
    if found is None:
        return "n/a"
    return f"{found.mean:.3f}" + ("" if found.sd is None else f" ± {found.sd:.3f}")


def difference(summary: Summary, data: str, variant: str, metric: str) -> str:
    """A difference to the reference with its interval, or why there is none."""
    reference = summary.plan.ablation.reference
    if summary.lacking(data, variant) or summary.lacking(data, reference):
        return "missing"
    if not summary.same_images(data, variant):
        return "other images"
    return interval(summary.difference(data, variant, metric))


def cost(found: Cost | None, reference: Cost | None) -> list[str]:
    """The cells of `COST_COLUMNS`."""
    if found is None:
        return ["missing"] * len(COST_COLUMNS)

    def times(mine: float, theirs: float) -> str:
        return f"{mine / theirs:.2f}"

    return [
        f"{found.parameters:,}",
        f"{found.flops / 1e9:.3f}",
        f"{found.train_step_s * 1e3:.1f}",
        times(found.train_step_s, reference.train_step_s) if reference else "missing",
        f"{found.inference_s * 1e3:.1f}",
        times(found.inference_s, reference.inference_s) if reference else "missing",
        f"{found.train_bytes / 1e6:.1f}",
        f"{found.inference_bytes / 1e6:.1f}",
    ]
