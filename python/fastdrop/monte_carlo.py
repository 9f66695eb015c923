"""Monte Carlo dropout: outputs of a model under many masks, and the uncertainty they show.

`MonteCarlo` runs a model; the functions summarise the samples, which lie along the first axis.

>>> drop = fd.Dropout(0.5)
>>> mc = fd.MonteCarlo(lambda x: drop(x).sum(axis=1), drop, rng=0)
>>> samples = mc.samples(np.ones((3, 1000)), 50)
>>> fd.monte_carlo.mean(samples).round()
array([ 994.,  995., 1006.])
>>> np.sqrt(fd.monte_carlo.variance(samples, ddof=1)).round()  # a sum of 1000 coins: 31.6
array([30., 30., 36.])
"""

import copy
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop._base.arguments import (
    MOST_ARRAYS,
    Array,
    as_count,
    as_flag,
    as_unsigned,
    explained,
    plain_array,
    shown,
)
from fastdrop._base.keys import RNG, Key, as_key, check_key, number_of
from fastdrop._base.layers import Layer, Samples, as_layers
from fastdrop._base.states import split_state

__all__ = ["MonteCarlo", "mean", "mutual_information", "predictive_entropy", "variance"]


class MonteCarlo:
    """Run a model repeatedly with its dropout on, with numbered, reproducible masks.

    Sample k has the same masks at every call and for every input, and can be computed alone: layer
    number j of `layers` gets the key ``key.fold_in(k).fold_in(j)``, and its call number c in a run
    draws with ``fold_in(c)`` of this key, as in training.

    The layers drop in any mode, even with ``training=False``. Afterwards their mode, keys, counts
    and last masks are restored, even if the model raises. A layer that is held draws one mask per
    sample.

    Parameters
    ----------
    model : function
        The model, from an input to an output, made of NumPy and layers.
    layers : layer, iterable of layers, or mapping of str to layer
        Layers of the model that drop; all others are unaffected. The masks of a layer depend on its
        number j. In a mapping, j is the 8-byte BLAKE2b hash of the layer's name in UTF-8, low byte
        first, so the masks stay the same when layers are added or reordered.
    rng
        Source of `key`, as for `Dropout`.
    shared : bool, default False
        Whether all rows along axis 0 share a mask: a sample is then one thinned network for all
        examples. Layers that drop weights always share.

    Attributes
    ----------
    model, layers, shared
        As given.
    key : Key
        The key that `rng` gave.

    Notes
    -----
    Gal and Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep
    learning", ICML 2016.

    While a model runs, its layers belong to this run: each thread needs its own copies. For
    constant masks without this class, see `Layer.hold`.

    Examples
    --------
    >>> hidden, weights = fd.Dropout(0.5).eval(), np.ones((3, 4), np.float32)
    >>> def model(x):
    ...     return hidden(x @ weights).sum(axis=1)
    >>> mc = fd.MonteCarlo(model, [hidden], rng=0)
    >>> x = np.eye(2, 3, dtype=np.float32)
    >>> mc.samples(x, 3)
    array([[0., 8.],
           [6., 4.],
           [4., 8.]], dtype=float32)
    >>> mc.sample(x, 2)
    array([4., 8.], dtype=float32)
    >>> np.array_equal(mc.batch(x, 3), mc.samples(x, 3))
    True
    """

    __module__ = "fastdrop"

    @explained
    def __init__(
        self,
        model: Callable[[Any], Any],
        layers: Layer[Any] | Iterable[Layer[Any]] | Mapping[str, Layer[Any]],
        *,
        rng: RNG = None,
        shared: bool = False,
    ) -> None:
        children = None
        if isinstance(layers, Mapping):
            named = dict(itertools.islice(layers.items(), MOST_ARRAYS + 1))
            children = [number_of(name) for name in named]
            layers = named.values()
        self._set(model, layers, children, shared)
        self._key = as_key(rng)

    def _set(self, model: Any, layers: Any, children: Any, shared: Any) -> None:
        if not callable(model):
            raise TypeError(f"model must be a function of an input, got {shown(model)}")
        given, adapted = as_layers(layers)
        if as_flag(shared, "shared"):
            for layer in adapted:
                if not (layer._takes_rows or layer._of_weights):
                    raise TypeError(f"layers must take one array to share masks, got {layer!r}")
        numbers = range(len(given)) if children is None else children
        if not isinstance(numbers, Sequence) or len(numbers) != len(given):
            raise ValueError(
                f"_children must be {len(given)} numbers, one per layer, got {shown(children)}"
            )
        self._children = [as_unsigned(number, "number of a layer") for number in numbers]
        self.model, self.layers, self._layers, self.shared = model, given, adapted, bool(shared)

    def __setstate__(self, state: Any) -> None:
        names = ("model", "layers", "_children", "shared", "_key")
        (model, layers, children, shared, key), others = split_state(state, names)
        check_key(key)
        self._set(model, layers, () if children is None else children, shared)
        vars(self).update(others, _layers=self._layers, _key=key)

    @property
    def key(self) -> Key:
        """The key that `rng` gave."""
        return self._key

    def sample(self, x: Any, k: SupportsIndex) -> Any:
        """Return the model's output with the masks of sample `k`, counted from 0.

        `x` is any input that the model takes; it is deep-copied if a layer works in place.
        """
        keys = [self._key.fold_in(as_count(k, "k"))]
        if any(getattr(layer, "inplace", False) for layer in self._layers):
            x = x.clone() if _is_tensor(x) else copy.deepcopy(x)
        return self._run(x, keys, rows=1)

    def iter_samples(self, x: Any, n: SupportsIndex, first: SupportsIndex = 0) -> Iterator[Any]:
        """Yield the samples `first`, ..., `first` + `n` - 1; each is computed on demand."""
        start, count = as_count(first, "first"), as_count(n, "n", 1)
        return (self.sample(x, k) for k in range(start, start + count))

    def samples(self, x: Any, n: SupportsIndex, first: SupportsIndex = 0) -> Array:
        """Return the samples of `iter_samples` as one array of shape (n, ...), from `n` runs."""
        outputs = None
        for number, output in enumerate(self.iter_samples(x, n, first)):
            one = _as_output(output)
            if outputs is None:
                outputs = np.empty((as_count(n, "n"), *one.shape), one.dtype)
            if (one.shape, one.dtype) != (outputs.shape[1:], outputs.dtype):
                raise ValueError(
                    "model must return arrays of one shape and dtype, got "
                    f"{outputs.shape[1:]}, {outputs.dtype} and {one.shape}, {one.dtype}"
                )
            outputs[number] = one
        assert outputs is not None
        return outputs

    def batch(self, x: ArrayLike, n: SupportsIndex, first: SupportsIndex = 0) -> Array:
        """Return the result of `samples` from one run of the model on `n` copies of `x`.

        The copies are concatenated along axis 0; the rows of copy number i get the masks of sample
        `first` + i, the same as in `samples`. The model must keep the order of the rows along axis
        0, where one row may become several, as in (batch * time, features). Matrix products may
        round differently with more rows.
        """
        start, count = as_count(first, "first"), as_count(n, "n", 1)
        for layer in self._layers:
            if not layer._takes_rows:
                raise TypeError(
                    f"layers must take the rows of a batch (or use samples), got {layer!r}"
                )
        array: Any = x if _is_tensor(x) else plain_array(x, "x")
        if array.ndim == 0:
            raise ValueError("x must have the examples along axis 0, got an array without axes")
        times = (count, *[1] * (array.ndim - 1))
        copies = array.repeat(times) if _is_tensor(x) else np.tile(array, times)
        keys = [self._key.fold_in(k) for k in range(start, start + count)]
        rows = count * max(1, len(array))
        y = _as_output(self._run(copies, keys, rows))
        if y.ndim == 0 or len(y) % rows:
            raise ValueError(
                f"model must return the rows of {count} samples, a multiple of {rows}, "
                f"got shape {y.shape}"
            )
        return y.reshape(count, len(y) // count, *y.shape[1:])

    def _run(self, x: Any, keys: Sequence[Key], rows: int) -> Any:
        with ExitStack() as stack:
            for number, layer in zip(self._children, self._layers, strict=True):
                own = tuple(key.fold_in(number) for key in keys)
                stack.enter_context(layer._sampling(Samples(own, rows, self.shared)))
            y = self.model(x)
            for given, layer in zip(self.layers, self._layers, strict=True):
                if not layer._was_called:
                    raise ValueError(
                        f"layers must be called by the model, which did not call {given!r}"
                    )
            return y

    def __repr__(self) -> str:
        return f"MonteCarlo({self.model!r}, {list(self.layers)}, shared={self.shared})"


def _is_tensor(x: object) -> bool:
    """Return whether `x` is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _as_output(output: Any) -> Array:
    """Return a model's output as an array; a tensor is detached from its gradient."""
    if _is_tensor(output):
        output = output.detach()
        if str(output.dtype) == "torch.bfloat16":
            output = output.float()
    return np.asarray(output)


SUM_TOLERANCE = 0.01
"""Tolerance for sums of probabilities: bfloat16 rounds with a relative error of 2^-9."""


def mean(samples: ArrayLike) -> Array:
    """Return the mean over the first axis, the prediction, in float64 or complex128.

    >>> fd.monte_carlo.mean([[1.0, 2.0], [3.0, 2.0]])
    array([2., 2.])
    """
    array = _as_samples(samples)
    with np.errstate(all="ignore"):
        return np.asarray(array.mean(axis=0, dtype=np.result_type(array.dtype, np.float64)))


def variance(samples: ArrayLike, ddof: SupportsIndex = 0) -> Array:
    r"""Return the variance over the first axis, in float64: the uncertainty due to the masks.

    .. math:: \frac{1}{n - ddof} \sum_k |y_k - \bar y|^2

    With `ddof` 1 the estimate is unbiased. For the predictive variance, add the variance of the
    data's noise, 1 / tau in Gal and Ghahramani, ICML 2016, section 4.

    >>> fd.monte_carlo.variance([[1.0, 2.0], [3.0, 2.0]], ddof=1)
    array([2., 0.])
    """
    array = _as_samples(samples)
    less = as_count(ddof, "ddof")
    if less >= len(array):
        raise ValueError(f"ddof must be less than the {len(array)} samples, got {less}")
    dtype = np.result_type(array.dtype, np.float64)
    with np.errstate(all="ignore"):
        return np.asarray(array.var(axis=0, dtype=dtype, ddof=less).real)


def predictive_entropy(probabilities: ArrayLike) -> NDArray[np.float64]:
    r"""Return the entropy of the mean of class probabilities, in nats: the total uncertainty.

    .. math:: H[q] = -\sum_c q_c \, \log q_c, \qquad
        q_c = \frac{1}{n} \sum_k p_{k c}

    `probabilities`, such as the outputs of a softmax, have shape (n, ..., classes), and the result
    has shape (...). See Gal, "Uncertainty in deep learning", PhD thesis, University of Cambridge,
    2016, section 3.3.

    >>> fd.monte_carlo.predictive_entropy([[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]])
    array([0.69314718, 0.69314718])
    """
    each = _as_probabilities(probabilities)
    with np.errstate(under="ignore"):
        return _entropy(each.mean(axis=0))


def mutual_information(probabilities: ArrayLike) -> NDArray[np.float64]:
    r"""Return how much the samples disagree, in nats: the epistemic uncertainty (BALD).

    .. math:: H[q] - \frac{1}{n} \sum_k H[p_k]

    with q, H and `probabilities` as in `predictive_entropy`. It is 0 where all samples agree. See
    Houlsby et al., "Bayesian active learning for classification and preference learning",
    arXiv:1112.5745, 2011, and Gal, 2016, section 3.3.

    >>> fd.monte_carlo.mutual_information([[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]])
    array([0.        , 0.69314718])
    """
    each = _as_probabilities(probabilities)
    with np.errstate(under="ignore"):
        difference = _entropy(each.mean(axis=0)) - _entropy(each).mean(axis=0)
    return np.asarray(np.maximum(difference, 0.0))  # rounding can make it negative


def _entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy over the last axis, with 0 log 0 = 0."""
    terms = probabilities * np.log(np.where(probabilities > 0.0, probabilities, 1.0))
    return np.asarray(0.0 - terms.sum(axis=-1))


def _as_samples(samples: ArrayLike) -> Array:
    array = plain_array(samples, "samples")
    if not np.can_cast(array.dtype, np.complex128):
        raise TypeError(f"samples must be numbers, got dtype {array.dtype}")
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"samples must be at least one along axis 0, got shape {array.shape}")
    return array


def _as_probabilities(probabilities: ArrayLike) -> NDArray[np.float64]:
    array = plain_array(probabilities, "probabilities")
    if not np.can_cast(array.dtype, np.float64):
        raise TypeError(f"probabilities must be real numbers, got dtype {array.dtype}")
    if array.ndim < 2 or 0 in (len(array), array.shape[-1]):
        raise ValueError(f"probabilities must be of shape (n, ..., classes), got {array.shape}")
    numbers = array.astype(np.float64)
    if not ((numbers >= 0.0) & (numbers <= 1.0)).all():
        raise ValueError(f"probabilities must be in [0, 1], got {numbers.min()} to {numbers.max()}")
    off = np.abs(numbers.sum(axis=-1) - 1.0).max(initial=0.0)
    if off > SUM_TOLERANCE:
        raise ValueError(f"probabilities must sum to 1 over the last axis, got a sum off by {off}")
    return numbers
