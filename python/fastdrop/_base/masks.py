"""Recipes: the random part of a call as a pure function of a key. No mask is stored as an array.

`Mask` is the recipe of most members; the other recipes build on it or on the same stream. All have
`shape`, `p`, `key`, `to_numpy`, `apply`, equality, a hash, pickles and a `repr` that reads back.
"""

from typing import Any, Never, Protocol, Self, SupportsFloat, final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastdrop import _core
from fastdrop._base.arguments import (
    Array,
    Lengths,
    as_array,
    as_finite,
    as_out,
    as_shape,
    probability,
    refuse,
)
from fastdrop._base.keys import Key, check_key


class Recipe(Protocol):
    """The interface of all recipes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array that `to_numpy` draws."""

    @property
    def p(self) -> float:
        """Probability to DROP, or the equivalent rate."""

    @property
    def key(self) -> Key:
        """Key of the bits that are drawn."""

    def to_numpy(self) -> Array:
        """Draw the recipe as an array."""

    def apply(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Apply the recipe to an array, as its function does in training."""


def publish(thing: Any) -> None:
    """Make a class or function of fastdrop belong to the package: pickles do not name its file."""
    if thing.__module__.startswith("fastdrop.") and thing.__name__[0] != "_":
        thing.__module__ = "fastdrop"


class Drawable:
    """Lets NumPy convert a recipe to an array by drawing it."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        publish(cls)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError(
                "copy must be True or None, because the array of a "
                f"{type(self).__name__} is drawn, got False"
            )
        array: Array = self.to_numpy()  # type: ignore[attr-defined]
        return array if dtype is None else array.astype(dtype, copy=False)


@final
class Mask(Drawable, _core.Mask):
    """A recipe of 200 bytes that tells which elements of an array are kept.

    Whether an element is kept depends on the key, p and the element's C-order index alone. Masks of
    one key are nested: a larger p also drops every element that a smaller p drops.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the array, with at most 2**63 - 1 elements. No memory is used for them.
    p : float
        Probability to DROP an element, in [0, 1]; exact to 2**-64.
    key : Key
        Key of the bits that are drawn.

    Attributes
    ----------
    shape, p, key
        As given.
    ndim, size : int
        Numbers of axes and of elements.

    Examples
    --------
    >>> mask = fd.Mask((2, 5), 0.5, fd.Key(0))
    >>> mask.to_numpy()
    array([[ True,  True,  True, False,  True],
           [False,  True, False,  True, False]])
    >>> mask.count()
    6
    """

    __slots__ = ()

    def __new__(cls, shape: Lengths, p: SupportsFloat, key: Key, **unknown: Never) -> Self:
        """Check the arguments and make the mask."""
        if unknown:
            refuse(unknown, cls)
        check_key(key)
        return _new(cls, as_shape(shape, "shape"), probability(p), key)

    def region(self, start: Lengths, shape: Lengths) -> "Mask":
        """Return the mask of a box: its elements get the same bits as in the whole mask.

        ``start`` is the position of the box's first element and ``shape`` the box's extent, both an
        int or one int per axis.

        >>> whole = fd.Mask((1000, 1000), 0.5, fd.Key(0))
        >>> part = whole.region((500, 20), (2, 3))
        >>> np.array_equal(part.to_numpy(), whole.to_numpy()[500:502, 20:23])
        True
        """
        return self.part(as_shape(start, "start"), as_shape(shape, "shape"))

    def apply(
        self, x: ArrayLike, out: Array | None = None, *, scale: SupportsFloat | None = None
    ) -> Array:
        """Multiply kept elements by `scale`, and set the others to +0.0.

        `x`, of any dtype of `dropout`, broadcasts with the mask as in NumPy. `scale` is finite, 1 /
        (1 - p) if not given, and rounded once: to float64 for float64 and complex128, to float32
        for all others. `out`, which may be `x`, has the result's shape and the dtype of `x`; a new
        array has the memory layout of ``np.empty_like(x)``.

        >>> fd.Mask((2, 3), 0.5, fd.Key(0)).apply(np.ones((2, 3), dtype=np.float32))
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
    """Return the mask of arguments that were checked."""
    return _new(Mask, shape, p, key)


def inverse_keep(p: float) -> float:
    """Return 1 / (1 - p), the scale of kept elements; 0 if none is kept."""
    return 0.0 if p == 1.0 else 1.0 / (1.0 - p)
