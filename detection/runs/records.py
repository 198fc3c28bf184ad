"""Comparison of what runs record in `environment.json`: their data, and the versions of libraries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.errors import UserError
from detection.runs.own_files import read_bounded_json


def read_record(folder: Path) -> dict[str, Any]:
    """Read a finished run's `environment.json` for a report; empty where it is missing or damaged."""
    try:
        found = read_bounded_json(folder / "environment.json")
    except (OSError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


def environments(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what an `environment.json` holds of the run's start, and of each resume."""
    history = record.get("history")
    return [record, *(entry for entry in (history if isinstance(history, list) else ()) if isinstance(entry, Mapping))]


def data_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Name what differs between two records of a split: `annotations`, `images`, both, or nothing.

    A hash that either lacks is not compared; a classifier's images and labels have one.
    """
    names = {"sha256": "annotations" if "annotations" in first else "images", "images_sha256": "images"}
    differing = [what for key, what in names.items() if key in first and key in second and first[key] != second[key]]
    return " and ".join(differing)


def data_key(split: Mapping[str, Any]) -> str:
    """Return a text that is equal for records of equal annotations and images."""
    return "-".join(str(split.get(key, "unknown")) for key in ("sha256", "images_sha256"))


def version_differences(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Find the libraries whose versions differ between runs.

    Args:
        records: `environment.json` of each run by its name; those without versions are not compared.

    Returns:
        By library the version of every run by its name, `none` where it is not installed, and after `, then` that with
        which it was resumed.
    """
    versions = {name: found for name, record in records.items() if (found := _versions(record))}
    libraries = sorted({library for of_run in versions.values() for one in of_run for library in one})
    found = {lib: {name: [str(v.get(lib, "none")) for v in vs] for name, vs in versions.items()} for lib in libraries}
    return {
        library: {name: ", then ".join(dict.fromkeys(of_run)) for name, of_run in of_runs.items()}
        for library, of_runs in found.items()
        if len({version for of_run in of_runs.values() for version in of_run}) > 1
    }


def _versions(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The versions of a run's start and of each resume, as far as they are known."""
    found = (environment.get("versions") for environment in environments(record))
    return [versions for versions in found if isinstance(versions, Mapping)]
