"""The keys of a module's calls: numbered, held, or of a rank's part of a batch.

A module whose calls have keys holds a `CallKeys`. A call takes the key of its number. For a
checkpoint, torch repeats a call in the backward pass; this call takes the same key again.
"""

import collections
import itertools
import os
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from fastdrop import _core
from fastdrop._base.arguments import as_count, as_flag, shown
from fastdrop._base.keys import Key, check_key

_LOWEST, _BEYOND = -(2**63), 2**63 - 1

MOST_REPEATED = 1 << 16
"""Number of the latest calls since `set_keys` that a backward pass can repeat."""

_key_of = _core.tensor_key
_in_backward = torch._C._current_graph_task_id


def draw(generator: torch.Generator | None, words: Tensor | None = None) -> Tensor:
    """Draw the 16 bytes of a key, into `words` if given."""
    if words is None:
        words = torch.empty(2, dtype=torch.int64, device="cpu")
    if generator is None:
        return words.random_(_LOWEST, _BEYOND)
    return words.random_(_LOWEST, _BEYOND, generator=generator)


def draw_key(generator: torch.Generator | None) -> Key:
    """Draw a key."""
    try:
        words = _scratch.pop()  # signal handlers and other threads take others
    except IndexError:
        with torch.inference_mode(False):
            words = torch.empty(2, dtype=torch.int64, device="cpu")
    key: Key = _key_of(draw(generator, words))
    _scratch.append(words)
    return key


_scratch: list[Tensor] = []


def key_tensor(key: Key) -> Tensor:
    """Return a key as a tensor of two int64, as compiled functions hold it.

    >>> fastdrop.torch.key_tensor(fd.Key(0)).shape
    torch.Size([2])
    """
    if type(key) is not Key:
        raise TypeError(f"key must be a Key, got {type(key).__name__}")
    return torch.from_numpy(key._words)


class Share(NamedTuple):
    """A rank's equal part of a batch, which lies along axis 0."""

    rank: int
    world_size: int
    interleaved: bool
    """Whether rank r has every world_size-th example from r on, as with `DistributedSampler`,
    instead of adjacent rows."""


def as_share(share: Any) -> Share:
    """Return a checked share."""
    if not isinstance(share, Share):
        raise TypeError(f"share must be a Share, got {shown(share)}")
    ranks, rank = as_count(share.world_size, "world_size", 1), as_count(share.rank, "rank")
    if rank >= ranks:
        raise ValueError(f"rank must be below world_size, {ranks}, got {shown(rank)}")
    return Share(rank, ranks, as_flag(share.interleaved, "interleaved"))


class SharedKey(NamedTuple):
    """Keys of masks that all rows along axis 0 share."""

    key: "CallKeys"


class Parts(NamedTuple):
    """The keys of equal parts along axis 0, in a Monte Carlo run of several samples."""

    keys: "tuple[CallKeys, ...]"
    rows: int
    """A divisor of the length of axis 0."""
    shared: bool
    """Whether the rows of a part share a mask."""


