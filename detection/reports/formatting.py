"""Numbers of a report as text."""

from detection.evaluation.intervals import Interval


def interval(found: Interval | None) -> str:
    """`+0.012 [−0.003, +0.027]`, with an asterisk where 0 lies outside."""
    if found is None:
        return "n/a"
    return f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]" + ("*" if found.is_significant else "")


def signed(value: float) -> str:
    """Three decimals with a sign; a 0 is just that."""
    return "0" if value == 0 else f"{value:+.3f}".replace("-", "−")
