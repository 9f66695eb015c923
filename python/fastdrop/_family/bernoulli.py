"""Random bits alone: a `Mask` drawn and inverted, True where it drops."""

from typing import Literal, Never, SupportsFloat, overload

import numpy as np
from numpy.typing import NDArray

from fastdrop._base.arguments import Lengths, as_flag, as_shape, probability, refuse
from fastdrop._base.keys import NO_KEY, RNG, as_key
from fastdrop._base.masks import make_mask


@overload
def bernoulli(
    shape: Lengths, p: SupportsFloat, rng: RNG = None, *, packed: Literal[False] = False
) -> NDArray[np.bool_]: ...
@overload
def bernoulli(
    shape: Lengths, p: SupportsFloat, rng: RNG = None, *, packed: Literal[True]
) -> NDArray[np.uint8]: ...
def bernoulli(
    shape: Lengths, p: SupportsFloat, rng: RNG = None, *, packed: bool = False, **unknown: Never
) -> NDArray[np.bool_] | NDArray[np.uint8]:
    r"""Draw independent bits that are True with probability `p`.

    .. math:: b_i = [U_i < \lfloor 2^{64} p \rfloor]

    with :math:`U_i` the 64-bit uniform of element i, so the probability is exact to 2^-64. True
    bits are the elements that ``Mask(shape, p, key)`` drops: with one key, raising p only adds to
    them.

    `rng` is as for `dropout`. With `packed`, the result is uint8 of shape (ceil(size / 8),), as
    from ``np.packbits(bits, axis=None, bitorder="little")``: unused bits of the last byte are 0.

    >>> fd.bernoulli((2, 4), 0.5, rng=1)
    array([[ True, False,  True,  True],
           [ True, False, False,  True]])
    >>> fd.bernoulli((2, 4), 0.5, rng=1, packed=True)
    array([157], dtype=uint8)
    """
    if unknown:
        refuse(unknown, bernoulli)
    packed = as_flag(packed, "packed")
    lengths, rate = as_shape(shape, "shape"), probability(p)
    make_mask(lengths, rate, NO_KEY)  # raises before a Generator advances
    mask = make_mask(lengths, rate, as_key(rng))
    if not packed:
        kept = mask.to_numpy()
        return np.logical_not(kept, out=kept)
    octets = mask.packbits()
    np.invert(octets, out=octets)
    unused = -mask.size % 8
    if unused:
        octets[-1] &= 0xFF >> unused
    return octets
