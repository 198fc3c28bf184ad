"""Typed settings to and from plain data: dataclasses, partials of classes, and text from the command line.

A part is a `functools.partial` of a class; its settings are the keywords that have defaults or were given. In plain
data it is a dictionary with the class's name under `class`. Only classes of this package are named and imported.
"""

import ast
import dataclasses
import difflib
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from detection.errors import UserError

Part = functools.partial
Settings = TypeVar("Settings")


def to_plain(value: Any, key: str = "config") -> Any:
    """Turn a config into JSON-ready data, with every default written out.

    Raises:
        UserError: a part whose class is not in this package, so that the run could not be opened again.
    """
    if isinstance(value, functools.partial):
        cls = value.func
        if not cls.__module__.startswith("detection."):
            raise UserError(
                f"{key}: {cls.__module__}.{cls.__qualname__} is outside the package `detection`, so the run could not "
                "be opened again; put the class into a module of `detection`."
            )
        settings = {name: p.default for name, p in _parameters(cls).items() if p.default is not p.empty}
        settings.update(value.keywords)
        plain = {name: to_plain(v, f"{key}.{name}") for name, v in settings.items()}
        return {"class": f"{cls.__module__}.{cls.__qualname__}", **plain}
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name), f"{key}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v, f"{key}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v, f"{key}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"{key}: a {type(value).__name__} cannot be written to config.json; use plain values.")


def set_key(settings: Settings, key: str, text: str) -> Settings:
    """The same settings with one of them changed.

    Args:
        settings: a dataclass, whose fields may be dataclasses, parts or dictionaries.
        key: dotted path to what is changed.
        text: the new value, as typed on a command line.

    Raises:
        UserError: an unknown key (names the nearest one) or a value of the wrong type.
    """
    return _replace(settings, key.split("."), text, key)


def from_plain(plain: Any, cls: type[Settings]) -> Settings:
    """Rebuild settings from what `to_plain` made.

    Raises:
        UserError: unknown keys, values of the wrong type, or a class outside this package.
    """
    return _convert(plain, cls, "config")


def _parameters(cls: Any) -> dict[str, inspect.Parameter]:
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])


def _settings(node: Any) -> dict[str, Any]:
    """The keys that may be set below a node, with their annotations."""
    if isinstance(node, functools.partial):
        hints = typing.get_type_hints(node.func.__init__)
        keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = _parameters(node.func).items()
        return {
            name: hints.get(name, Any)
            for name, p in parameters
            if p.kind in keyword and (p.default is not p.empty or name in node.keywords)
        }
    hints = typing.get_type_hints(type(node))
    return {f.name: hints[f.name] for f in dataclasses.fields(node)}


def _child(node: Any, name: str) -> Any:
    if isinstance(node, functools.partial):
        return node.keywords[name] if name in node.keywords else _parameters(node.func)[name].default
    return getattr(node, name)


def _replace(node: Any, path: list[str], text: str, key: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(node, dict):
        return {**node, ".".join(path): _convert(_literal(text), int | None, key)}
    if not (isinstance(node, functools.partial) or dataclasses.is_dataclass(node)):
        parent = key.removesuffix("." + ".".join(path))
        raise UserError(f"{key}: {parent} is {node!r} and has no settings of its own.")
    settings = _settings(node)
    if name not in settings:
        near = difflib.get_close_matches(name, settings, n=1, cutoff=0.4)
        prefix = key[: len(key) - len(".".join(path))]
        raise UserError(
            f"{key}: unknown config key; "
            + (f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(sorted(settings))}.")
        )
    if rest:
        value = _replace(_child(node, name), rest, text, key)
    else:
        value = _convert(_parse(text, settings[name]), settings[name], key)
    if isinstance(node, functools.partial):
        return functools.partial(node.func, **{**node.keywords, name: value})
    return dataclasses.replace(node, **{name: value})  # type: ignore[type-var]


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
    except (ValueError, SyntaxError):
        return text


def _convert(value: Any, annotation: Any, key: str) -> Any:
    """Check `value` against a type annotation, turning plain data and text into what it asks for."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, key)
    if origin is Literal:
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), [str(a) for a in arguments], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"{key}={value}: must be one of {', '.join(map(str, arguments))}{hint}.")
    if annotation is Part:
        return _convert_part(value, key)
    if dataclasses.is_dataclass(annotation):
        return _convert_dataclass(value, annotation, key)
    if origin is tuple:
        return _convert_tuple(value, arguments, key)
    if origin is dict and isinstance(value, Mapping):
        return {k: _convert(v, arguments[1], f"{key}.{k}") for k, v in value.items()}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    name = getattr(annotation, "__name__", str(annotation))
    raise UserError(f"{key}={value!r}: must be of type {name}, not {type(value).__name__}.")


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
    raise errors[0] if len(errors) == 1 else UserError(f"{key}={value!r}: fits none of {arguments}.")


def _convert_tuple(value: Any, arguments: tuple[Any, ...], key: str) -> tuple:
    if not isinstance(value, list | tuple):
        value = (value,)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise UserError(f"{key}={value!r}: must have {len(arguments)} values, not {len(value)}.")
    return tuple(_convert(v, a, f"{key}[{i}]") for i, (v, a) in enumerate(zip(value, arguments, strict=True)))


def _convert_dataclass(value: Any, annotation: Any, key: str) -> Any:
    if isinstance(value, annotation):
        return value
    if not isinstance(value, Mapping):
        raise UserError(f"{key}={value!r}: has settings below it; set them one by one as {key}.NAME=VALUE.")
    hints = typing.get_type_hints(annotation)
    unknown = set(value) - set(hints)
    if unknown:
        raise UserError(f"{key}: unknown config key {sorted(unknown)[0]!r}; known here: {', '.join(sorted(hints))}.")
    missing = [
        f.name
        for f in dataclasses.fields(annotation)
        if f.default is f.default_factory is dataclasses.MISSING and f.name not in value
    ]
    if missing:
        raise UserError(f"{key}: the key {missing[0]!r} is missing.")
    return annotation(**{k: _convert(v, hints[k], f"{key}.{k}") for k, v in value.items()})


def _convert_part(value: Any, key: str) -> functools.partial:
    if isinstance(value, functools.partial):
        return value
    name, plain = (value, {}) if isinstance(value, str) else (value.get("class", ""), value) if value else ("", {})
    part = functools.partial(_find_class(name, key))
    hints = typing.get_type_hints(part.func.__init__)
    known = _parameters(part.func)
    keywords = {}
    for k, v in plain.items():
        if k == "class":
            continue
        if k not in known:
            near = difflib.get_close_matches(k, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}."
            raise UserError(f"{key}.{k}: {name} has no such setting; {hint}")
        keywords[k] = _convert(v, hints.get(k, Any), f"{key}.{k}")
    return functools.partial(part.func, **keywords)


def _find_class(name: str, key: str) -> Any:
    module, _, attribute = str(name).rpartition(".")
    if not module.startswith("detection."):
        raise UserError(f"{key}: {name!r} is not a class of the package `detection`; only such classes are opened.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise UserError(f"{key}: there is no class {name}; it may come from another version of the package.") from None
    if not isinstance(found, type) or not found.__module__.startswith("detection."):
        raise UserError(f"{key}: {name} is not a class of the package `detection`; only such classes are opened.")
    return found
