"""Classes and functions of parts by their public names, and which packages they may come from.

A run's `config.json` names classes of this package by their public names (`detection.context.SpatialRNN`). A class of
another package is imported only where that package is trusted: opening a stranger's run executes none of its code.
"""

import difflib
import importlib
import inspect
import os
import sys
import typing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from detection.errors import UserError

_PACKAGES = ("backbones", "cells", "context", "regions", "pooling", "heads", "segmentation")
"""Where implementations are: they are imported to name some that fit a slot."""

_trusted: set[str] = set()


def trust(packages: Iterable[str]) -> None:
    """Allow parts from other packages in this process: what `--trust PACKAGE` does.

    Args:
        packages: top-level names, found in the current folder or the environment; or one of them.
    """
    for package in [packages] if isinstance(packages, str) else packages:
        if not package.isidentifier():
            raise UserError(f"--trust {package}: must be the name of a package or module, such as mylab.")
        _trusted.add(package)


def trust_arguments() -> list[str]:
    """Return the options that make a command trust what this process does."""
    return [text for package in sorted(_trusted) for text in ("--trust", package)]


@contextmanager
def trusting(packages: Iterable[str]) -> Iterator[None]:
    """Allow parts from other packages for a while."""
    before = set(_trusted)
    trust(packages)
    try:
        yield
    finally:
        _trusted.intersection_update(before)


def class_name(cls: Any, key: str) -> str:
    """Return the name that a class is imported by: its package's where that exports it, else its module's.

    Raises:
        UserError: the class is defined in a config file itself, or inside a function, where no import finds it.
    """
    module, name = getattr(cls, "__module__", None), getattr(cls, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)):
        raise UserError(f"{key}: a {type(cls).__name__} is no class or function, which config.json could name.")
    if module in ("__main__", "<run_path>") or "<locals>" in name:
        raise UserError(
            f"{key}: {name} is defined in the config file itself, so its run could not be opened again; put the class "
            "into a module in the folder of the config file and import it there."
        )
    if "." in name:
        raise UserError(
            f"{key}: {name} is defined inside of a class, so its run could not be opened again; put it on the top "
            "level of its module."
        )
    folders = module.split(".")
    if folders[0] == "albumentations":  # all its transforms are names of the package
        return f"albumentations.{name}"
    for depth in range(2, len(folders)):
        package = ".".join(folders[:depth])
        if name in getattr(sys.modules.get(package), "__all__", ()):
            return f"{package}.{name}"
    return f"{module}.{name}"


def find_class(name: str, key: str) -> Any:
    """Import a class or a function by name, from this package or a trusted one.

    Raises:
        UserError: there is no such class, or its package is not trusted.
    """
    module, _, attribute = str(name).rpartition(".")
    package = module.partition(".")[0]
    if package != "detection" and package not in _trusted:
        hint = (
            f"; if you trust it, add --trust {package} (in Python trust=[{package!r}])"
            if package.isidentifier()
            else ""
        )
        raise UserError(f"{key}: {name!r} is not a class of the package `detection`, and no other is opened{hint}.")
    try:
        found = getattr(_import(module, package), attribute)
    except Exception as error:  # a package of the user's own may raise whatever it likes
        known = isinstance(error, ImportError | AttributeError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        reason = "it may come from another version of the package" if package == "detection" else reason
        raise UserError(f"{key}: there is no class {name}; {reason.rstrip('.')}.") from None
    if not _is_part_of(found, package):
        raise UserError(f"{key}: {name} is not a class of the package `{package}`.")
    return found


def _is_part_of(found: Any, package: str) -> bool:
    """Whether something is a class or a function that a package defines."""
    return (isinstance(found, type) or inspect.isfunction(found)) and found.__module__.partition(".")[0] == package


def find_by_name(name: str, contract: Any, key: str) -> Any:
    """Return the one public class or function of this name that fits a slot: `LSTM`, `chrono`.

    Raises:
        UserError: none of this package or a trusted one, or several.
    """
    fitting = {class_name(found, key): found for found in _fitting(contract)}
    named = [full for full in fitting if full.rpartition(".")[2] == name]
    for package in sorted(_trusted):
        found = getattr(_import_trusted(package), name, None)
        if _is_part_of(found, package):  # and not a name that it imports itself
            named.append(f"{package}.{name}")
            fitting[named[-1]] = found
    if len(named) == 1:
        return fitting[named[0]]
    if named:
        raise UserError(f"{key}={name}: may be {' or '.join(named)}; write one of them.")
    names = {full.rpartition(".")[2].lower(): full for full in fitting}
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0)
    # Every class of the package has a distance to any text: three of them are no guess where the slot takes them all.
    hint = f"; such are {', '.join(names[n] for n in near)}" if near and isinstance(contract, type) else ""
    what = contract.__name__ if isinstance(contract, type) else "class"
    raise UserError(f"{key}={name}: is not the name of a public {what}{hint}.")


