"""Splits of one data set examined together: images that they share by content, and categories that one lacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from detection.data.checks import Tables, shortened
from detection.data.image_checks import ImageFacts
from detection.data.remarks import lacking_remark


@dataclass(frozen=True)
class ExaminedSplit:
    """One split: its annotation file, the file's columns, and what its images are."""

    path: Path
    tables: Tables
    facts: ImageFacts


def split_problems(splits: Sequence[ExaminedSplit]) -> list[str]:
    """Return what training on the first split and evaluating on another would refuse."""
    first, problems = splits[0], []
    own = _categories(first)
    for other in splits[1:]:
        theirs = _categories(other)
        if renumbered := [name for name, id_ in theirs.items() if own.get(name, id_) != id_]:
            problems.append(
                f"{other.path} has other ids than {first.path} for {len(renumbered)} categories "
                f"({shortened(renumbered, 5)}): give it the same by --fix OUT.json --categories {first.path}"
            )
        if unknown := [name for name in theirs if name not in own]:
            problems.append(
                f"{other.path} has {len(unknown)} categories that {first.path} lacks ({shortened(unknown, 5)}): "
                "nothing can be learned of them"
            )
    return problems


def split_remarks(splits: Sequence[ExaminedSplit]) -> list[str]:
    """Return images that splits share, and categories without a box in one of them."""
    remarks = []
    for first, second in combinations(splits, 2):
        known = set(first.facts.digests.values())
        rows = sorted(row for row, digest in second.facts.digests.items() if digest in known)
        if rows:
            ids = shortened(second.tables.image_ids[rows].tolist(), 5)
            total = len(second.tables.image_ids)
            remarks.append(
                f"{len(rows)} of {total} images of {second.path} are in {first.path} too, by content: id {ids}"
            )
        if second.path == first.path:
            continue
        filled = [_filled(split) for split in (first, second)]
        for split, have, other in ((first, *filled), (second, *filled[::-1])):
            if lacking := sorted(other - have):
                remarks.append(lacking_remark(split.path, lacking))
    return list(dict.fromkeys(remarks))


def _categories(split: ExaminedSplit) -> dict[str, int]:
    """Return the id of each category name, without a placeholder that nothing has."""
    tables = split.tables
    unused = set(tables.placeholders) - set(np.unique(tables.category_rows).tolist())
    pairs = enumerate(zip(tables.category_names, tables.category_ids.tolist(), strict=True))
    return dict(pair for row, pair in pairs if row not in unused)


def _filled(split: ExaminedSplit) -> set[str]:
    tables = split.tables
    rows = tables.category_rows[(tables.category_rows >= 0) & ~tables.iscrowd]
    return {tables.category_names[row] for row in np.unique(rows)}
