"""A COCO file split in parts: groups of images stay together, and rare classes are spread over all parts.

The assignment is iterative stratification (Sechidis et al. 2011, On the Stratification of Multi-label Data), over
groups in place of images: the class that the fewest unassigned images have goes first, each group with it to the part
that lacks most of the class. Departure: where no more groups have a class than parts lack it, those parts get one each.
"""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from detection.data.checks import shortened
from detection.errors import UserError


@dataclass
class Group:
    """Images that stay together: their positions, and for each class the number of them that have it."""

    images: list[int]
    classes: Counter[int] = field(default_factory=Counter)


def group_names(images: Sequence[Mapping], by: str | None) -> list[str]:
    """Return the name of each image's group.

    Args:
        images: entries of a COCO file.
        by: a key of the entries; else a regular expression, of which the first group, or all that it matches in the
            file name, is the name; None for each image on its own.

    Raises:
        UserError: it is neither, or some image has no group.
    """
    if by is None:
        return [str(row) for row in range(len(images))]
    if any(by in image for image in images):
        missing = [image["id"] for image in images if image.get(by) is None]
        found: list[str | None] = [str(image.get(by)) for image in images]
        what = f"no {by}"
    else:
        try:
            pattern = re.compile(by)
        except re.error as error:
            raise UserError(f"--group {by}: neither a key of the images nor a regular expression ({error}).") from None
        matches = [pattern.search(str(image.get("file_name", ""))) for image in images]
        found = [None if m is None else m[1] if pattern.groups else m[0] for m in matches]
        missing = [image["id"] for image, name in zip(images, found, strict=True) if name is None]
        what = "a file name that it does not match"
    if missing:
        raise UserError(
            f"--group {by}: {len(missing)} of {len(images)} images have {what} (id {shortened(missing, 5)}); give a "
            "key that all images have, or an expression that matches all file names."
        )
    return [str(name) for name in found]


def make_groups(names: Sequence[str], image_rows: Sequence[int], classes: Sequence[int]) -> list[Group]:
    """Return the groups, with the classes of the annotations in them.

    Args:
        names: group of each image.
        image_rows: position of each annotation's image.
        classes: class of each annotation.
    """
    groups: dict[str, Group] = {}
    for row, name in enumerate(names):
        groups.setdefault(name, Group([])).images.append(row)
    for row, class_ in sorted(set(zip(image_rows, classes, strict=True))):
        groups[names[row]].classes[class_] += 1
    return list(groups.values())


def assign(groups: Sequence[Group], fractions: Mapping[str, float], seed: int, stratify: bool) -> dict[str, list[int]]:
    """Return the positions of each part's images, in their order.

    Args:
        groups: what stays together.
        fractions: share of the images that each part should get.
        seed: of the order in which groups are assigned.
        stratify: spread each class by the same fractions, rare ones first.
    """
    waiting = list(groups)
    random.Random(seed).shuffle(waiting)
    waiting.sort(key=lambda group: -len(group.images))  # the largest first: small ones even out
    left: Counter[int] = Counter()
    having: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(waiting):
        left.update(group.classes)
        for class_ in group.classes:
            having[class_].append(place)
    plan = _Plan(fractions, sum(len(group.images) for group in waiting), left)
    assigned: set[int] = set()
    while stratify and (rest := [class_ for class_, count in left.items() if count > 0]):
        rare = min(rest, key=lambda class_: (left[class_], class_))
        places = [place for place in having[rare] if place not in assigned]
        for done, place in enumerate(places):
            plan.give(waiting[place], plan.part_for(rare, len(places) - done))
            left.subtract(waiting[place].classes)
        assigned.update(places)
    for place, group in enumerate(waiting):
        if place not in assigned:
            plan.give(group, max(fractions, key=lambda part: plan.room[part]))
    return {part: sorted(row for group in plan.given[part] for row in group.images) for part in fractions}


class _Plan:
    """What each part still lacks of images and classes."""

    def __init__(self, fractions: Mapping[str, float], images: int, classes: Counter[int]) -> None:
        self.room = {part: fraction * images for part, fraction in fractions.items()}
        self.lack = {part: {c: fraction * n for c, n in classes.items()} for part, fraction in fractions.items()}
        self.has: dict[str, Counter[int]] = {part: Counter() for part in fractions}
        self.given: dict[str, list[Group]] = defaultdict(list)

    def part_for(self, class_: int, groups_left: int) -> str:
        """Return the part that needs a group of a class most, of which this many groups are not assigned yet."""
        without = [part for part in self.room if not self.has[part][class_]]
        parts = without if 0 < groups_left <= len(without) else list(self.room)
        return max(parts, key=lambda part: (self.lack[part][class_], self.room[part]))

    def give(self, group: Group, part: str) -> None:
        """Assign a group."""
        self.given[part].append(group)
        self.room[part] -= len(group.images)
        self.has[part].update(group.classes)
        for class_, count in group.classes.items():
            self.lack[part][class_] -= count


def parse_fractions(words: Sequence[str]) -> dict[str, float]:
    """Return the fraction of each part from texts such as `train=0.8`.

    Raises:
        UserError: a text of another form, a name that is no file name, or fractions that are not 1 together.
    """
    fractions: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not equals or not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name) or not 0 < value < 1:
            raise UserError(f"--fractions {word}: write NAME=FRACTION above 0 and below 1, such as train=0.8.")
        if name in fractions:
            raise UserError(f"--fractions {word}: {name} is given twice; give every part once.")
        fractions[name] = value
    if len(fractions) < 2 or abs(sum(fractions.values()) - 1) > 1e-6:
        total = f"{sum(fractions.values()):g}"
        raise UserError(
            f"--fractions {' '.join(words)}: two parts or more must make 1 together, but make {total}; correct them."
        )
    return fractions
