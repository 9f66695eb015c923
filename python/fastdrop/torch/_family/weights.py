"""Dropout of weights: words of a table, connections, weights of any module."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import embedding
from torch.nn.utils import parametrize

from fastdrop._base.arguments import Mode, check_mode, shown
from fastdrop._base.keys import NO_KEY, Key
from fastdrop._base.masks import Mask, make_mask
from fastdrop._family.weights import CONNECTIONS, WORDS
from fastdrop.torch._arguments import Request, check_tensor, checked, refusal, run
from fastdrop.torch._call import NO_MASK, How, takes
from fastdrop.torch._dispatch import children, kept_places
from fastdrop.torch._modules import Scaled


def embedding_dropout(
    weight: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    indices: Tensor | None = None,
    mode: Mode = "inverted",
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole words, rows of an embedding table: `fastdrop.embedding_dropout`.

    The result is the table, or, of shape indices.shape + (dimension,), the rows of `indices`. All
    occurrences of a word share its decision. The mask has shape (vocabulary, 1).

    >>> F.embedding_dropout(torch.ones(4, 2), 0.5, indices=torch.tensor([1, 0]), key=fd.Key(1))
    tensor([[2., 2.],
            [0., 0.]])
    """
    request = p, training, False, key, generator, mask, return_mask
    check_tensor(weight, "weight")
    if weight.dim() != 2:
        raise RuntimeError(f"weight must have 2 axes, (vocabulary, dimension), got {weight.dim()}")
    if indices is None:
        return run(WORDS, (weight,), request, (1,), mode)
    check_tensor(indices, "indices")
    if indices.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"indices must have dtype int64 or int32, got {indices.dtype}")
    return _look_up(weight, indices, request, mode)


def _look_up(weight: Tensor, indices: Tensor, request: Request, mode: str) -> Any:
    """Return rows of a table whose words are dropped."""
    p, source = checked(request)
    _, training, _, _, _, mask, return_mask = request
    vocabulary = weight.shape[0]
    check_mode(mode)
    if not training or (mask is None and p == 0.0):
        rate = p if mask is None else mask.p
        evaluation = rate, training, False, None, None, None, False
        y = run(WORDS, (embedding(indices, weight),), evaluation, (), mode)
        return (y, make_mask((vocabulary, 1), 0.0, NO_KEY)) if return_mask else y
    if indices.numel() > vocabulary:
        dropped = run(WORDS, (weight,), request, (1,), mode)
        table, recipe = dropped if return_mask else (dropped, None)
        y = embedding(indices, table)
    else:
        how = How.of(WORDS, float(p) if mask is None else mask.p, (), mode)
        width = 1 if mask is None else (1, *mask.shape)[-1]
        kept, recipe = kept_places(how, (vocabulary, width), source, weight)
        if return_mask and recipe is None:
            raise RuntimeError(NO_MASK)
        rows = embedding(indices, weight)
        y = torch.where(kept[indices], rows, 0.0) * how.numbers.scale
    return (y, recipe) if return_mask else y