def _fitting(contract: Any) -> Iterator[Any]:
    """Yield the public classes and functions of the package that fit a slot; for a slot without a contract, all."""
    for package in _PACKAGES:
        importlib.import_module(f"detection.{package}")
    if isinstance(contract, type):
        yield from _implementations(contract)
        return
    for package in _PACKAGES:
        module = sys.modules[f"detection.{package}"]
        exported = (getattr(module, name) for name in getattr(module, "__all__", ()))
        yield from (found for found in exported if isinstance(found, type) or inspect.isfunction(found))


def _import(module: str, package: str):
    if package == "detection":
        return importlib.import_module(module)
    # A console script does not see the current folder, `python -m` does.
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(os.getcwd())


def _import_trusted(package: str) -> Any:
    try:
        return _import(package, package)
    except Exception as error:  # a package of the user's own may raise whatever it likes
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise UserError(f"--trust {package}: it cannot be imported: {reason}.") from None


def require_fitting(cls: Any, contract: Any, key: str) -> None:
    """Check that a class fulfils the contract of its slot, or that a function is annotated to return one that does.

    Raises:
        UserError: it does not; with three that do.
    """
    made = _returned(cls) if inspect.isfunction(cls) else cls
    if not isinstance(contract, type):
        raise UserError(f"{key}={class_name(cls, key)}: must be a class, not a function.")
    # A tuple is what functions give; its class is no part itself.
    if isinstance(made, type) and issubclass(made, contract) and not (made is cls and issubclass(made, tuple)):
        return
    given = class_name(cls, key)
    fitting = sorted(class_name(c, key) for c in _fitting(contract))
    nearest = difflib.get_close_matches(given, fitting, n=3, cutoff=0)
    article = "an" if contract.__name__[0] in "AEIOU" else "a"
    hint = f"; such are {', '.join(nearest)}" if nearest else ""
    raise UserError(f"{key}={given}: must be {article} {contract.__name__}{hint}.")


def _returned(function: Any) -> Any:
    """Return the class that a function is annotated to return; None where that names nothing at run time."""
    try:
        return typing.get_type_hints(function).get("return")
    except (NameError, TypeError):
        return None


def _implementations(contract: type) -> Iterator[Any]:
    for package in _PACKAGES:
        for found in vars(sys.modules[f"detection.{package}"]).values():
            if inspect.isfunction(found) and _returned(found) is contract:
                yield found
    candidates = {contract}
    while candidates:
        cls = candidates.pop()
        candidates.update(cls.__subclasses__())
        package, _, rest = cls.__module__.partition(".")
        is_ours = package == "detection" and rest.partition(".")[0] in (*_PACKAGES, "classification")
        public = is_ours and not cls.__name__.startswith("_")
        if public and not getattr(cls, "__abstractmethods__", None) and not issubclass(cls, tuple):
            yield cls
