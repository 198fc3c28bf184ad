"""The category that Roboflow writes above the real ones, which is no class."""

from collections.abc import Sequence


def placeholder_rows(categories: Sequence[dict]) -> tuple[int, ...]:
    """Return the positions of categories that are, if nothing has them, no classes.

    Roboflow writes one above the real ones: id 0, named after the project, which is the supercategory of the others.
    """
    return tuple(
        row
        for row, entry in enumerate(categories)
        if entry.get("id") == 0
        and entry.get("supercategory") == "none"
        and any(other is not entry and other.get("supercategory") == entry.get("name") for other in categories)
    )


def placeholder_remark(name: str) -> str:
    """Return the sentence about a category that is no class."""
    return f"category 0, {name!r}, is no class: Roboflow writes it above the real ones, and nothing has it"
