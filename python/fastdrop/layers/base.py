"""What all layers share: the key, the count of training calls, train and eval, saved state.

`Layer` is for any call; `ElementwiseLayer` is for those that take one array and return one, where
a subclass says in four methods what is drawn and what it does.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fastdrop._validate import check_flag, check_inplace, check_state, float_array, probability
from fastdrop.functional.core import Array
from fastdrop.random import RNG, Key, as_key

Recipe = TypeVar("Recipe")


@dataclass(frozen=True)
class Samples:
    """What the calls of a layer draw during one run of a Monte Carlo model.

    Axis 0 holds equal parts, one for each key, which is the layer's key for that part; its length
    is a multiple of `rows`. With `shared` one mask serves all of a part.
    """

    keys: tuple[Key, ...]
    rows: int
    shared: bool


class Layer(Generic[Recipe]):
    """A layer that draws something in training, call number i with ``key.fold_in(i)``."""

    _of_weights: ClassVar[bool] = False  # then axis 0 of what it is called with holds no examples
    _samples: Samples | None = None

    def __init__(self, p: float, rng: RNG) -> None:
        self.p = p
        self.training = True
        self._key = as_key(rng)
        self._calls = 0
        self._held = False
        self._held_call = False  # whether there was a training call since `hold`
        self._mask: Recipe | None = None
        self._shape: tuple[int, ...] | None = None

    @property
    def p(self) -> float:
        """Probability to drop."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = probability(p)

    @property
    def key(self) -> Key:
        """The layer's key."""
        return self._key

    @property
    def calls(self) -> int:
        """Number of training calls so far."""
        return self._calls

    @property
    def mask(self) -> Recipe | None:
        """What the last call drew; None before the first and after one in evaluation."""
        return self._mask

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode (to evaluation for False), and return the layer."""
        check_flag(mode, "mode")
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation mode, and return the layer."""
        return self.train(False)

    def hold(self) -> Self:
        """Use the next call's key for all calls until `release`, and return the layer."""
        self._held = True
        return self

    def release(self) -> Self:
        """End `hold`: the next call has a key of its own again. Return the layer."""
        self._calls += self._held_call
        self._held, self._held_call = False, False
        return self

    def _count(self) -> None:
        """Count a call in training; those of a held layer are one, counted at the end."""
        if self._held:
            self._held_call = True
        else:
            self._calls += 1

    @contextmanager
    def _sampling(self, samples: Samples) -> Iterator[None]:
        """Draw these samples whatever the mode; at the end the layer is as it was."""
        before = dict(vars(self))
        try:
            self.training, self._calls = True, 0
            self._key = samples.keys[0]
            self._samples = None if self._of_weights else samples
            yield
        finally:
            vars(self).clear()
            vars(self).update(before)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes in training: enough to go on with the same masks elsewhere.

        Returns
        -------
        dict
            "key" (str, its bytes as hexadecimal digits), "calls" (int) and "p" (float).

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Dropout(0.2, rng=fd.Key.from_bytes(b"sixteen bytes...")).state_dict()
        {'key': '7369787465656e2062797465732e2e2e', 'calls': 0, 'p': 0.2}
        """
        return {"key": bytes(self._key).hex(), "calls": self._calls, "p": self._p}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or elsewhere.

        Parameters
        ----------
        state : dict
            With the entries of `state_dict`.

        Raises
        ------
        TypeError, ValueError
            If an entry is missing, unknown or out of range; the layer is unchanged then.
        """
        key, self._calls, self._p = check_state(state)
        self._key = Key.from_bytes(key)
        self._held, self._held_call = False, False
        self._mask, self._shape = None, None

    def _check_gradient(self, dy: ArrayLike) -> Array:
        """Return `dy` as an array, if it can be the gradient of the last call's result.

        Raises
        ------
        RuntimeError
            If there was no call yet.
        TypeError, ValueError
            If `dy` is of no dtype that fastdrop works on, or of another shape.
        """
        if self._shape is None:
            raise RuntimeError("backward needs a forward call before it")
        array = float_array(dy, "dy")
        if array.shape != self._shape:
            raise ValueError(f"dy must have the shape of x, {self._shape}, got {array.shape}")
        return array

    def _options(self) -> str:
        """Return what `repr` shows behind p."""
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self._p}{self._options()})"


