"""Reading COCO results and annotations from files: a mistake is one sentence that names the file and the entry."""

import json
import math
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from detection.data.json_files import packed_or_stand_in
from detection.errors import UserError
from detection.evaluation.columns import CocoDataset, CocoResults
from detection.evaluation.predicted_ids import predicted_ids
from detection.names import visible

KEYS = ("image_id", "category_id", "bbox", "score")


def read_ground_truth(path: str | Path, *, federated: bool = True) -> CocoDataset:
    """Read an annotations file without needing its images; boxes that cannot be trained on are dropped and counted.

    Args:
        path: the file.
        federated: honor LVIS's keys (`data.federated`). Trainings and evaluations of runs do not, so that what is
            compared with their metrics must not either.

    Returns:
        COCO dataset dict with original ids, and with `dropped`, the number of boxes left out, if there are any; with
        `judged` where not all classes are annotated in each image (`data.federated`), and `text_ids` as in
        `load_ground_truth`.

    Raises:
        UserError: The file is missing or is no COCO annotations file.
    """
    from detection.data.checks import read_annotations
    from detection.data.coco_index import load_index
    from detection.data.federated import add_federated, is_federated
    from detection.data.ground_truth import load_ground_truth
    from detection.data.readable_values import read_values

    try:
        ground_truth = load_index(path).to_coco()
    except UserError:
        # What training refuses may do for measuring.
        ground_truth = load_ground_truth(Path(path))
    if federated and is_federated(path):
        add_federated(ground_truth, read_values(read_annotations(Path(path)))[0]["images"], path)
    return ground_truth


def add_attribute(ground_truth: CocoDataset, path: str | Path, key: str) -> None:
    """Give the ground truth's images this key of theirs in its annotations file, which an index does not hold.

    Raises:
        UserError: no image has it.
    """
    from detection.data.checks import read_annotations
    from detection.data.readable_values import read_values

    # The ground truth has numbers for ids that are texts.
    file = {**read_annotations(Path(path)), "annotations": [], "categories": []}
    images = {image.get("id"): image for image in read_values(file)[0]["images"]}
    if not any(key in image for image in images.values()):
        keys = ", ".join(sorted({k for image in images.values() for k in image} - {"id", "file_name"})[:20])
        raise UserError(f"{path}: no image has the key {key!r}; their keys are {keys or 'none'}.")
    for image in ground_truth["images"]:
        if key in images.get(image["id"], {}):
            image[key] = images[image["id"]][key]


