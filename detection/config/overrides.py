"""Changes of a config as the texts that a person types: `key=value`."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from detection.config.parts import class_name
from detection.config.serialization import require_keywords, to_plain
from detection.errors import UserError


def as_overrides(changes: Sequence[str] | Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the changes of a variant or a data set as `key=value` texts.

    Args:
        changes: such texts already, or values and parts by dotted key.
        key: where they stand, for errors.

    Raises:
        UserError: neither of both, a value that is no plain data, or a seed, which is not theirs to set.
    """
    if isinstance(changes, Mapping):
        changes = [f"{name}={as_text(value, f'{key}: {name}')}" for name, value in changes.items()]
    if isinstance(changes, str) or not all(isinstance(change, str) for change in changes):
        raise UserError(f"{key}: must be a list of 'key=value' texts, or a dictionary of values by dotted key.")
    for change in changes:
        name, equals, _ = change.partition("=")
        if not equals or not name:
            raise UserError(f"{key}: {change!r}: write it as key=value, for example schedule.epochs=2.")
        if name == "seed":
            raise UserError(f"{key}: {change!r}: seeds are set by `seeds`, one for each run.")
    return tuple(changes)


def as_text(value: Any, key: str) -> str:
    """Return a value as a command line takes it: a part is its class, in a dictionary with the settings given to it."""
    if isinstance(value, str):
        return value
    plain = _short(value, key)
    return plain["class"] if isinstance(plain, dict) and list(plain) == ["class"] else repr(plain)


def _short(value: Any, key: str) -> Any:
    if isinstance(value, functools.partial):
        require_keywords(value, key)
        settings = {name: _short(setting, key) for name, setting in value.keywords.items()}
        return {"class": class_name(value.func, key), **settings}
    if isinstance(value, type) or inspect.isfunction(value):  # which stands for a partial of it
        return {"class": class_name(value, key)}
    if isinstance(value, list | tuple):
        return [_short(item, key) for item in value]
    if isinstance(value, Mapping):
        return {name: _short(item, key) for name, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _short(getattr(value, f.name), key) for f in dataclasses.fields(value)}
    return to_plain(value, key)
