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


def version_differences(environments: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Find the libraries whose versions differ between runs.

    Args:
        environments: `environment.json` of each run by its name; those without versions are not compared.

    Returns:
        By library the version of every run by its name, `none` where it is not installed.
    """
    versions = {name: e["versions"] for name, e in environments.items() if isinstance(e.get("versions"), Mapping)}
    libraries = sorted({library for of_run in versions.values() for library in of_run})
    found = {lib: {name: str(v.get(lib, "none")) for name, v in versions.items()} for lib in libraries}
    return {library: of_runs for library, of_runs in found.items() if len(set(of_runs.values())) > 1}