def drop_connect(
    weight: Tensor,
    p: float = 0.5,
    training: bool = True,
    *,
    mode: Mode = "inverted",
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Mask | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop connections: single weights, with one mask for all examples of a call.

    See `fastdrop.drop_connect`. For a mask per example, see `drop_connect_linear`.

    >>> F.drop_connect(torch.ones(2, 3), 0.5, key=fd.Key(1))
    tensor([[0., 2., 0.],
            [0., 0., 2.]])
    """
    request = p, training, False, key, generator, mask, return_mask
    return run(CONNECTIONS, (weight,), request, (), mode)


def weight_drop(
    weights: Sequence[Tensor],
    p: float = 0.5,
    training: bool = True,
    *,
    mode: Mode = "inverted",
    key: Key | Tensor | None = None,
    generator: torch.Generator | None = None,
    mask: Sequence[Mask] | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop connections of several weights, once for all time steps: `fastdrop.weight_drop`.

    Returns the list of weights to use for one sequence. Weight number i is dropped with the key
    ``key.fold_in(i)``. `mask` has a mask for each weight.

    >>> forget, update = F.weight_drop([torch.ones(2, 2)] * 2, 0.5, key=fd.Key(1))
    >>> update
    tensor([[0., 0.],
            [2., 0.]])
    """
    if isinstance(weights, Tensor) or not isinstance(weights, Sequence):
        raise TypeError(f"weights must be a sequence of tensors, got {type(weights).__name__}")
    check_mode(mode)
    tensors = tuple(weights)
    if mask is not None:
        if not isinstance(mask, Sequence):
            raise TypeError(f"mask must be a sequence of masks, got {shown(mask)}")
        if len(mask) != len(tensors):
            raise ValueError(
                f"mask must have length {len(tensors)}, one per weight, got {len(mask)}"
            )
    given = list(mask) if mask is not None else [None] * len(tensors)
    rate, source = checked((p, training, False, key, generator, given[0] if given else None, False))
    for n, weight in enumerate(tensors):
        check_tensor(weight, f"weights[{n}]")
        if training and not takes(weight):
            raise refusal(weight, f"weights[{n}]")
    keys: list[Any] = [None] * len(tensors)
    if training and rate != 0.0 and mask is None and tensors:
        keys = children(source, tensors)
    results = [
        run(CONNECTIONS, (weight,), (p, training, False, own, None, one, return_mask), (), mode)
        for weight, own, one in zip(tensors, keys, given, strict=True)
    ]
    if not return_mask:
        return results
    return [y for y, _ in results], [recipe for _, recipe in results]


class _OfWeights(Scaled):
    """Dropout of weights, which have no examples along axis 0."""

    _of_weights, _takes_rows = True, False


class EmbeddingDropout(_OfWeights):
    """Drop whole words of an embedding table in training: `functional.embedding_dropout`.

    >>> embedding, drop = torch.nn.Embedding(10, 4), fastdrop.torch.EmbeddingDropout(0.1)
    >>> drop(embedding.weight, torch.tensor([3, 3, 7])).shape
    torch.Size([3, 4])
    """

    def forward(self, weight: Tensor, indices: Tensor | None = None) -> Any:
        """Return the table, or the rows of `indices`."""
        return self._call(embedding_dropout, weight, indices=indices, **self._options)


class DropConnect(_OfWeights):
    """Drop connections in training, one mask for all examples: `functional.drop_connect`.

    It is also a parametrization, which drops a weight of any module; see `drop_weights`.

    >>> layer = torch.nn.Linear(4, 2)
    >>> _ = torch.nn.utils.parametrize.register_parametrization(
    ...     layer, "weight", fastdrop.torch.DropConnect(0.5)
    ... )
    """

    def forward(self, weight: Tensor) -> Any:
        """Drop in training; return `weight` in evaluation."""
        return self._call(drop_connect, weight, **self._options)


class WeightDrop(_OfWeights):
    """Run a module with some of its weights dropped in training: `functional.weight_drop`.

    A call drops the parameters `weights` of `module` once, and passes its arguments on: a recurrent
    module uses the same connections at all time steps. The parameters stay where they are.
    `drop_weights` does the same without a wrapper.

    Parameters
    ----------
    module : Module
        Any module, such as `torch.nn.LSTM`.
    weights : str or sequence of str, default "weight_hh_l0"
        Names of parameters.
    p : float, default 0.5
        Probability to DROP a connection.
    mode : {"inverted", "standard"}, default "inverted"
        See `fastdrop.dropout`.

    Examples
    --------
    >>> rnn = fastdrop.torch.WeightDrop(torch.nn.LSTM(3, 4), "weight_hh_l0", p=0.5)
    >>> output, state = rnn(torch.ones(5, 2, 3))
    >>> output.shape
    torch.Size([5, 2, 4])
    """

    def __init__(
        self,
        module: nn.Module,
        weights: str | Sequence[str] = "weight_hh_l0",
        p: float = 0.5,
        *,
        mode: Mode = "inverted",
    ) -> None:
        super().__init__(p, mode=mode)
        self.weights = _parameter_names(module, weights)
        self.wrapped = module

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Call the module."""
        if not self.training and self.mode == "inverted":
            return self.wrapped(*inputs, **options)
        dropped = self._call(
            weight_drop,
            [self.wrapped.get_parameter(name) for name in self.weights],
            **self._options,
        )
        given = dict(zip(self.weights, dropped, strict=True))
        return functional_call(self.wrapped, given, inputs, options)

    def _first_arguments(self) -> list[str]:
        return [f"weights={self.weights}", *super()._first_arguments()]


def _parameter_names(module: nn.Module, names: str | Sequence[str]) -> tuple[str, ...]:
    """Return names of a module's parameters."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a Module, got {shown(module)}")
    several = (names,) if isinstance(names, str) else tuple(names)
    known = dict(module.named_parameters())
    for name in several:
        if name not in known:
            raise ValueError(f"weights must name parameters of module, {list(known)}, got {name!r}")
    return several


def drop_weights(module: Any, weights: str | Sequence[str] = "weight", p: float = 0.5) -> Any:
    """Drop weights of a module in training, in place, and return the module.

    Each of the parameters `weights` gets a `DropConnect` as a parametrization of
    `torch.nn.utils.parametrize`, whose functions list and remove it. The module draws a mask each
    time it reads the weight; a recurrent module reads it once per sequence.

    >>> rnn = fastdrop.torch.drop_weights(torch.nn.GRU(3, 4), ["weight_hh_l0"], p=0.5)
    >>> output, state = rnn(torch.ones(5, 2, 3))
    >>> rnn.parametrizations.weight_hh_l0[0]
    DropConnect(p=0.5)
    """
    for name in _parameter_names(module, weights):
        path, _, own = name.rpartition(".")
        owner = module.get_submodule(path)
        parametrize.register_parametrization(owner, own, DropConnect(p), unsafe=True)
        if isinstance(owner, nn.RNNBase):
            kind: Any = type(owner)  # made by `parametrize` for this module alone
            kind.forward = _with_flat_weights(kind.__bases__[0].forward)
            kind._init_flat_weights = _keep_originals
            kind._update_flat_weights = _keep_flat_weights
            owner._init_flat_weights()
    return module


def _with_flat_weights(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `forward` of a recurrent module, for the weights that it has when it is called."""

    def forward(self: Any, *inputs: Any, **options: Any) -> Any:
        self._flat_weights = [getattr(self, name, None) for name in self._flat_weights_names]
        try:
            return theirs(self, *inputs, **options)
        finally:
            self._init_flat_weights()

    return forward


def _keep_originals(self: Any) -> None:
    known = self.parametrizations
    self._flat_weights = [
        known[name].original if name in known else getattr(self, name, None)
        for name in self._flat_weights_names
    ]
    self._flat_weight_refs = [None if w is None else weakref.ref(w) for w in self._flat_weights]


def _keep_flat_weights(self: Any) -> None:
    """Do nothing, where torch looks whether the list is still that of its parameters."""