class CallKeys:
    """The keys of a module's calls: one for all, or child n of it for call number n.

    Without a key, each call takes one from torch's generator, and `hold` can keep it.

    If calls have different keys, each call also draws a token from torch's generator. A checkpoint
    restores the generator, so the repeated call draws the same token and finds its key.
    """

    def __init__(
        self,
        key: Key | None,
        share: Share | None = None,
        numbered: bool = False,
        held: bool = False,
        name: str = "",
    ) -> None:
        if key is not None:
            check_key(key)
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, got {shown(name)}")
        share = None if share is None else as_share(share)
        numbered, held = as_flag(numbered, "numbered"), as_flag(held, "held")
        # No other process has this number: a stored program must not find other keys there.
        number = int.from_bytes(os.urandom(8), "little", signed=True)
        self.words = torch.tensor([number], device="cpu")
        _all[number] = self
        self.held, self.name = held, name
        self.reset(key, share, numbered)
        self.parts: Parts | None = None

    def reset(self, key: Key | None, share: Share | None = None, numbered: bool = False) -> None:
        """Start again with another key."""
        self.key, self.share, self.numbered = key, share, numbered
        self.calls = 0
        self._numbers = itertools.count()
        self._current: Key | None = None
        # Ordered, because a signal handler may make a call here while the oldest is removed.
        self._taken: collections.OrderedDict[Key, Key | None] = collections.OrderedDict()

    def take(self) -> Key:
        """Return the key of a call."""
        if self.key is not None and not self.numbered:
            if _in_backward() == -1:
                self.calls += 1
                if self.calls == 2 and not self.held:
                    warnings.warn(_REPEATS.format(self.name), stacklevel=2)
            return self.key
        token = draw_key(None)
        if _in_backward() != -1:
            return self._repeated(token)
        key = self._current if self.held else None
        if key is None:
            number = next(self._numbers)  # one step: a signal handler may make a call here
            self.calls = number + 1
            key = self._current = token if self.key is None else self.key.fold_in(number)
        # Two calls from one state of the generator cannot be told apart later.
        self._taken[token] = key if self._taken.get(token, key) == key else None
        if len(self._taken) > MOST_REPEATED:
            self._taken.popitem(last=False)
        return key

    def _repeated(self, token: Key) -> Key:
        if token in self._taken:
            key = self._taken[token]
        elif self.key is None:
            key = token
        else:  # the generator was not restored, but a single key needs no token
            key = self._current if self.calls == 1 else None
        if key is None:
            raise RuntimeError(
                "a call that the backward pass repeats must draw the mask it had: keep the keys of "
                "set_keys until the backward pass is over, and checkpoint with "
                "preserve_rng_state=True"
            )
        return key

    def hold(self) -> None:
        """Give all later calls the key of the next one."""
        self.held, self._current = True, None

    def release(self) -> None:
        """End `hold`."""
        self.held = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Make a copy that counts calls of its own."""
        return CallKeys, (self.key, self.share, self.numbered, self.held, self.name)


_REPEATS = (
    "the dropout module {!r} ran again since set_keys, and applied the same mask; for other masks, "
    "call set_keys before each run, or with numbered=True; for the same mask, hold the module"
)


def drop(
    module: Any,
    keys: CallKeys | None,
    function: Callable[..., Any],
    *inputs: Tensor,
    **options: Any,
) -> Any:
    """Call a function with a module's mode, key and p; `options` may have its logit instead."""
    if "logit" not in options:
        options["p"] = module.p
    if keys is not None and keys.parts is not None:
        return _drop_parts(keys.parts, function, *inputs, **options)
    return function(*inputs, training=module.training, key=keys, **options)


def left_to_torch(
    module: Any, keys: CallKeys | None, forward: Callable[[Tensor], Any], input: Tensor
) -> Any:
    """Let torch drop where fastdrop has no kernels; torch ignores the keys."""
    if module.p == 0.0:
        return input
    if keys is not None and keys.key is not None:
        warnings.warn(
            f"the dropout module {keys.name!r} draws from torch's generator, not with its key, for "
            f"a tensor that fastdrop has no kernels for: {type(input).__name__} of {input.dtype} "
            f"on {input.device}",
            stacklevel=2,
        )
    return forward(input)


def _drop_parts(parts: Parts, function: Callable[..., Any], input: Tensor, **options: Any) -> Any:
    """Call a function on each part of axis 0 with its own key."""
    if input.dim() == 0 or len(input) % parts.rows:
        raise ValueError(
            f"input must have the rows of {len(parts.keys)} samples, a multiple of "
            f"{parts.rows}, along axis 0, got shape {tuple(input.shape)}"
        )
    rows = len(input) // len(parts.keys)
    results = []
    for n, keys in enumerate(parts.keys):
        part, source = input[n * rows : (n + 1) * rows], SharedKey(keys) if parts.shared else keys
        results.append(function(part, training=True, key=source, **options))
    return input if options.get("inplace") else torch.cat(results)


_all: weakref.WeakValueDictionary[int, CallKeys] = weakref.WeakValueDictionary()


def words_of_call(words: Tensor) -> Tensor:
    """Return the key of a call of the module that has these words, as a tensor."""
    calls = _all.get(int(words))
    if calls is None:
        raise RuntimeError(
            "a module with keys must be called in the process that set them, and must still exist"
        )
    return key_tensor(calls.take())


WRAPPERS = frozenset(
    ["module", "_module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
     "_forward_module", "_original_module"]
)  # fmt: skip
"""Attributes in which wrappers keep their module: those of torch for parallel, averaged, compiled,
sharded and checkpointed modules, and those of Opacus and Lightning."""


def site_names(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return the dropout modules of a model by their names, which leave out wrappers.

    Modules whose names would then be equal keep their full names.
    """
    while [name for name, _ in model.named_children()] in [[wrapper] for wrapper in WRAPPERS]:
        model = next(model.children())
    full = dict(model.named_modules())
    drops = [name for name, module in full.items() if isinstance(module, _DropoutNd)]
    short = {name: _without_wrappers(full, name) for name in drops}
    times = collections.Counter(short.values())
    return {short[name] if times[short[name]] == 1 else name: full[name] for name in drops}


def _without_wrappers(modules: dict[str, torch.nn.Module], name: str) -> str:
    kept: list[str] = []
    parts = name.split(".")
    for n, part in enumerate(parts):
        parent = modules[".".join(parts[:n])]
        adapter = type(parent).__module__.startswith("peft.")
        if part not in WRAPPERS and not (adapter and part in ("base_model", "model")):
            kept.append(part)
    return ".".join(kept)
