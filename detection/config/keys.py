"""Keys as people type them: the shortest unique ending of a config key, and the names that other packages have.

`epochs` is `schedule.epochs`, `context.cell` is `detector.context.cell`. A key of the top level is never an ending.
"""

import difflib
import functools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from detection.config.foreign_keys import foreign_key
from detection.config.serialization import child, from_plain, set_key, setting_types
from detection.errors import UserError

Settings = TypeVar("Settings")


def apply_overrides(config: Settings, overrides: Sequence[str]) -> Settings:
    """Return settings with `key=value` texts applied in order; a key may be its shortest unique ending.

    Raises:
        UserError: an unknown key (names the nearest one) or one that may be several, a value of the wrong type, or no
            `=`.
    """
    with suppress(UserError):  # which an override may mend
        config = from_plain(config, type(config))
    for item in overrides:
        key, text = _split(item)
        config = set_key(config, full_key(config, key, text), text)
    return config


def full_overrides(config: Any, overrides: Sequence[str]) -> tuple[str, ...]:
    """Return `key=value` texts with complete keys, each completed in the settings as those before it leave them.

    Raises:
        UserError: as in `apply_overrides`.
    """
    full = []
    for item in overrides:
        key, text = _split(item)
        key = full_key(config, key, text)
        config = set_key(config, key, text)
        full.append(f"{key}={text}")
    return tuple(full)


def full_key(settings: Any, key: str, text: str = "") -> str:
    """Return the complete key that a typed one is the ending of.

    Args:
        settings: a dataclass.
        key: as typed.
        text: its value; the name of a class or choice that only one of several keys takes chooses that one.

    Raises:
        UserError: it is the ending of several keys, or of none; with what was probably meant.
    """
    names, known = key.split("."), dict(_keys(settings))
    # The names after the key of a dictionary are its own: `lr_multipliers.backbone.fpn`.
    for length in range(len(names), 0, -1):
        ending, rest = ".".join(names[:length]), names[length:]
        within = {k for k, value in known.items() if not rest or isinstance(value, dict)}
        if ending in within:
            return key
        found = [k for k in known if k in within and k.endswith(f".{ending}")]
        found = found if len(found) < 2 or rest else _that_take(settings, found, text)
        if len(found) > 1:
            raise UserError(f"{key}: may be {_listed(found)}; write the one that you mean.")
        if found:
            return ".".join([found[0], *rest])
    below = [k for k in known if k.startswith(f"{names[0]}.") and k.endswith(f".{names[-1]}")]
    if below and len(names) > 1:
        raise UserError(f"{key}: unknown config key; did you mean {_listed(below)}?")
    meant = foreign_key(key, list(known))
    if names[0] in known and not meant:  # which of the names is wrong, `set_key` finds
        return key
    raise UserError(f"{key}: unknown config key; {meant or _nearest(key, list(known))}")


def _that_take(settings: Any, keys: list[str], text: str) -> list[str]:
    """Return those of several keys that take the name `text`; all, where it is no name or none does."""
    if not text.isidentifier() or text.lower() in ("true", "false", "none", "null"):
        return keys
    taken = []
    for key in keys:
        with suppress(UserError):
            set_key(settings, key, text)
            taken.append(key)
    return taken or keys


def _listed(keys: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(keys[:-1]), keys[-1]]))


def _split(item: str) -> tuple[str, str]:
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise UserError(f"override {item!r}: write it as key=value, for example schedule.epochs=2.")
    return key, text


def _keys(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key below a node with its present value."""
    for name in setting_types(node):
        value = child(node, name)
        yield f"{prefix}{name}", value
        if isinstance(value, functools.partial) or hasattr(value, "__dataclass_fields__"):
            yield from _keys(value, f"{prefix}{name}.")


def _nearest(key: str, known: list[str]) -> str:
    endings = {known_key.rpartition(".")[2]: known_key for known_key in reversed(known)}
    for names in ({known_key: known_key for known_key in known}, endings):
        if near := difflib.get_close_matches(key, names, n=1, cutoff=0.75):
            return f"did you mean {names[near[0]]}?"
    top = [known_key for known_key in known if "." not in known_key]
    if near := difflib.get_close_matches(key.partition(".")[0], top, n=1):
        return f"did you mean {near[0]}?"
    return f"known at the top: {', '.join(sorted(top))}."