def read_results(path: str | Path, ground_truth: CocoDataset) -> CocoResults:
    """Read and check a COCO results file.

    Args:
        path: JSON list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`, boxes in pixels; an
            entry with `segmentation`, a mask as RLE, in place of `bbox` has the mask's box.
        ground_truth: Data set whose images and categories the results name; image ids of `detection predict` are
            mapped to its own by `predicted_ids`, and a note is printed.

    Returns:
        The entries with these four keys, ids as int, the rest as float; other keys are left out. Categories that the
        annotations lack stay, unless there are no others, or the ids look as if they were counted from 0.

    Raises:
        UserError: Anything is wrong with the file; the sentence names the entry, counted from 0.
    """
    entries = _read_list(Path(path))
    images = {image["id"]: [image.get("height"), image.get("width")] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    unknown = {e.get("category_id") for e in entries if isinstance(e, dict) and _is_number(e.get("category_id"))}
    some_known, unknown = bool(unknown & categories), unknown - categories
    own_ids = predicted_ids(Path(path), ground_truth)
    results = []
    for number, entry in enumerate(entries):
        try:
            result = _checked(_with_numbers(entry, ground_truth.get("text_ids", {})))
            if own_ids and result["image_id"] not in own_ids:
                raise ValueError(f"image_id {result['image_id']} is not in images.json next to it")
            result["image_id"] = own_ids.get(result["image_id"], result["image_id"])
            for key, known in (("image_id", images.keys()), ("category_id", categories)):
                # As pycocotools, which measures the categories of the annotations.
                if key == "category_id" and some_known and 0 not in unknown:
                    continue
                if result[key] not in known:
                    raise ValueError(f"{key} {result[key]} is not in the annotations{_how_many(entries, key, known)}")
            if "bbox" not in entry:
                _require_size(entry["segmentation"]["size"], images[result["image_id"]])
        except ValueError as error:
            hint = _text_id_hint(entry, ground_truth)
            raise UserError(f"{path}: entry {number} (counted from 0): {error}{hint}.") from None
        results.append(result)
    if own_ids:
        print(
            f"note: {visible(str(path))}: its image ids are those of images.json next to it, and were mapped to those "
            "of the annotations by file name",
            file=sys.stderr,
        )
    return results


def _with_numbers(entry: Any, text_ids: dict[str, dict[str, int]]) -> Any:
    """Replace ids that are texts, in the annotations too, by those that stand for them."""
    if not isinstance(entry, dict):
        return entry
    ids = {
        key: ids[entry[key]] for key, ids in text_ids.items() if isinstance(entry.get(key), str) and entry[key] in ids
    }
    return {**entry, **ids}


def _text_id_hint(entry: Any, ground_truth: CocoDataset) -> str:
    """The remedy for an id that is a text: of a number, or the name of an image or category of the annotations."""
    for key, name_key, items in (("image_id", "file_name", "images"), ("category_id", "name", "categories")):
        text = entry.get(key) if isinstance(entry, dict) else None
        if not isinstance(text, str):
            continue
        for item in ground_truth[items] if text not in {str(item["id"]) for item in ground_truth[items]} else ():
            name = str(item.get(name_key, ""))
            if text in (name, Path(name).name, Path(name).stem):
                return f"; the annotations have {json.dumps(name)[:80]} under the id {item['id']}: write that"
        return _quotes_hint(text) or "; write the id that the annotations give it"
    return ""


def _quotes_hint(value: Any) -> str:
    """The remedy for a number in quotes."""
    try:
        return "; write numbers without quotes" if isinstance(value, str) and math.isfinite(float(value)) else ""
    except ValueError:
        return ""


def _read_list(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such results file.") from None
    except OSError as error:
        raise UserError(f"{path}: the results file cannot be read ({error.strerror}).") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        if error.msg == "Extra data" and error.doc.lstrip().startswith("{"):
            raise UserError(
                f"{path}: one JSON object a line; results are a JSON list of such objects, written as one."
            ) from None
        malformed = UserError(f"{path}: malformed JSON at {where} ({error.msg}); write the results file again.")
        raise packed_or_stand_in(path) or malformed from None
    except (ValueError, RecursionError):
        raise packed_or_stand_in(path) or UserError(
            f"{path}: this is not JSON; write the results file again."
        ) from None
    if isinstance(entries, dict) and "annotations" in entries:
        raise UserError(
            f"{path}: this is an annotations file; results are a list of {', '.join(KEYS)}, "
            "as written by detection evaluate, or by detection predict with images.json next to it."
        )
    if not isinstance(entries, list):
        raise UserError(f"{path}: results are a JSON list of {', '.join(KEYS)}, not {_kind(entries)}.")
    return entries


def _checked(entry: Any) -> dict[str, Any]:
    """Check an entry and convert its types; a `ValueError` is the rest of a sentence that names it."""
    if not isinstance(entry, dict):
        raise ValueError(f"it is {_kind(entry)}, not an object with {', '.join(KEYS)}")
    if "bbox" not in entry and "segmentation" in entry:
        from detection.data.run_lengths import box_and_area

        found = box_and_area(entry["segmentation"])
        if found is None:
            raise ValueError("bbox is missing, and segmentation is no sound RLE whose box could stand for it")
        entry = {**entry, "bbox": found[0]}
    missing = [key for key in KEYS if key not in entry]
    if missing:
        annotation = missing == ["score"] and ("iscrowd" in entry or "area" in entry)
        hint = " (it looks like an annotation; results carry a score)" if annotation else ""
        raise ValueError(f"{', '.join(missing)} is missing{hint}")
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise ValueError(f"bbox is not 4 numbers [x, y, width, height] but {json.dumps(box)[:80]}")
    result = {
        "image_id": _integer("image_id", entry["image_id"]),
        "category_id": _integer("category_id", entry["category_id"]),
        "bbox": [_finite("bbox", value) for value in box],
        "score": _finite("score", entry["score"]),
    }
    width, height = result["bbox"][2:]
    if width < 0 or height < 0:
        raise ValueError(f"bbox {box} has a negative size; boxes are [x, y, width, height]")
    if not math.isfinite(width * height):
        raise ValueError(f"bbox {box} has an infinite area")
    return result


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(key: str, value: Any) -> int:
    if not _is_number(value) or value != value or value in (math.inf, -math.inf) or int(value) != value:
        raise ValueError(f"{key} is {json.dumps(value)[:80]}, not an integer")
    return int(value)


def _finite(key: str, value: Any) -> float:
    if not _is_number(value):
        raise ValueError(f"{key} is {json.dumps(value)[:80]}, not a number{_quotes_hint(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{key} holds {number}; it must be a finite number")
    return number


def _require_size(size: list[int], of_image: list[Any]) -> None:
    """Refuse run lengths that count the pixels of an image of another height and width, where those are known."""
    if of_image != size and all(type(side) is int and side > 0 for side in of_image):
        raise ValueError(
            f"bbox is missing, and segmentation has height and width {size}, but those of its image are {of_image}; "
            "write masks of the size of their images"
        )


def _how_many(entries: list[Any], key: str, known: Collection[int]) -> str:
    """Count how often unknown ids occur: once is a slip, always is another split or data set."""
    number = sum(isinstance(e, dict) and _is_number(e.get(key)) and e[key] not in known for e in entries)
    cause = "another split" if key == "image_id" else "category ids counted from 0, or another data set"
    return f" ({number} of {len(entries)} entries have such an id: {cause}?)"


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
