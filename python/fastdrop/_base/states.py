"""Saved states of layers and recipes. Anybody can edit them, so they are checked like arguments."""

import itertools
import operator
from collections.abc import Mapping
from typing import Any

from fastdrop import _core
from fastdrop._base.arguments import as_flag, as_unsigned, probability, shown
from fastdrop._base.keys import STREAM_VERSION, Key, check_key

MOST_ENTRIES = 10_000
"""Limit for the entries of a state. Longer states, and endless mappings, are refused."""


def as_state(state: Any) -> dict[Any, Any]:
    """Return a copy of a state as a dict."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a mapping, got {type(state).__name__}")
    names = list(itertools.islice(state, MOST_ENTRIES + 1))
    if len(names) > MOST_ENTRIES:
        raise ValueError(f"state must have at most {MOST_ENTRIES} entries, got more")
    return {name: state[name] for name in names}


def split_state(
    state: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the entries of a state with these names, and all other entries."""
    others = as_state(state)
    for name in names:
        if name not in others:
            raise ValueError(
                f"state must have the entry {name}, got {sorted(map(str, others)) or 'none'}"
            )
    return [others.pop(name) for name in names], others


class Checked:
    """Base of frozen dataclasses that check their fields when they are made and when unpickled."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        fields = as_state(state)
        new = object.__new__(type(self))
        vars(new).update(fields)
        new.__post_init__()  # type: ignore[attr-defined]
        vars(self).update(vars(new))


_ENTRIES = ("stream", "key", "calls", "held", "held_call", "p")


def checked_state(state: Mapping[str, Any]) -> tuple[_core.CallKeys, float]:
    """Return the keys and p of a layer's `state_dict`."""
    (stream, key, calls, held, held_call, p), others = split_state(state, _ENTRIES)
    if others:
        unknown = sorted(map(str, others))
        raise ValueError(f"state must have the entries {', '.join(_ENTRIES)}, got also {unknown}")
    check_stream(stream, "state")
    try:
        data = bytes.fromhex(key) if isinstance(key, str) else b""
    except ValueError:
        data = b""
    if len(data) != 16:
        raise ValueError(f"state must have 32 hexadecimal digits as key, got {shown(key)}")
    return call_keys(Key.from_bytes(data), calls, held, held_call), probability(p)


def check_stream(stream: Any, owner: str) -> None:
    """Raise ValueError for a state of another stream version, whose masks would differ."""
    if not hasattr(stream, "__index__") or operator.index(stream) != STREAM_VERSION:
        raise ValueError(f"{owner} must be of stream {STREAM_VERSION}, got {shown(stream)}")


def call_keys(key: Any, calls: Any, held: Any, held_call: Any) -> _core.CallKeys:
    """Return the keys that a state describes."""
    check_key(key)
    number, is_held = as_unsigned(calls, "calls of a state"), as_flag(held, "held of a state")
    was_called = as_flag(held_call, "held_call of a state") and is_held
    return _core.CallKeys(key, number, is_held, was_called)
