"""JSON values of an annotation file that are readable, but not of COCO's types: read as what they mean.

Numbers in quotes, 64.0 for 64, [400] for 400, null or "false" for iscrowd 0, boxes as texts or objects, flat polygons,
and ids that are texts. What cannot be read stays as it is, for the checks to name.
"""

import math
import os
import re
from collections import Counter
from typing import Any

Changes = dict[str, list[object]]
"""Kinds of change, in a few words, with the ids of the entries that each one changed."""

_FLAGS = {"false": 0, "no": 0, "0": 0, "0.0": 0, "": 0, "true": 1, "yes": 1, "1": 1, "1.0": 1}
_BOX_KEYS = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_CORNER_KEYS = (
    ("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max"), ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"), ("left", "top", "right", "bottom"),
)  # fmt: skip
_INT64 = 2**63


def number(value: Any) -> int | float | None:
    """Return the number that a value means (in quotes or alone in a list, too); None if it means none."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        text = value.strip()
        # A decimal comma; but 1,024 may be a thousand, and nobody knows.
        if re.fullmatch(r"[+-]?\d+,\d+", text) and not re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", text):
            text = text.replace(",", ".")
        if "_" in text or not text.isascii():
            return None
        try:
            return int(text)
        except ValueError:
            pass
        try:
            return float(text)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def integer(value: Any) -> int | None:
    """Return the integer of at most 64 bits that a value means; None if it means none."""
    found = number(value)
    if isinstance(found, float):
        found = int(found) if math.isfinite(found) and found.is_integer() else None
    return found if found is not None and -_INT64 <= found < _INT64 else None


def box_numbers(value: Any) -> list[int | float] | None:
    """Return the four numbers of a box that is a list, a text or an object with x, y, width, height; else None.

    Of an object with two corners, whose keys say so, they are x, y, width and height, too.
    """
    if isinstance(value, str):
        value = re.split(r"[,;\s]+", value.strip().strip("[](){}").strip())
    corners = False
    if isinstance(value, dict):
        value = {str(key).lower(): side for key, side in value.items()}
        keys = next((keys for keys in (*_BOX_KEYS, *_CORNER_KEYS) if set(keys) <= set(value)), None)
        corners = keys in _CORNER_KEYS
        value = None if keys is None else [value[key] for key in keys]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    if not isinstance(value, list) or len(value) != 4:
        return None
    found = [number(item) for item in value]
    if any(item is None for item in found):
        return None
    x, y, right, bottom = found
    return [x, y, right - x, bottom - y] if corners else found  # type: ignore[operator,return-value]


def flag(value: Any) -> int | None:
    """Return the 0 or 1 that a value means, 0 for null; None if it means neither."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return 0
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    return int(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def polygons(value: Any) -> Any:
    """Return a flat polygon as a list of one polygon, with numbers for numbers in quotes; else the value itself."""
    if not isinstance(value, list) or not value:
        return value
    parts = value if all(isinstance(part, list) for part in value) else [value]
    read = [[number(item) for item in part] for part in parts]
    plain = all(item is not None for part in read for item in part) and all(len(part) >= 6 for part in read)
    return read if plain else value


def read_values(data: dict) -> tuple[dict, Changes]:
    """Read every value of a parsed annotation file as what it means.

    Returns:
        The file with COCO's types, entries that change copied; and the kinds of change.
    """
    changes: Changes = {}
    categories, category_ids = _numbered(data["categories"], "category", changes)
    categories = [_named(entry, changes) for entry in categories]
    images, image_ids = _numbered(data["images"], "image", changes)
    images = [_sized(entry, changes) for entry in images]
    by_name, by_file = _ids_by(categories, "name"), _ids_by_file(images)
    entries = data["annotations"]
    found = {
        "image_id": _references(entries, "image_id", image_ids, by_file, changes),
        "category_id": _references(entries, "category_id", category_ids, by_name, changes),
    }
    annotations = []
    for row, entry in enumerate(entries):
        new = _annotation(entry) | {key: ids[row] for key, ids in found.items() if ids[row] is not None}
        annotations.append(_changed(entry, new, "annotation", changes))
    return {**data, "categories": categories, "images": images, "annotations": annotations}, changes


def _ids_by(entries: list[dict], key: str) -> dict[str, Any]:
    """Return the id of each text under a key that only one entry has."""
    texts = [entry[key] for entry in entries if isinstance(entry.get(key), str)]
    times = Counter(texts)
    return {e[key]: e.get("id") for e in entries if isinstance(e.get(key), str) and times[e[key]] == 1}


def _ids_by_file(images: list[dict]) -> dict[str, Any]:
    """Return the id of each file name, in full, without folders and without suffix, that only one image has."""
    names = [(entry.get("id"), entry["file_name"]) for entry in images if isinstance(entry.get("file_name"), str)]
    bases = [(id_, name.replace("\\", "/").rpartition("/")[2]) for id_, name in names]
    stems = [(id_, os.path.splitext(base)[0]) for id_, base in bases]
    found: dict[str, Any] = {}
    for form in (stems, bases, names):
        found |= _ids_by([{"id": id_, "name": name} for id_, name in form], "name")
    return found


def _key(value: Any) -> tuple[str, object] | None:
    """Return a value's JSON type and value: 1, 1.0 and "1" are three ids."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return (type(value).__name__, value) if isinstance(value, int | float | str) else None


def _numbered(entries: list[dict], noun: str, changes: Changes) -> tuple[list[dict], dict]:
    """Give entries integer ids where theirs are others, and return the id of each old one by type and value."""
    wanted: dict[tuple[str, object], int | None] = {}
    for entry in entries:
        if (key := _key(entry.get("id"))) is not None and key[0] != "bool":
            wanted[key] = integer(entry["id"])
    # Texts without a number, numbers over 64 bits, and 1.0 next to 1 get numbers of their own.
    kept = {id_ for key, id_ in wanted.items() if key[0] == "int" and id_ is not None}
    new: dict[tuple[str, object], int] = {}
    taken = set(kept)
    for key, id_ in wanted.items():
        if id_ is not None and (key[0] == "int" or id_ not in taken):
            new[key] = id_
            taken.add(id_)
    following = max([*taken, 0]) + 1
    for key in wanted:
        if key not in new and key[1] != "" and key[1] == key[1]:
            new[key] = following
            following += 1
    read = []
    for entry in entries:
        key = _key(entry.get("id"))
        id_ = new.get(key) if key is not None else None
        if id_ is None or type(entry["id"]) is int:
            read.append(entry)
            continue
        kind = f"{noun} ids as numbers" if integer(entry["id"]) == id_ else f"{noun} ids that are texts, numbered"
        changes.setdefault(kind, []).append(entry["id"])
        read.append({**entry, "id": id_})
    return read, new


def _references(entries: list[dict], key: str, known: dict, by_name: dict, changes: Changes) -> list[int | None]:
    """Return the new id that the image_id or category_id of each annotation means, None where it names nothing known.

    A text can be the id of one entry and the name of another, such as of digits: it is read as an id, unless all texts
    are names and some are no ids, or not written as such (`000007`).
    """
    values = [entry.get(key) for entry in entries]
    texts = {value for value in values if isinstance(value, str) and _key(value) not in known}
    numbers = {id_ for (_, old), id_ in known.items() if integer(old) == id_}
    ids = {text: id_ for text in texts if (id_ := integer(text)) in numbers}
    names = {text: by_name[text] for text in texts if type(by_name.get(text)) is int}
    are_names = texts == set(names) and any(str(ids.get(text)) != text for text in texts)
    means = ids | names if are_names else names | ids
    found: list[int | None] = []
    for entry, value in zip(entries, values, strict=True):
        if isinstance(value, str) and value in means:
            found.append(means[value])
            if value in ids and names.get(value, ids[value]) != ids[value]:
                read = "names, as texts that are no ids show" if are_names else "ids"
                kind = f"annotation {key} in quotes that fits an id and another's name: all are read as {read}"
                changes.setdefault(kind, []).append(entry.get("id"))
        else:
            old = _key(value)
            found.append(known[old] if old in known else integer(value))
    return found


def _named(entry: dict, changes: Changes) -> dict:
    name = entry.get("name")
    if isinstance(name, int | float) and not isinstance(name, bool):
        return _changed(entry, {"name": f"{name:g}" if isinstance(name, float) else str(name)}, "category", changes)
    return entry


def _sized(entry: dict, changes: Changes) -> dict:
    found = {key: integer(entry[key]) for key in ("width", "height") if key in entry}
    return _changed(entry, {key: size for key, size in found.items() if size is not None}, "image", changes)


def _annotation(entry: dict) -> dict:
    read = {
        "id": integer(entry.get("id")),
        "bbox": box_numbers(entry.get("bbox")),
        "area": number(entry.get("area")),
        "iscrowd": flag(entry.get("iscrowd")),
        "segmentation": polygons(entry.get("segmentation")),
    }
    return {key: value for key, value in read.items() if key in entry and value is not None}


def _changed(entry: dict, new: dict, noun: str, changes: Changes) -> dict:
    """Return an entry with new values, noting those that differ in value or type."""
    differing = {key: value for key, value in new.items() if not _same(entry[key], value)}
    for key in differing:
        changes.setdefault(f"{noun} {key} read as what it means", []).append(entry.get("id"))
    return {**entry, **differing} if differing else entry


def _same(old: Any, new: Any) -> bool:
    if type(old) is not type(new):
        return isinstance(old, bool) and old == new  # true and false are legal flags
    if isinstance(old, list):
        return len(old) == len(new) and all(map(_same, old, new))
    return old == new or old != old
