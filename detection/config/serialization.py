"""Typed settings to and from plain data: dataclasses, partials of classes, and text from the command line.

A part is a `functools.partial` of a class, or of a function; its settings are the keywords that have defaults or were
given. In plain data it is a dictionary with the class's name under `class`. `partial[Contract]` as a type asks for a
class that fulfils the contract, `Annotated[int, Range(…)]` for a number in a range (`detection.ranges`).
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from detection.config.parts import class_name, find_by_name, find_class, require_fitting
from detection.errors import UserError
from detection.names import shorten
from detection.ranges import Range, ReadAs

Part = functools.partial
Settings = TypeVar("Settings")
_SEQUENCES = {list: list, Sequence: tuple, Collection: tuple, Iterable: tuple}
"""Annotations of other packages that stand for several values of one type, with what is made of them."""


def to_plain(value: Any, key: str = "") -> Any:
    """Turn a config into JSON-ready data, with every default written out.

    Raises:
        UserError: a value that JSON has no form for, or a class that no import finds.
    """
    if isinstance(value, functools.partial):
        cls, name = value.func, class_name(value.func, key)
        require_keywords(value, key)
        settings = {k: p.default for k, p in _parameters(cls).items() if p.default is not p.empty}
        settings.update(value.keywords)
        return {"class": name, **{k: to_plain(v, _join(key, k)) for k, v in settings.items()}}
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name), _join(key, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, _join(key, str(k))) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v, f"{key}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    what = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    raise UserError(f"{key}: {what} cannot be written to config.json; give plain values, or a partial of a class.")


def set_key(settings: Settings, key: str, text: str) -> Settings:
    """Return the settings with one of them changed.

    Args:
        settings: a dataclass, whose fields may be dataclasses, parts or dictionaries.
        key: dotted path to what is changed.
        text: the new value, as typed on a command line.

    Raises:
        UserError: an unknown key (names the nearest one) or a value of the wrong type.
    """
    return _replace(settings, key.split("."), text, key)


def from_plain(plain: Any, cls: type[Settings], key: str = "") -> Settings:
    """Rebuild settings from what `to_plain` made, or check settings that are objects already.

    Args:
        plain: plain data, or settings.
        cls: the dataclass that they are settings of.
        key: where they stand in a config, for errors.

    Raises:
        UserError: unknown keys, values of the wrong type or out of range, a part that does not fit its slot, or a class
            of a package that is not trusted.
    """
    return _convert(plain, cls, key)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def require_keywords(part: functools.partial, key: str) -> None:
    """Refuse arguments by position, which have no name to be written, read and changed by."""
    if part.args:
        name = getattr(part.func, "__name__", type(part.func).__name__)
        example = next((f", {known}=…" for known in _part_settings(part.func, {})), "")
        raise UserError(f"{key}: has settings by position; give them by keyword: partial({name}{example}).")


@functools.cache
def _parameters(cls: Any) -> Mapping[str, inspect.Parameter]:
    if inspect.isfunction(cls):
        return dict(inspect.signature(cls).parameters)
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])  # without `self`


@functools.cache
def _hints(annotated: Any) -> Mapping[str, Any]:
    """Annotations of a dataclass or function as types; an ablation asks for the same ones a thousand times."""
    return typing.get_type_hints(annotated, include_extras=True)


def setting_types(node: Any) -> dict[str, Any]:
    """Return the keys that may be set below a dataclass or part, with their annotations."""
    if isinstance(node, functools.partial):
        return _part_settings(node.func, node.keywords)
    hints = _hints(type(node))
    return {f.name: hints[f.name] for f in dataclasses.fields(node)}


def _part_settings(cls: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a class with their annotations; positional ones without a default are given by the builder."""
    try:
        hints = _hints(cls if inspect.isfunction(cls) else cls.__init__)
    except (NameError, TypeError):  # annotations of another package that name nothing at run time
        hints = {}
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    return {
        name: hints.get(name, Any)
        for name, p in _parameters(cls).items()
        if p.kind is keyword_only or (p.kind is p.POSITIONAL_OR_KEYWORD and (p.default is not p.empty or name in given))
    }


def child(node: Any, name: str) -> Any:
    """Return the present value of a key below a dataclass or part."""
    if isinstance(node, functools.partial):
        return node.keywords[name] if name in node.keywords else _parameters(node.func)[name].default
    return getattr(node, name)


