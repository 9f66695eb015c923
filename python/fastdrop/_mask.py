"""`Mask`: which elements are kept."""

from typing import Any, Self, SupportsFloat, final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastdrop import _core
from fastdrop._calls import as_out
from fastdrop._validate import Lengths, as_array, as_finite, as_shape, probability
from fastdrop.random import Key


@final
class Mask(_core.Mask):
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
        if not isinstance(key, Key):
            raise TypeError(f"key must be a Key, got {key!r}")
        return _core.Mask.__new__(cls, as_shape(shape, "shape"), probability(p), key)

    @property
    def key(self) -> Key:
        """The key."""
        key = super().key
        assert isinstance(key, Key)
        return key

    def region(self, start: Lengths, shape: Lengths) -> Self:
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

        Raises
        ------
        ValueError
            If the box is not inside this mask.

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
        self, x: ArrayLike, scale: SupportsFloat | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Apply the mask: kept elements times `scale`, +0.0 for the others.

        Parameters
        ----------
        x : array_like of float32, float64, float16, bfloat16, complex64 or complex128
            Array that broadcasts with the mask as in NumPy.
        scale : float, optional
            What kept elements are multiplied by; 1 / (1 - p) if not given. Rounded once, to float64
            for float64 and complex128 and to float32 for all others. Finite.
        out : numpy.ndarray, optional
            Array to write into, of the result's shape and of x's dtype; may be `x` itself.

        Returns
        -------
        numpy.ndarray
            `out`, or a new array of x's dtype, with the memory layout that `np.empty_like(x)` has.

        Examples
        --------
        >>> import fastdrop as fd
        >>>         >>> mask = fd.Mask((2, 3), 0.5, fd.Key(0))
        >>> mask.apply(np.ones((2, 3), dtype=np.float32))
        array([[2., 2., 2.],
               [0., 2., 0.]], dtype=float32)
        """
        if scale is None:
            scale = 0.0 if self.p == 1.0 else 1.0 / (1.0 - self.p)
        elif type(scale) is not float:
            scale = as_finite(scale, "scale")
        array = x if type(x) is np.ndarray else as_array(x, "x")
        if out is None or type(out) is np.ndarray:
            return _apply(self, array, scale, out, True)
        _apply(self, array, scale, as_out(out), True)
        return out

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError(
                "a Mask becomes an array only by drawing it, so copy must not be False"
            )
        array = self.to_numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __repr__(self) -> str:
        whole, p, key, start, shape = self.parts
        base = f"Mask({whole}, {p!r}, {key!r})"
        return base if whole == shape else f"{base}.region({start}, {shape})"

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Mask._rebuild, self.parts

    @classmethod
    def _rebuild(
        cls,
        whole: tuple[int, ...],
        p: float,
        key: Key,
        start: tuple[int, ...],
        shape: tuple[int, ...],
    ) -> Self:
        return cls(whole, p, key).region(start, shape)


Mask.__module__ = "fastdrop"


_new = _core.Mask.__new__
_apply = _core.apply


def make_mask(shape: tuple[int, ...], p: float, key: Key) -> Mask:
    """Return the mask of values that were checked before: a tuple of int, a float, a Key."""
    return _new(Mask, shape, p, key)
