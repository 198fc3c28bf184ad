"""Categories of a repaired copy: those of one name merged, or the ids of another file taken over by name."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from detection.data.checks import Section, read_annotations, shortened
from detection.data.federated import KEYS
from detection.data.placeholders import placeholder_remark, placeholder_rows
from detection.errors import UserError

if TYPE_CHECKING:
    from detection.data.repair import Notes, RepairOptions


def repaired_categories(data: dict, path: Path, options: "RepairOptions", notes: "Notes") -> dict:
    """Return a data set with categories whose ids and names are its own.

    Raises:
        UserError: Only a person knows what was meant.
    """
    entries = _without_equals(data["categories"], notes)
    section = Section(path, "categories", entries)
    section.ids()
    section.column("name", {str}, "a text", "")
    if section.problems:
        problem = section.problems[0]
        sentence = problem.sentence.removesuffix(".").partition(", or run `")[0]
        raise UserError(f"{sentence} (categories cannot be repaired automatically).")
    data = _merged({**data, "categories": entries}, path, options.merge_categories, notes)
    return data if options.categories is None else _renumbered(data, path, options.categories, notes)


def shifted_ids(data: dict) -> str | None:
    """Return how the category ids of all annotations seem to be shifted: the list has all of them one higher or lower.

    Without the shift an id that is in the list is another category's.
    """
    listed = {entry["id"] for entry in data["categories"] if type(entry.get("id")) is int}
    named = [entry.get("category_id") for entry in data["annotations"]]
    if not set(map(type, named)) <= {int} or (used := set(named)) <= listed:
        return None
    shifts = {1: ("low", 0, "higher"), -1: ("high", 1, "lower")}
    for shift, (words, first, other) in shifts.items():
        if {id_ + shift for id_ in used} <= listed:
            return (
                f"the category_id of all annotations seems to be one too {words} (counted from {first}?), for the list "
                f"of categories has each of them one {other}"
            )
    return None


def _without_equals(entries: list[dict], notes: "Notes") -> list[dict]:
    first: dict[str, dict] = {}
    for entry in entries:
        first.setdefault(repr((entry.get("id"), entry.get("name"))), entry)
    kept = list(first.values())
    if len(kept) < len(entries):
        notes.append(f"left out {len(entries) - len(kept)} categories that were listed twice")
    return kept


def _merged(data: dict, path: Path, merge: bool, notes: "Notes") -> dict:
    by_name: dict[str, list[int]] = defaultdict(list)
    for entry in data["categories"]:
        by_name[entry["name"]].append(entry["id"])
    used = Counter(str(entry.get("category_id")) for entry in data["annotations"])
    target: dict[int, int] = {}
    for name, ids in by_name.items():
        filled = [id_ for id_ in ids if used[str(id_)]]
        if len(ids) == 1:
            continue
        # A placeholder without boxes (Roboflow writes id 0) has nothing to merge.
        if len(filled) > 1 and not merge:
            boxes = ", ".join(f"id {id_} with {used[str(id_)]} boxes" for id_ in ids)
            raise UserError(
                f"{path}: categories share the name {name!r} ({boxes}): give one of them another name, or add "
                f"--merge-categories to make one class of them, id {ids[0]}."
            )
        keep = (filled or ids)[0]
        target |= {id_: keep for id_ in ids if id_ != keep}
        notes.append(f"merged {len(ids)} categories of the name {name!r} to id {keep}: id {shortened(ids)}")
    if not target:
        return data
    categories = [entry for entry in data["categories"] if entry["id"] not in target]
    return {**_with_ids(data, {entry["id"]: entry["id"] for entry in categories} | target), "categories": categories}


def _with_ids(data: dict, target: dict[int, int]) -> dict:
    """Return a data set with new category ids in its annotations and in LVIS's lists of its images."""
    annotations = [
        {**entry, "category_id": target[entry["category_id"]]} if _known(entry.get("category_id"), target) else entry
        for entry in data["annotations"]
    ]
    images = [{**entry, **listed_categories(entry, target)} for entry in data["images"]]
    return {**data, "images": images, "annotations": annotations}


def listed_categories(image: dict, target: dict[int, int]) -> dict[str, list[int]]:
    """Return LVIS's lists of an image with new category ids, without those of no category."""
    lists = {key: image[key] for key in KEYS if isinstance(image.get(key), list)}
    return {key: list(dict.fromkeys(target[i] for i in ids if _known(i, target))) for key, ids in lists.items()}


def _known(id_: object, target: dict[int, int]) -> bool:
    return type(id_) is int and id_ in target


def _renumbered(data: dict, path: Path, wanted: dict[str, int], notes: "Notes") -> dict:
    classes = without_placeholders(data)
    if left_out := [e["name"] for e in data["categories"] if e not in classes and e["name"] not in wanted]:
        notes.append(f"left out: {placeholder_remark(left_out[0])}")
        data = {**data, "categories": classes}
    unknown = [entry["name"] for entry in data["categories"] if entry["name"] not in wanted]
    if unknown:
        raise UserError(
            f"{path}: category {unknown[0]!r} ({len(unknown)} of {len(data['categories'])}) is not among --categories: "
            "give a file that has all of its names."
        )
    target = {entry["id"]: wanted[entry["name"]] for entry in data["categories"]}
    if changed := sum(old != new for old, new in target.items()):
        notes.append(f"renumbered {changed} categories as --categories has them")
    absent = [name for name in wanted if name not in {entry["name"] for entry in data["categories"]}]
    if absent:
        notes.append(f"added {len(absent)} categories without boxes: {shortened(absent, 5)}")
    own = {entry["name"]: entry for entry in data["categories"]}
    categories = [{**own.get(name, {}), "id": id_, "name": name} for name, id_ in wanted.items()]
    return {**_with_ids(data, target), "categories": categories}


def without_placeholders(data: dict) -> list[dict]:
    """Return the categories of an annotation file that are classes: see `placeholder_rows`."""
    # A placeholder's id is 0.
    used = any(item.get("category_id") == 0 for item in data.get("annotations") or [])
    rows = () if used else placeholder_rows(data["categories"])
    return [entry for row, entry in enumerate(data["categories"]) if row not in rows]


def categories_of(path: Path) -> dict[str, int]:
    """Return the id of each category name of an annotation file, without a placeholder that nothing has.

    Raises:
        UserError: The file cannot be read, or its categories are wrong.
    """
    section = Section(path, "categories", without_placeholders(read_annotations(path)))
    ids, names = section.ids(), section.column("name", {str}, "a text", "")
    section.unique(names, "name")
    if section.problems:
        raise UserError(section.problems[0].sentence)
    return dict(zip(names, ids.tolist(), strict=True))