def _replace(node: Any, path: list[str], text: str, key: str) -> Any:
    name, rest = path[0], path[1:]
    if not (isinstance(node, functools.partial) or dataclasses.is_dataclass(node)):
        parent = key.removesuffix("." + ".".join(path))
        raise UserError(f"{key}: {parent} is {node!r} and has no settings of its own.")
    settings = setting_types(node)
    if name not in settings:
        if not settings:
            raise UserError(f"{key}: unknown config key; what it names has no settings.")
        near = difflib.get_close_matches(name, settings, n=1, cutoff=0.4)
        prefix = key[: len(key) - len(".".join(path))]
        raise UserError(
            f"{key}: unknown config key; "
            + (f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(sorted(settings))}.")
        )
    if rest and isinstance(present := child(node, name), dict):
        *_, annotation = typing.get_args(settings[name]) or (Any,)
        value = {**present, ".".join(rest): _convert(_literal(text), annotation, key)}
    elif rest:
        present = _turned_on(node, name, settings[name]) if child(node, name) is None else child(node, name)
        value = _replace(present, rest, text, key)
    else:
        value = _convert(_parse(text, settings[name]), settings[name], key)
    if isinstance(node, functools.partial):
        require_keywords(node, key.removesuffix("." + ".".join(path)))
        return functools.partial(node.func, **{**node.keywords, name: value})
    return dataclasses.replace(node, **{name: value})  # type: ignore[type-var]


def _turned_on(node: Any, name: str, annotation: Any) -> Any:
    """A group of settings with their defaults, where it is off by default and so none has turned it off; else None."""
    groups = [one for one in typing.get_args(annotation) if dataclasses.is_dataclass(one)]
    is_off = dataclasses.is_dataclass(node) and node.__dataclass_fields__[name].default is None
    return groups[0]() if groups and is_off else None  # type: ignore[operator]


def _parse(text: str, annotation: Any) -> Any:
    """Text as what it stands for; where a string is wanted it stands for itself."""
    value = _literal(text)
    if annotation is str or (annotation == str | None and value is not None):
        return text
    return value


def _literal(text: str) -> Any:
    lowered = text.strip().lower()
    if lowered in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(lowered)
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last three: unhashable, or too deep
        return text


def _convert(value: Any, annotation: Any, key: str) -> Any:
    """Check `value` against a type annotation, turning plain data and text into what it asks for."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        is_part = isinstance(value, Mapping) and isinstance(value.get("class"), str)
        return _convert_part(value, Any, key) if is_part else value
    if origin is Annotated:
        return _convert_range(value, arguments, key)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, key)
    if origin is Literal:
        if any(value == known and type(value) is type(known) for known in arguments):  # True is 1
            return value
        raise UserError(f"{key}={value}: must be {_form(annotation, value)}{_nearest(value, arguments)}.")
    if annotation is Part or origin is Part:
        return _convert_part(value, arguments[0] if arguments else Any, key)
    if dataclasses.is_dataclass(annotation):
        return _convert_dataclass(value, annotation, key)
    if origin is tuple:
        return _convert_tuple(value, arguments, key)
    if origin in _SEQUENCES:
        return _SEQUENCES[origin](_convert_tuple(value, (*arguments, ...), key))
    if origin is dict and isinstance(value, Mapping):
        if wrong := [k for k in value if arguments[0] is str and not isinstance(k, str)]:
            raise UserError(f"{key}: has the key {wrong[0]!r}; keys must be texts.")
        return {k: _convert(v, arguments[1], _join(key, str(k))) for k, v in value.items()}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        # Beyond that `float` raises; infinity is refused below, with its key.
        value = float(value) if abs(value) < 2**1023 else math.inf
    if origin is type and isinstance(value, type):  # that config.json cannot hold it, `to_plain` reports
        return value
    if isinstance(annotation, type) and type(value) is annotation:
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value}: must be {_form(annotation, value)}.")
        return value
    raise UserError(f"{key}={value!r}: must be {_form(annotation, value)}, not {type(value).__name__}.")


def _convert_range(value: Any, arguments: tuple[Any, ...], key: str) -> Any:
    for reading in arguments[1:]:
        if isinstance(reading, ReadAs):
            return reading.read(value, key)
    value = _convert(value, arguments[0], key)
    for limits in arguments[1:]:
        if isinstance(limits, Range) and value not in limits:
            raise UserError(f"{key}={value}: must be {limits}.")
    return value


def _convert_union(value: Any, arguments: tuple[Any, ...], key: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    errors = []
    for argument in arguments:
        if argument is not type(None):
            try:
                return _convert(value, argument, key)
            except UserError as error:
                errors.append(error)
    forms = [_form(argument, value) for argument in arguments]
    if not all(forms):
        # The error of the type that has the value's shape helps most.
        raise next((e for e in errors if "must be of type" not in str(e)), errors[0])
    below = [e for e in errors if not str(e).startswith(f"{key}=")]
    if below and isinstance(value, list | tuple):  # one of the values in a list is wrong
        raise below[0]
    literals = [
        a for argument in arguments if typing.get_origin(argument) is Literal for a in typing.get_args(argument)
    ]
    shown = value if literals else repr(value)
    raise UserError(f"{key}={shown}: must be {', or '.join(forms)}{_nearest(value, literals)}.")


def _form(annotation: Any, value: Any) -> str:
    """Describe what a value that does not fit a type must be; empty for a part and for what has settings."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "none"
    if origin is Annotated:
        is_number = type(value) in ((int, float) if arguments[0] is float else arguments[:1])
        limits = [str(limits) for limits in arguments[1:] if isinstance(limits, Range)]
        return ", ".join(limits if is_number else [_form(arguments[0], value), *limits])
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(str, arguments))
    if origin is tuple or origin in _SEQUENCES:
        return f"a list of values {_form(arguments[0], None)}"
    if annotation is Part or origin is Part or dataclasses.is_dataclass(annotation):
        return ""
    if annotation is type(value) is float:
        return "a finite number"
    return f"of type {getattr(annotation, '__name__', annotation)}"


