"""Dropout of whole tokens, which shortens the sequences."""

from typing import Any

import torch
from torch import Tensor

from fastdrop._base.arguments import as_count, as_flag
from fastdrop._base.keys import NO_KEY, Key
from fastdrop._family.patches import PatchMask, kept_tokens
from fastdrop.torch._arguments import checked, ndim_of, refusal
from fastdrop.torch._call import NO_MASK, is_distributed, takes
from fastdrop.torch._modules import Option, OutOfPlace
from fastdrop.torch._patches import positions_of, taken


def patch_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    prefix: int = 0,
    ordered: bool = True,
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: PatchMask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole tokens of sequences, and return the shorter sequences: `fastdrop.patch_dropout`.

    `input` has shape (batch, tokens, ...). The first `prefix` tokens always stay. The result is
    ``(tokens, indices)``, with the positions of the tokens that stay, of shape (batch, kept).

    >>> x = torch.arange(12.0).reshape(2, 6)
    >>> F.patch_dropout(x, 0.5, prefix=1, key=fd.Key(2))
    (tensor([[ 0.,  3.,  4.],
            [ 6., 10., 11.]]), tensor([[0, 3, 4],
            [0, 4, 5]]))
    """
    if ndim_of(input) < 2:
        raise RuntimeError(
            f"input must have at least 2 axes, (batch, tokens, ...), got {input.dim()}"
        )
    if training and not takes(input):
        raise refusal(input, "input")
    first, ordered = as_count(prefix, "prefix"), as_flag(ordered, "ordered")
    p, source = checked((p, training, False, key, generator, mask, return_mask), recipe=PatchMask)
    batch, tokens = input.shape[:2]
    if mask is not None:
        if mask.shape != (batch, tokens):
            raise ValueError(f"mask must be of shape {(batch, tokens)}, got {mask.shape}")
        p, first, ordered = mask.p, mask.prefix, mask.ordered
    p = p if training else 0.0
    kept_tokens(p, tokens, first)
    x, rows = input, slice(None)
    distributed = is_distributed(input)
    if distributed:
        x, rows = _own_part(input)
    applied: PatchMask | None = None
    y, kept = input, tokens
    if p == 0.0:
        positions = torch.arange(tokens, device=input.device).repeat(x.shape[0], 1)
        if return_mask:
            applied = PatchMask((batch, tokens), 0.0, NO_KEY, first, ordered)
    else:
        positions, applied = positions_of(x, batch, source, float(p), first, ordered)
        positions = positions[rows]
        y, kept = taken(x, positions), positions.shape[1]
    if distributed:
        from fastdrop.torch import _distributed

        positions = _distributed.with_axis(positions, input, kept)
        y = y if p == 0.0 else _distributed.with_axis(y, input, kept)
    if not return_mask:
        return y, positions
    if applied is None:
        raise RuntimeError(NO_MASK)
    return y, positions, applied


def _own_part(input: Tensor) -> tuple[Tensor, slice]:
    """Return the local part of a DTensor, and its rows in the whole batch."""
    from fastdrop.torch import _distributed

    (x,), start, shape = _distributed.parts((input,))
    if shape[1] != input.shape[1]:
        raise RuntimeError(
            "input must have all tokens, axis 1, on each rank, got them sharded; redistribute it "
            "first"
        )
    return x, slice(start[0], start[0] + shape[0])


class PatchDropout(OutOfPlace):
    """Drop whole tokens in training, and shorten the sequences: `functional.patch_dropout`.

    >>> tokens, indices = fastdrop.torch.PatchDropout(0.5, prefix=1)(torch.ones(2, 5, 8))
    >>> tokens.shape, indices.shape
    (torch.Size([2, 3, 8]), torch.Size([2, 3]))
    """

    _takes_rows = False
    _is_whole = True
    prefix, ordered = Option(0, as_count), Option(True, as_flag)

    def __init__(self, p: float = 0.5, *, prefix: int = 0, ordered: bool = True) -> None:
        super().__init__(p)
        self.prefix, self.ordered = prefix, ordered

    def forward(self, input: Tensor) -> Any:
        """Return the tokens that stay and their positions."""
        return self._call(patch_dropout, input, **self._options)
