"""Differences between two serialized configs."""

import json
from typing import Any


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """List where two plain configs differ, as `key=old instead of new`, in the order of their keys.

    Parts of different classes differ by their class; their settings have nothing in common.
    """
    if isinstance(old, dict) and isinstance(new, dict) and old.get("class") == new.get("class"):
        keys = [*old, *(k for k in new if k not in old)]
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{key}.{k}".lstrip("."))]
    if old == new:
        return []
    return [f"{key}={_shown(old)} instead of {_shown(new)}"]


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "class" in value:
        return value["class"]
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
