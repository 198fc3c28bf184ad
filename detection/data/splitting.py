"""A COCO file split in parts: groups of images stay together, and rare classes are spread over all parts.

The assignment is iterative stratification (Sechidis et al. 2011, On the Stratification of Multi-label Data), over
groups in place of images: the class that the fewest unassigned images have goes first, each group with it to the part
that lacks most of the class. Departures: where no more groups have a class than parts lack it, those parts get one
each, and at the end groups are exchanged until each part has each class that enough groups have.
"""

import itertools
import math
import posixpath
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from detection.data.checks import shortened
from detection.errors import UserError

MOST_OFFERS = 200
"""Groups that are looked at for an exchange, so that a large set does not take forever."""


@dataclass(eq=False)
class Group:
    """Images that stay together: their positions, and for each class the number of them that have it."""

    images: list[int]
    classes: Counter[int] = field(default_factory=Counter)


def group_names(images: Sequence[Mapping], by: str | None) -> list[str]:
    """Return the name of each image's group.

    Args:
        images: entries of a COCO file.
        by: a key of the entries; else a regular expression, of which the first group, or all that it matches in the
            file name, is the name; None for each file on its own. Entries of one file are in one group, always.

    Raises:
        UserError: it is neither, or some image has no group.
    """
    if by is None:
        return list(map(_file, images))
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
    group_of: dict[str, str] = {}
    for image, name in zip(images, found, strict=True):
        group_of.setdefault(_file(image), str(name))
    return [group_of[_file(image)] for image in images]


def _file(image: Mapping) -> str:
    return posixpath.normpath(str(image.get("file_name", "")).replace("\\", "/"))


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
    if stratify:
        plan.complete()
    return {part: sorted(row for group in plan.given[part] for row in group.images) for part in fractions}


class _Plan:
    """The groups given to each part so far, and the images and classes that it still lacks."""

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

    def complete(self) -> None:
        """Give each part a class that it lacks, by an exchange that takes the last of no class from another."""
        number = Counter(class_ for groups in self.given.values() for group in groups for class_ in group.classes)
        for class_ in sorted(number, key=lambda class_: (number[class_], class_)):
            for part in self.room:
                if number[class_] >= len(self.room) and not self.has[part][class_]:
                    self._exchange(part, class_)

    def _exchange(self, part: str, class_: int) -> None:
        """Give a part a group of a class against one of about as many images, or none, if that is possible."""
        offers = (
            (other, group)
            for other in self.room
            for group in self.given[other]
            if class_ in group.classes and self._can_spare(other, group)
        )
        best: tuple[int, str, Group, Group | None] | None = None
        for other, group in itertools.islice(offers, MOST_OFFERS):
            returns = (None, *(own for own in self.given[part][-MOST_OFFERS:] if self._can_spare(part, own, group)))
            for own in returns:
                cost = abs(len(group.images) - (len(own.images) if own else 0))
                if best is None or cost < best[0]:
                    best = cost, other, group, own
        if best is not None:
            _, other, group, own = best
            self._move(group, other, part)
            if own is not None:
                self._move(own, part, other)

    def _can_spare(self, part: str, group: Group, new: Group | None = None) -> bool:
        """Whether a part has every class of a group without it, and with a new one."""
        added = new.classes if new is not None else Counter[int]()
        return all(self.has[part][c] - count + added[c] > 0 for c, count in group.classes.items())

    def _move(self, group: Group, source: str, target: str) -> None:
        self.given[source].remove(group)
        self.has[source].subtract(group.classes)
        self.given[target].append(group)
        self.has[target].update(group.classes)


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
