"""Random bits by themselves, for all that is decided by a coin; nothing is applied to an array.

No state is kept here; the bits are those of a `Mask`, turned around.
"""

from typing import Literal, SupportsFloat, overload

import numpy as np
from numpy.typing import NDArray

from fastdrop._mask import Mask
from fastdrop._validate import Dims, check_flag
from fastdrop.random import RNG, as_key


@overload
def bernoulli(
    shape: Dims, p: SupportsFloat, rng: RNG = None, *, packed: Literal[False] = False
) -> NDArray[np.bool_]: ...
@overload
def bernoulli(
    shape: Dims, p: SupportsFloat, rng: RNG = None, *, packed: Literal[True]
) -> NDArray[np.uint8]: ...
def bernoulli(
    shape: Dims, p: SupportsFloat, rng: RNG = None, *, packed: bool = False
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

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range.

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
    check_flag(packed, "packed")
    mask = Mask(shape, p, as_key(rng))
    if not packed:
        kept = mask.to_numpy()
        return np.logical_not(kept, out=kept)
    octets = mask.packbits()
    np.invert(octets, out=octets)
    unused = -mask.size % 8
    if unused:
        octets[-1] &= 0xFF >> unused
    return octets