def _nearest(value: Any, names: Sequence[Any]) -> str:
    near = difflib.get_close_matches(str(value), map(str, names), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _convert_tuple(value: Any, arguments: tuple[Any, ...], key: str) -> tuple:
    if not isinstance(value, list | tuple):
        value = (value,)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise UserError(f"{key}={value!r}: must have {len(arguments)} values, not {len(value)}.")
    return tuple(_convert(v, a, f"{key}[{i}]") for i, (v, a) in enumerate(zip(value, arguments, strict=True)))


def _convert_dataclass(value: Any, annotation: Any, key: str) -> Any:
    hints = _hints(annotation)
    if isinstance(value, annotation):
        kept = {f.name: getattr(value, f.name) for f in dataclasses.fields(annotation)}
        return dataclasses.replace(value, **{k: _convert(v, hints[k], _join(key, k)) for k, v in kept.items()})
    if not isinstance(value, Mapping):
        chosen = [name for name, hint in hints.items() if value in typing.get_args(hint) and value is not None]
        example = f"{key}.{chosen[0]}={value}" if chosen else f"{key}.NAME=VALUE"
        raise UserError(f"{key}={value!r}: has settings below it; set them one by one as {example}.")
    unknown = [k for k in value if k not in hints]
    if unknown:
        at = f"{key}: " if key else ""
        raise UserError(f"{at}unknown config key {str(unknown[0])!r}; known here: {', '.join(sorted(hints))}.")
    missing = [
        f.name
        for f in dataclasses.fields(annotation)
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in value
    ]
    if missing:
        raise UserError(f"{key}: the key {missing[0]!r} is missing.".removeprefix(": "))
    return annotation(**{k: _convert(v, hints[k], _join(key, k)) for k, v in value.items()})


def _convert_part(value: Any, contract: Any, key: str) -> functools.partial:
    if isinstance(value, functools.partial):
        require_keywords(value, key)
        cls, settings = value.func, value.keywords
    elif isinstance(value, type) or inspect.isfunction(value):
        cls, settings = value, {}
    elif isinstance(value, str):
        cls, settings = _named(value, contract, key), {}
    elif isinstance(value, Mapping) and isinstance(value.get("class"), str):
        cls, settings = _named(value["class"], contract, key), {k: v for k, v in value.items() if k != "class"}
    else:
        found = shorten(" ".join(repr(value).split()), 60)
        what = contract.__name__ if isinstance(contract, type) else "class"
        raise UserError(f"{key}={found}: must be the name of a {what}, or in Python the class or a partial of it.")
    if inspect.isfunction(cls) or (contract is not Any and isinstance(contract, type)):
        require_fitting(cls, contract, key)
    hints, parameters = _part_settings(cls, settings), _parameters(cls)
    for k in settings:
        if k not in hints:
            near = difflib.get_close_matches(str(k), hints, n=1)
            known = ", ".join(sorted(hints)) or "none"
            if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                known += " (what is behind ** has no names: write the settings out)"
            hint = f"did you mean {near[0]}?" if near else f"known: {known}."
            raise UserError(f"{_join(key, str(k))}: {class_name(cls, key)} has no such setting; {hint}")
    converted = {k: _convert_setting(v, hints[k], parameters[k].default, _join(key, k)) for k, v in settings.items()}
    # A partial equals itself alone, and settings that nothing changed stay equal.
    if isinstance(value, functools.partial) and repr(converted) == repr(settings):
        return value
    return functools.partial(cls, **converted)


def _convert_setting(value: Any, annotation: Any, default: Any, key: str) -> Any:
    """Check a setting of a part; its default is taken as it is, even where another package's annotation excludes it."""
    try:
        return _convert(value, annotation, key)
    except UserError:
        is_plain = value is None or isinstance(value, bool | int | float | str | list | dict)
        if is_plain and default is not inspect.Parameter.empty and _plain_or_none(default) == (value,):
            return default
        raise


def _plain_or_none(value: Any) -> tuple[Any] | None:
    """A value as config.json gives it back, in a tuple; None where it cannot hold it."""
    try:
        return (json.loads(json.dumps(to_plain(value))),)
    except UserError:
        return None


def _named(name: str, contract: Any, key: str) -> Any:
    """Return a class by its full name, or by its bare one where that fits the slot."""
    return find_class(name, key) if "." in name else find_by_name(name, contract, key)
