"""Flax NNX modules.

>>> from flax import nnx
>>> import fastdrop.jax.nnx
>>> layer = fastdrop.jax.nnx.Dropout(0.5, rngs=nnx.Rngs(dropout=fastdrop.jax.key(0)))
>>> layer(np.ones(4, dtype=np.float32))
Array([2., 2., 0., 2.], dtype=float32)
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import fastdrop.jax
from fastdrop._base.members import Per
from fastdrop._family.fused import Approximate

try:
    from flax import nnx
    from jax import Array
    from jax import numpy as jnp
except ImportError as error:
    raise ImportError("fastdrop.jax.nnx needs flax, which is not installed") from error

__all__ = [
    "AlphaDropout",
    "DropConnect",
    "DropPath",
    "Dropout",
    "DropoutAdd",
    "EmbeddingDropout",
    "FeatureDropout",
    "GaussianDropout",
    "GeluDropout",
    "LockedDropout",
    "ReluDropout",
    "Zoneout",
]


def _key_of(module: Any, rngs: Any) -> Array:
    """Return the key of a call, from its own argument or from the module."""
    rngs = nnx.module.first_from(
        rngs,
        module.rngs,
        error_msg=(
            f"`deterministic` is False, but no `rngs` argument was provided to "
            f"{type(module).__name__} or to its call"
        ),
    )
    key: Array
    if isinstance(rngs, nnx.Rngs):
        key = rngs[module.rng_collection]()
    elif isinstance(rngs, nnx.RngStream):
        key = rngs()
    elif isinstance(rngs, Array):
        key = rngs
    else:
        raise TypeError(f"rngs must be Rngs, an RngStream or a JAX key, got {type(rngs).__name__}")
    return key


def _is_deterministic(module: Any, deterministic: bool | None) -> bool:
    given: bool = nnx.module.first_from(
        deterministic,
        module.deterministic,
        error_msg=(
            f"No `deterministic` argument was provided to {type(module).__name__} or to its call"
        ),
    )
    return given


class Dropout(nnx.Dropout):
    """Flax's ``nnx.Dropout`` with the masks of `fastdrop.jax.dropout`, and otherwise the same.

    With a stream of keys from `fastdrop.jax.key`, successive calls draw the masks of
    ``fastdrop.Dropout(rate, rng=root)``. Here `root` is the key of the module's own stream, which
    Flax derives with ``fold_in``.

    Parameters
    ----------
    rate : float
        Probability to DROP an element, in [0, 1].
    broadcast_dims, deterministic, rng_collection, rngs
        See ``nnx.Dropout``.
    """

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Apply dropout, as ``nnx.Dropout`` does."""
        deterministic = _is_deterministic(self, deterministic)
        if self.rate == 0.0 or deterministic:
            return inputs
        if self.rate == 1.0:
            return jnp.zeros_like(inputs)
        key = _key_of(self, rngs)
        return fastdrop.jax.dropout(inputs, self.rate, key=key, broadcast_dims=self.broadcast_dims)


class _Member(nnx.Dropout):
    """A member, whose options are attributes."""

    _function: ClassVar[Callable[..., Array]]
    _options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        rate: float,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: Any = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs
        )

    def _call(self, inputs: tuple[Any, ...], deterministic: bool | None, rngs: Any) -> Array:
        deterministic = _is_deterministic(self, deterministic)
        draws = not deterministic and self.rate not in (0.0, 1.0)
        key = _key_of(self, rngs) if draws else None
        options = {name: getattr(self, name) for name in self._options}
        function = type(self)._function
        return function(*inputs, self.rate, key=key, deterministic=deterministic, **options)


class FeatureDropout(_Member):
    """Drop whole channels; the module of `fastdrop.jax.feature_dropout`.

    ``channel_axis`` is as for the function, and other parameters as for `Dropout`.
    """

    _function = staticmethod(fastdrop.jax.feature_dropout)
    _options = ("channel_axis",)

    def __init__(
        self,
        rate: float,
        *,
        channel_axis: int = 1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: Any = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs
        )
        self.channel_axis = channel_axis

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call((inputs,), deterministic, rngs)


