"""A check that a run could be opened again: its settings against what `config.json` would give back."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from detection.config.differences import differences
from detection.config.parts import trusting
from detection.config.serialization import from_plain, to_plain
from detection.errors import UserError


def require_reopening(settings: Any) -> None:
    """Check that settings are the same when they are read again from the plain data that a run keeps.

    What has no such form, as a class of a notebook, passes: it is refused where a run would be written.

    Raises:
        UserError: they are not, or cannot be read.
    """
    try:
        plain = json.loads(json.dumps(to_plain(settings)))
    except UserError:
        return
    with trusting(_packages(plain)):
        try:
            again = from_plain(plain, type(settings))
        except UserError as error:
            reason = str(error).rstrip(".")
            raise UserError(f"{reason}: config.json holds it in this form, and the run could not be opened.") from None
    if changed := differences(plain, json.loads(json.dumps(to_plain(again)))):
        raise UserError(f"{changed[0]}, once its run is opened again; give plain values.")


def _packages(plain: Any) -> Iterator[str]:
    """Yield the top-level packages of the classes that plain data name."""
    if isinstance(plain, Mapping):
        name = plain.get("class")
        if isinstance(name, str) and (package := name.partition(".")[0]).isidentifier():
            yield package
    for value in plain.values() if isinstance(plain, Mapping) else plain if isinstance(plain, list) else ():
        yield from _packages(value)
