"""Tokens that stay, as an operator, and their selection."""

from typing import Any

import torch
from torch import Tensor

from fastdrop._family.patches import PatchMask, kept_tokens
from fastdrop.torch._call import is_plain
from fastdrop.torch._direct import call_directly
from fastdrop.torch._dispatch import decide, torch_draws
from fastdrop.torch._operator import LIBRARY, key_of, words_for

LIBRARY.define(
    "patches(Tensor key, SymInt batch, int tokens, float p, int prefix, bool ordered) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def positions_of(
    input: Tensor, batch: int, source: Any, p: float, prefix: int, ordered: bool
) -> tuple[Tensor, PatchMask | None]:
    """Return the positions of the tokens that stay in a batch, and the mask if it is known.

    `input` is the batch, or a part of it.
    """
    tokens = int(input.shape[1])
    if isinstance(source, PatchMask) or is_plain((input,)):
        known = isinstance(source, PatchMask)
        mask = source if known else PatchMask((batch, tokens), p, decide(source), prefix, ordered)
        return torch.from_numpy(mask.indices()), mask
    if torch_draws(source):
        kept = kept_tokens(p, tokens, prefix) - prefix
        chosen = torch.rand(batch, tokens - prefix).argsort(1)[:, :kept]
        chosen = prefix + (chosen.sort(1)[0] if ordered else chosen)
        first = torch.arange(prefix).expand(batch, prefix)
        return torch.cat([first, chosen], 1), None
    words = words_for(source)
    return torch.ops.fastdrop.patches(words, batch, tokens, p, prefix, ordered), None


def taken(input: Tensor, positions: Tensor) -> Tensor:
    """Return the tokens at these positions."""
    batch, tokens = input.shape[:2]
    first = torch.arange(batch, device=positions.device).unsqueeze(1) * tokens
    rows, flat = (first + positions).flatten(), input.flatten(0, 1)
    shape = (batch, positions.shape[1], *input.shape[2:])
    return flat.index_select(0, rows).reshape(shape)


def _draw(words: Tensor, batch: int, tokens: int, p: float, prefix: int, ordered: bool) -> Tensor:
    mask = PatchMask((batch, tokens), p, key_of(words), prefix, ordered)
    return torch.from_numpy(mask.indices())


def _draw_each(info: Any, in_dims: Any, words: Tensor, *others: Any) -> tuple[Tensor, int]:
    rows = words.movedim(in_dims[0], 0)
    return torch.stack([torch.ops.fastdrop.patches(row, *others) for row in rows]), 0


LIBRARY.impl("patches", _draw, "CompositeExplicitAutograd")
call_directly("patches", _draw)
torch.library.register_vmap("fastdrop::patches", _draw_each, lib=LIBRARY)


@torch.library.register_fake("fastdrop::patches", lib=LIBRARY)
def _(words: Tensor, batch: int, tokens: int, p: float, prefix: int, ordered: bool) -> Tensor:
    return words.new_empty(batch, kept_tokens(p, tokens, prefix))