class LockedDropout(_Member):
    """Drop the same elements at all time steps; the module of `fastdrop.jax.locked_dropout`.

    ``time_axis`` is as for the function, and other parameters as for `Dropout`.
    """

    _function = staticmethod(fastdrop.jax.locked_dropout)
    _options = ("time_axis",)

    def __init__(
        self,
        rate: float,
        *,
        time_axis: int = 0,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: Any = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs
        )
        self.time_axis = time_axis

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call((inputs,), deterministic, rngs)


class DropPath(_Member):
    """Drop whole samples; the module of `fastdrop.jax.drop_path`.

    ``per``, ``scale_by_keep`` and ``batch_axis`` are as for the function, and other parameters as
    for `Dropout`.
    """

    _function = staticmethod(fastdrop.jax.drop_path)
    _options = ("per", "scale_by_keep", "batch_axis")

    def __init__(
        self,
        rate: float,
        *,
        per: Per = "sample",
        scale_by_keep: bool = True,
        batch_axis: int = 0,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: Any = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs
        )
        self.per = per
        self.scale_by_keep = scale_by_keep
        self.batch_axis = batch_axis

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call((inputs,), deterministic, rngs)


class AlphaDropout(_Member):
    """Set elements to SELU's lower limit; the module of `fastdrop.jax.alpha_dropout`.

    ``broadcast_dims`` is as for the function, and other parameters as for `Dropout`.
    """

    _function = staticmethod(fastdrop.jax.alpha_dropout)
    _options = ("broadcast_dims",)

    def __init__(
        self,
        rate: float,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: Any = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs
        )
        self.broadcast_dims = broadcast_dims

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call((inputs,), deterministic, rngs)


class GaussianDropout(_Member):
    """Multiply by normal noise; the module of `fastdrop.jax.gaussian_dropout`.

    ``broadcast_dims`` is as for the function, and other parameters as for `Dropout`.
    """

    _function = staticmethod(fastdrop.jax.gaussian_dropout)
    _options = ("broadcast_dims",)

    def __init__(
        self,
        rate: float,
        *,
        broadcast_dims: Sequence[int] = (),
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: Any = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs
        )
        self.broadcast_dims = broadcast_dims

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call((inputs,), deterministic, rngs)


class DropoutAdd(_Member):
    """Drop, and add another array; the module of `fastdrop.jax.dropout_add`.

    The parameters are those of `Dropout` without ``broadcast_dims``.
    """

    _function = staticmethod(fastdrop.jax.dropout_add)

    def __call__(
        self, x: Any, residual: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call(
            (
                x,
                residual,
            ),
            deterministic,
            rngs,
        )


class ReluDropout(_Member):
    """Rectify and drop; the module of `fastdrop.jax.relu_dropout`.

    The parameters are those of `Dropout` without ``broadcast_dims``.
    """

    _function = staticmethod(fastdrop.jax.relu_dropout)

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call((inputs,), deterministic, rngs)


class GeluDropout(_Member):
    """Apply the Gaussian error linear unit, and drop; the module of `fastdrop.jax.gelu_dropout`.

    ``approximate`` is as for the function, and other parameters as for `Dropout`.
    """

    _function = staticmethod(fastdrop.jax.gelu_dropout)
    _options = ("approximate",)

    def __init__(
        self,
        rate: float,
        *,
        approximate: Approximate = "none",
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: Any = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs
        )
        self.approximate = approximate

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call((inputs,), deterministic, rngs)


class Zoneout(_Member):
    """Keep the previous state of some units; the module of `fastdrop.jax.zoneout`.

    The parameters are those of `Dropout` without ``broadcast_dims``.
    """

    _function = staticmethod(fastdrop.jax.zoneout)

    def __call__(
        self, new: Any, previous: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call(
            (
                new,
                previous,
            ),
            deterministic,
            rngs,
        )


class EmbeddingDropout(_Member):
    """Drop whole words of a table; the module of `fastdrop.jax.embedding_dropout`.

    The parameters are those of `Dropout` without ``broadcast_dims``.
    """

    _function = staticmethod(fastdrop.jax.embedding_dropout)

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call((inputs,), deterministic, rngs)


class DropConnect(_Member):
    """Drop single weights; the module of `fastdrop.jax.drop_connect`.

    The parameters are those of `Dropout` without ``broadcast_dims``.
    """

    _function = staticmethod(fastdrop.jax.drop_connect)

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call((inputs,), deterministic, rngs)
