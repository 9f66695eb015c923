"""Modules as records: what a module of any library reads from the signature of its function."""

import inspect
from collections.abc import Callable
from typing import Any

_OF_CALLS = ("indices", "key", "deterministic", "call", "unknown")
"""Parameters of functions that calls of modules decide."""

NO_DEFAULT = inspect.Parameter.empty


def options_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a member that a module stores: those after p."""
    parameters = inspect.signature(function).parameters
    after = list(parameters)[list(parameters).index("p") + 1 :]
    return {name: parameters[name] for name in after if name not in _OF_CALLS}


def checked(
    owner: type[Any], options: dict[str, inspect.Parameter], given: dict[str, Any]
) -> dict[str, Any]:
    """Return the values of all options, or raise TypeError for an unknown or a missing one."""
    unknown = [name for name in given if name not in options]
    if unknown:
        has = f": it has {', '.join(options)}" if options else ""
        raise TypeError(f"{owner.__name__} has no argument {unknown[0]!r}{has}")
    values = {name: given.get(name, one.default) for name, one in options.items()}
    for name, value in values.items():
        if value is NO_DEFAULT:
            raise TypeError(f"{owner.__name__} needs the argument {name}")
    return values
