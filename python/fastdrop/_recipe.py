"""Recipes: what is random in a call, as a pure function of a key, and never stored as an array.

`Mask` is the recipe of most of the family; the others build on it or on the same stream. All have
`shape`, `p`, `key`, `to_numpy`, `apply`, equality, a hash, pickles and a `repr` that reads back.
"""

from typing import Any, Protocol, Self, SupportsFloat, final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastdrop import _core
from fastdrop._arguments import Array, Lengths, as_array, as_finite, as_out, as_shape, probability
from fastdrop._key import Key


class Recipe(Protocol):
    """What all recipes have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that `to_numpy` draws."""

    @property
    def p(self) -> float:
        """Probability to DROP, or the rate that stands for it."""

    @property
    def key(self) -> Key:
        """Which bits are drawn."""

    def to_numpy(self) -> Array:
        """Draw what the recipe describes as an array."""

    def apply(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Do to an array what the function that draws this recipe does in training."""


class Drawable:
    """Lets NumPy draw a recipe where it wants an array."""

    __slots__ = ()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError(
                f"a {type(self).__name__} becomes an array only by drawing it, "
                "so copy must not be False"
            )
        array: Array = self.to_numpy()  # type: ignore[attr-defined]
        return array if dtype is None else array.astype(dtype, copy=False)


def check_key(key: object) -> None:
    """Raise TypeError unless `key` is a Key."""
    if type(key) is not Key:
        raise TypeError(f"key must be a Key, got {key!r}")


@final
class Mask(Drawable, _core.Mask):
    """Which elements of an array are kept: a recipe of some 50 bytes, whatever the array's size.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the array, with at most 2**63 - 1 elements. No memory is used for them.
    p : float
        Probability to DROP an element, in [0, 1]; exact to 2**-64.
    key : Key
        Which bits to draw.

    Attributes
    ----------
    shape : tuple of int
        The shape.
    ndim : int
        Number of axes.
    size : int
        Number of elements.
    p : float
        Probability to drop.
    key : Key
        The key.

    Notes
    -----
    Whether an element is kept depends on key, p and the element's C-order index alone. Masks of one
    key are nested: what a small p drops, a larger one drops too.

    Examples
    --------
    >>> import fastdrop as fd
    >>> mask = fd.Mask((2, 5), 0.5, fd.Key(0))
    >>> mask.to_numpy()
    array([[ True,  True,  True, False,  True],
           [False,  True, False,  True, False]])
    >>> mask.count()
    6
    """

    __slots__ = ()

    def __new__(cls, shape: Lengths, p: SupportsFloat, key: Key) -> Self:
        """Check what the mask is made of."""
        check_key(key)
        return _new(cls, as_shape(shape, "shape"), probability(p), key)

    def region(self, start: Lengths, shape: Lengths) -> "Mask":
        """Take the part of the mask in a box: the same elements of the whole get the same bits.

        Parameters
        ----------
        start : int or sequence of int
            Position of the box's first element, one number per axis.
        shape : int or sequence of int
            Extent of the box along each axis.

        Returns
        -------
        Mask
            Of this extent.

        Examples
        --------
        >>> import fastdrop as fd
        >>> whole = fd.Mask((1000, 1000), 0.5, fd.Key(0))
        >>> part = whole.region((500, 20), (2, 3))
        >>> bool((part.to_numpy() == whole.to_numpy()[500:502, 20:23]).all())
        True
        """
        return self.part(as_shape(start, "start"), as_shape(shape, "shape"))

    def apply(
        self, x: ArrayLike, out: Array | None = None, *, scale: SupportsFloat | None = None
    ) -> Array:
        """Apply the mask: kept elements times `scale`, +0.0 for the others.

        Parameters
        ----------
        x : array_like of float32, float64, float16, bfloat16, complex64 or complex128
            Array that broadcasts with the mask as in NumPy.
        out : numpy.ndarray, optional
            Array to write into, of the result's shape and of x's dtype; may be `x` itself.
        scale : float, optional
            What kept elements are multiplied by; 1 / (1 - p) if not given. Rounded once, to float64
            for float64 and complex128 and to float32 for all others. Finite.

        Returns
        -------
        numpy.ndarray
            `out`, or a new array of x's dtype, with the memory layout that `np.empty_like(x)` has.

        Examples
        --------
        >>> import fastdrop as fd
        >>> import numpy as np
        >>> mask = fd.Mask((2, 3), 0.5, fd.Key(0))
        >>> mask.apply(np.ones((2, 3), dtype=np.float32))
        array([[2., 2., 2.],
               [0., 2., 0.]], dtype=float32)
        """
        factor = inverse_keep(self.p) if scale is None else as_finite(scale, "scale")
        array = x if type(x) is np.ndarray else as_array(x, "x")
        if out is None:
            return _core.apply(self, array, factor)
        _core.apply(self, array, factor, as_out(out))
        return out

    def __repr__(self) -> str:
        whole, p, key, start, shape = self.parts
        base = f"Mask({whole}, {p!r}, {key!r})"
        return base if whole == shape else f"{base}.region({start}, {shape})"

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        whole, p, key, start, shape = self.parts
        if whole == shape:
            return Mask, (whole, p, key)
        return Mask(whole, p, key).region, (start, shape)


_new = _core.Mask.__new__
_core.publish(Key, Mask)


def make_mask(shape: tuple[int, ...], p: float, key: Key) -> Mask:
    """Return the mask of values that were checked before."""
    return _new(Mask, shape, p, key)


def inverse_keep(p: float) -> float:
    """Return 1 / (1 - p), by which kept elements are scaled; 0 where none is kept."""
    return 0.0 if p == 1.0 else 1.0 / (1.0 - p)
