"""A linear layer with a mask of its connections for each example. No mathematics here."""

from collections.abc import Mapping
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastdrop._mask import Mask
from fastdrop._validate import (
    Mode,
    as_count,
    as_float_dtype,
    check_flag,
    check_mode,
    check_weights,
    split_state,
)
from fastdrop.functional.connect import (
    Connections,
    connect,
    connect_grad,
    draw_connections,
    initial_weights,
    linear_arrays,
)
from fastdrop.functional.core import Array
from fastdrop.layers.base import Layer
from fastdrop.random import RNG


class DropConnectLinear(Layer[Mask]):
    """Map linearly; in training, with connections dropped at random for each example.

    Parameters
    ----------
    in_features, out_features : int
        Numbers of inputs and of outputs.
    p : float, default 0.5
        Probability to DROP a connection, in [0, 1].
    bias : bool, default True
        Whether something is added, which is never dropped.
    mode, rng
        As for `Dropout`.
    dtype : dtype, default numpy.float32
        Of the parameters, one of those of `dropout`.

    Attributes
    ----------
    weight : ndarray, shape (out_features, in_features)
        A parameter: can be changed in place, and set. At first uniform between plus and minus 1 /
        sqrt(in_features), by the uniforms of ``layer.key.split(2)[0]``, which no mask has.
    bias : ndarray, shape (out_features,), or None
        A parameter; at first as `weight`, by the key ``layer.key.split(2)[1]``.
    grad_weight, grad_bias : ndarray or None
        Gradients with respect to them, of the last `backward`.
    mask : Mask or None
        That of the last call, of shape (examples, out_features, in_features); None before the first
        and after one in evaluation.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of these kinds, or out of range.

    See Also
    --------
    drop_connect_linear : the function, with the formula and the paper.

    Notes
    -----
    The last input is kept until the next call: `grad_weight` needs it. Neither it nor `weight` must
    be overwritten before `backward`.

    Examples
    --------
    >>> import fastdrop as fd
    >>> import numpy as np
    >>> layer = fd.DropConnectLinear(4, 2, rng=0)
    >>> layer(np.ones((3, 4), dtype=np.float32)).shape
    (3, 2)
    >>> layer.backward(np.ones((3, 2), dtype=np.float32)).shape
    (3, 4)
    >>> layer.grad_weight.shape
    (2, 4)
    """

    def __init__(
        self,
        in_features: SupportsIndex,
        out_features: SupportsIndex,
        p: float = 0.5,
        *,
        bias: bool = True,
        mode: Mode = "inverted",
        rng: RNG = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        check_flag(bias, "bias")
        check_mode(mode)
        inputs, outputs = (
            as_count(in_features, "in_features"),
            as_count(out_features, "out_features"),
        )
        own = as_float_dtype(dtype)
        super().__init__(p, rng)
        self.mode: Mode = mode
        keys = self._key.split(2)
        self.weight = initial_weights((outputs, inputs), inputs, keys[0], own)
        self.bias = initial_weights((outputs,), inputs, keys[1], own) if bias else None
        self.grad_weight: Array | None = None
        self.grad_bias: Array | None = None
        self._x: Array | None = None
        self._drawn: Connections | None = None

    def __call__(self, x: ArrayLike) -> Array:
        """Map examples.

        Parameters
        ----------
        x : array_like of float or complex, shape (..., in_features)
            Of the dtypes of `Dropout`.

        Returns
        -------
        ndarray, shape (..., out_features)

        Raises
        ------
        TypeError, ValueError
            If `x` is none of these; the call does not count then.
        """
        array, weight, bias = linear_arrays(x, self.weight, self.bias)
        key = self._key.child(self._calls)
        drawn = draw_connections(array, weight, self._p, self.training, self.mode, key)
        y = connect(array, weight, bias, drawn)
        self._x, self._drawn, self._mask = array, drawn, drawn.mask
        if self.training:
            self._count()
        return y

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient with respect to the input of the last call, and leave the others.

        Parameters
        ----------
        dy : array_like of float or complex, shape (..., out_features)
            Gradient with respect to the output.

        Returns
        -------
        ndarray, shape (..., in_features)

        Raises
        ------
        RuntimeError
            If there was no call yet.
        TypeError, ValueError
            If `dy` is none of these, or of another shape.
        """
        if self._x is None or self._drawn is None:
            raise RuntimeError("backward needs a forward call before it")
        dx, self.grad_weight, grad_bias = connect_grad(dy, self._x, self.weight, self._drawn)
        self.grad_bias = None if self.bias is None else grad_bias
        return dx

    def state_dict(self) -> dict[str, Any]:
        """Return what changes in training: as for all layers, and copies of weight and bias.

        Examples
        --------
        >>> import fastdrop as fd
        >>> list(fd.DropConnectLinear(3, 2).state_dict())
        ['key', 'calls', 'p', 'weight', 'bias']
        """
        bias = None if self.bias is None else self.bias.copy()
        return {**super().state_dict(), "weight": self.weight.copy(), "bias": bias}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned of a layer of the same shape, here or elsewhere."""
        saved, common = split_state(state, ("weight", "bias"))
        weight = check_weights(saved[0], self.weight, "weight")
        bias = check_weights(saved[1], self.bias, "bias")
        super().load_state_dict(common)
        self.weight[...] = weight
        if self.bias is not None:
            self.bias[...] = bias
        self.grad_weight, self.grad_bias = None, None
        self._x, self._drawn = None, None

    def __repr__(self) -> str:
        outputs, inputs = self.weight.shape
        options = "" if self.bias is not None else ", bias=False"
        options += "" if self.mode == "inverted" else f", mode={self.mode!r}"
        options += "" if self.weight.dtype == np.float32 else f", dtype={self.weight.dtype.name!r}"
        return f"DropConnectLinear({inputs}, {outputs}, p={self._p}{options})"
