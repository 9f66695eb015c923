"""Random bits by themselves: those of a `Mask`, inverted."""

from typing import Literal, SupportsFloat, overload

import numpy as np
from numpy.typing import NDArray

from fastdrop._arguments import Lengths, as_flag, as_shape, probability
from fastdrop._key import NO_KEY, RNG, as_key
from fastdrop._recipe import make_mask


@overload
def bernoulli(
    shape: Lengths, p: SupportsFloat, rng: RNG = None, *, packed: Literal[False] = False
) -> NDArray[np.bool_]: ...
@overload
def bernoulli(
    shape: Lengths, p: SupportsFloat, rng: RNG = None, *, packed: Literal[True]
) -> NDArray[np.uint8]: ...
def bernoulli(
    shape: Lengths, p: SupportsFloat, rng: RNG = None, *, packed: bool = False
) -> NDArray[np.bool_] | NDArray[np.uint8]:
    r"""Draw bits that are True with probability `p`, each by itself.

    .. math:: b_i = [U_i < \lfloor 2^{64} p \rfloor]

    with :math:`U_i` the 64-bit uniform of element i, so the probability is exact to 2^-64. It is
    what ``Mask(shape, p, key)`` drops: with one key, what is True at a small p is True at a larger.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the array.
    p : float
        Probability of True, in [0, 1].
    rng : Key, None, int, sequence of int, SeedSequence, BitGenerator or Generator, optional
        Where the bits come from. A `Key` is used as it is; an int gives the same bits at every
        call; a Generator is advanced; None is fresh entropy.
    packed : bool, default False
        Whether to return eight bits in a byte.

    Returns
    -------
    ndarray of bool, shape `shape`
        The bits; or if `packed`, ndarray of uint8 of shape (ceil(size / 8),), as
        ``np.packbits(bits, axis=None, bitorder="little")``: unused bits of the last byte are 0.

    See Also
    --------
    Mask : the same, but True where kept; and it can be applied without being stored.

    Notes
    -----
    The generator is ARS-7 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    SC 2011. Uses: the examples a bootstrap or a subsample takes, the patches a masked autoencoder
    hides, the open sites of percolation.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.bernoulli((2, 4), 0.5, rng=1)
    array([[ True, False,  True,  True],
           [ True, False, False,  True]])
    >>> fd.bernoulli((2, 4), 0.5, rng=1, packed=True)
    array([157], dtype=uint8)
    >>> sites = fd.bernoulli(1_000_000, 0.001, rng=1)
    >>> int(np.count_nonzero(sites))
    1007
    """
    packed = as_flag(packed, "packed")
    lengths, rate = as_shape(shape, "shape"), probability(p)
    make_mask(lengths, rate, NO_KEY)  # what is wrong with it is said before a Generator advances
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