class ElementwiseLayer(Layer[Recipe]):
    """A layer of one array: its result and its gradient have the shape of the input."""

    def __init__(self, p: float, inplace: bool, rng: RNG) -> None:
        check_flag(inplace, "inplace")
        super().__init__(p, rng)
        self.inplace = inplace

    def _draw(self, shape: tuple[int, ...], key: Key) -> Recipe:
        """Return what a call in training draws for an input of this shape."""
        raise NotImplementedError

    def _train(self, x: Array, mask: Recipe, out: Array | None) -> Array:
        """Return the result in training, in `out` if it is given."""
        raise NotImplementedError

    def _evaluate(self, x: Array, out: Array | None) -> Array:
        """Return the result in evaluation, in `out` if it is given."""
        return x

    def _gradient(self, dy: Array, mask: Recipe | None) -> Array:
        """Return the gradient; the mask is None if the last call was in evaluation."""
        raise NotImplementedError

    def __call__(self, x: ArrayLike) -> Array:
        """Apply the layer.

        Parameters
        ----------
        x : array_like of float32, float64, float16, bfloat16, complex64 or complex128
            Input of any shape and memory layout; with `inplace`, an array that can be written.

        Returns
        -------
        numpy.ndarray
            Of the shape, dtype and memory layout of `x`; `x` itself in place, and where there is
            nothing to do.

        Raises
        ------
        TypeError, ValueError
            If `x` is none of these; it is unchanged, and the call does not count.
        """
        array = float_array(x, "x")
        out = check_inplace(x, array) if self.inplace else None
        if self.training:
            if self._samples is None:
                mask = self._draw(array.shape, self._key.child(self._calls))
                y = self._train(array, mask, out)
                self._mask = mask
            else:
                y = self._train_samples(array, self._samples, out)
            self._count()
        else:
            y = self._evaluate(array, out)
            self._mask = None
        self._shape = array.shape
        return x if y is array and isinstance(x, np.ndarray) else y

    def _train_samples(self, x: Array, samples: Samples, out: Array | None) -> Array:
        """Return the result of a Monte Carlo run: each part of axis 0 has a key of its own."""
        keys = [key.child(self._calls) for key in samples.keys]
        if len(keys) == 1:
            mask = self._draw(_drawn_shape(x.shape, samples), keys[0])
            y = self._train(x, mask, out)
            self._mask = mask
            return y
        if x.ndim == 0 or x.shape[0] % samples.rows:
            raise ValueError(
                f"x must have the rows of {len(keys)} samples, a multiple of {samples.rows}, "
                f"in a batch of them, got shape {x.shape}"
            )
        y = np.empty_like(x) if out is None else out
        split = (len(keys), x.shape[0] // len(keys), *x.shape[1:])  # of one axis, so always views
        for part, target, key in zip(x.reshape(split), y.reshape(split), keys, strict=True):
            self._train(part, self._draw(_drawn_shape(part.shape, samples), key), target)
        self._mask = None
        return y

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient with respect to the input of the last call.

        Parameters
        ----------
        dy : array_like of float32, float64, float16, bfloat16, complex64 or complex128
            Gradient with respect to the output, of the shape of the last input.

        Returns
        -------
        numpy.ndarray
            Of the shape and dtype of `dy`; `dy` itself where there is nothing to do.

        Raises
        ------
        RuntimeError
            If there was no call yet.
        TypeError, ValueError
            If `dy` is none of these, or of another shape.
        """
        if self._samples is not None and len(self._samples.keys) > 1:
            raise RuntimeError("backward needs one sample at a time, not a batch of them")
        return self._gradient(self._check_gradient(dy), self._mask)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self._p}, inplace={self.inplace}{self._options()})"


def _drawn_shape(shape: tuple[int, ...], samples: Samples) -> tuple[int, ...]:
    return (1, *shape[1:]) if samples.shared and shape else shape


def as_layers(layers: Layer[Any] | Iterable[Layer[Any]]) -> tuple[Layer[Any], ...]:
    """Return one layer or several as a tuple.

    Raises
    ------
    TypeError, ValueError
        If one is no layer, or comes twice; if there are none.
    """
    if isinstance(layers, Layer):
        return (layers,)
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers must be layers of fastdrop, got {layers!r}")
    several = tuple(layers)
    for layer in several:
        if not isinstance(layer, Layer):
            raise TypeError(f"layers must be layers of fastdrop, got {layer!r}")
    if len(set(map(id, several))) != len(several):
        raise ValueError(f"layers must not name a layer twice, got {list(several)}")
    if not several:
        raise ValueError("layers must be at least one layer, got none")
    return several
