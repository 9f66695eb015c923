"""Layers that drop weights, not activations: words of a table, connections, recurrent weights."""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from fastdrop._mask import Mask, make_mask
from fastdrop._validate import Mode, as_arrays, check_mode
from fastdrop.functional.core import Array, dropout
from fastdrop.functional.weights import weight_drop
from fastdrop.layers.base import Layer
from fastdrop.layers.elementwise import Dropout
from fastdrop.random import RNG


class EmbeddingDropout(Dropout):
    """Drop whole words in training: rows of an embedding table.

    A call takes the table, of shape (vocabulary, dimension), and returns the one to look words up
    in; `backward` takes the gradient with respect to that.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP a word, in [0, 1].
    inplace, mode, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds; in a call, if the table has not two axes.

    See Also
    --------
    embedding_dropout : the function, with the formula and the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.EmbeddingDropout(0.5, rng=0)(np.ones((4, 2), dtype=np.float32))
    array([[2., 2.],
           [0., 0.],
           [2., 2.],
           [0., 0.]], dtype=float32)
    """

    _of_weights = True

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, mode: Mode = "inverted", rng: RNG = None
    ) -> None:
        super().__init__(p, inplace, mode=mode, rng=rng)

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 2:
            raise ValueError(f"x must have 2 axes, (vocabulary, dimension), got shape {shape}")
        return (shape[0], 1)


class DropConnect(Dropout):
    """Drop connections in training: single weights, one mask for all examples of a call.

    A call takes the weights, of any shape, and returns those to use; `backward` takes the gradient
    with respect to these.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP a weight, in [0, 1].
    inplace, mode, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds.

    See Also
    --------
    drop_connect : the function, with the formula and the paper.
    DropConnectLinear : a mask for each example.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> fd.DropConnect(0.5, rng=0)(np.ones((2, 3), dtype=np.float32))
    array([[2., 0., 2.],
           [0., 0., 2.]], dtype=float32)
    """

    _of_weights = True

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, mode: Mode = "inverted", rng: RNG = None
    ) -> None:
        super().__init__(p, inplace, mode=mode, rng=rng)


class WeightDrop(Layer[list[Mask]]):
    """Drop connections of recurrent weights, once for all time steps of a sequence.

    Parameters
    ----------
    p : float, default 0.5
        Probability to DROP a weight, in [0, 1].
    mode, rng
        As for `Dropout`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds.

    See Also
    --------
    weight_drop : the function, with the paper.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> drop = fd.WeightDrop(0.5, rng=0)
    >>> forget, update = drop([np.ones((2, 2)), np.ones((2, 2))])
    >>> np.array_equal(drop.backward([np.ones((2, 2))] * 2)[1], update)
    True
    """

    _of_weights = True

    def __init__(self, p: float = 0.5, *, mode: Mode = "inverted", rng: RNG = None) -> None:
        check_mode(mode)
        super().__init__(p, rng)
        self.mode: Mode = mode
        self._shapes: list[tuple[int, ...]] | None = None
        self._last: tuple[bool, float, Mode] = (True, 0.0, mode)

    def __call__(self, weights: Sequence[ArrayLike]) -> list[Array]:
        """Drop connections of all arrays.

        Parameters
        ----------
        weights : sequence of array_like
            Of any shapes and the dtypes of `Dropout`.

        Returns
        -------
        list of ndarray
            The weights to use; those given, where there is nothing to do.

        Raises
        ------
        TypeError, ValueError
            If they are none of these; the call does not count then.
        """
        key = self._key.child(self._calls)
        arrays = as_arrays(weights, "weights")
        dropped = weight_drop(arrays, self._p, training=self.training, mode=self.mode, rng=key)
        self._mask = None
        if self.training:
            self._mask = [
                make_mask(array.shape, self._p, key.fold_in(n)) for n, array in enumerate(arrays)
            ]
            self._count()
        self._shapes = [array.shape for array in arrays]
        self._last = (self.training, self._p, self.mode)
        return dropped

    def backward(self, gradients: Sequence[ArrayLike]) -> list[Array]:
        """Return the gradients with respect to the weights of the last call.

        Parameters
        ----------
        gradients : sequence of array_like
            With respect to the returned weights, in their shapes.

        Returns
        -------
        list of ndarray

        Raises
        ------
        RuntimeError
            If there was no call yet.
        TypeError, ValueError
            If they are of other shapes.
        """
        if self._shapes is None:
            raise RuntimeError("backward needs a forward call before it")
        arrays = as_arrays(gradients, "gradients")
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            raise ValueError(
                f"gradients must have the shapes of the weights, {self._shapes}, got {shapes}"
            )
        training, p, mode = self._last
        masks: Sequence[Mask | None] = self._mask or [None] * len(arrays)
        return [
            dropout(array, p, training=training, mode=mode, mask=mask)
            for array, mask in zip(arrays, masks, strict=True)
        ]

    def _options(self) -> str:
        return "" if self.mode == "inverted" else f", mode={self.mode!r}"
