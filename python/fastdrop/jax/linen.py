"""Flax Linen modules.

>>> import fastdrop.jax.linen
>>> layer = fastdrop.jax.linen.Dropout(0.5, deterministic=False)
>>> y = layer.apply({}, np.ones(4, dtype=np.float32), rngs={"dropout": fastdrop.jax.key(0)})
>>> y.shape
(4,)
"""

from collections.abc import Callable, Sequence
from typing import Any

import fastdrop.jax
from fastdrop._base.members import Per
from fastdrop._family.fused import Approximate

try:
    from flax import linen
    from jax import Array
    from jax import numpy as jnp
except ImportError as error:
    raise ImportError("fastdrop.jax.linen needs flax, which is not installed") from error

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


class Dropout(linen.Dropout):
    """Flax's ``linen.Dropout`` with the masks of `fastdrop.jax.dropout`, and otherwise the same.

    Parameters
    ----------
    rate : float
        Probability to DROP an element, in [0, 1].
    broadcast_dims, deterministic, rng_collection
        See ``linen.Dropout``.
    """

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Apply dropout, as ``linen.Dropout`` does."""
        deterministic = linen.merge_param("deterministic", self.deterministic, deterministic)
        if self.rate == 0.0 or deterministic:
            return inputs
        if self.rate == 1.0:
            return jnp.zeros_like(inputs)
        if rng is None:
            rng = self.make_rng(self.rng_collection)
        return fastdrop.jax.dropout(inputs, self.rate, key=rng, broadcast_dims=self.broadcast_dims)


class _Member(linen.Module):
    """A member, whose options are attributes."""

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def _call(
        self, function: Callable[..., Array], inputs: tuple[Any, ...], deterministic: bool | None,
        rng: Any, **options: Any,
    ) -> Array:  # fmt: skip
        fixed = linen.merge_param("deterministic", self.deterministic, deterministic)
        if rng is None and not fixed and self.rate not in (0.0, 1.0):
            rng = self.make_rng(self.rng_collection)
        return function(*inputs, self.rate, key=rng, deterministic=fixed, **options)


class AlphaDropout(_Member):
    """Set elements to SELU's lower limit; the module of `fastdrop.jax.alpha_dropout`.

    ``broadcast_dims`` is as for the function, and other parameters as for `Dropout`.
    """

    broadcast_dims: Sequence[int] = ()

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Return what the function returns."""
        return self._call(
            fastdrop.jax.alpha_dropout,
            (inputs,),
            deterministic,
            rng,
            broadcast_dims=self.broadcast_dims,
        )


class DropConnect(_Member):
    """Drop single weights; the module of `fastdrop.jax.drop_connect`.

    The parameters are those of `Dropout` without ``broadcast_dims``.
    """

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Return what the function returns."""
        return self._call(fastdrop.jax.drop_connect, (inputs,), deterministic, rng)


class DropPath(_Member):
    """Drop whole samples; the module of `fastdrop.jax.drop_path`.

    ``per``, ``scale_by_keep`` and ``batch_axis`` are as for the function, and other parameters as
    for `Dropout`.
    """

    per: Per = "sample"
    scale_by_keep: bool = True
    batch_axis: int = 0

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Return what the function returns."""
        return self._call(
            fastdrop.jax.drop_path,
            (inputs,),
            deterministic,
            rng,
            per=self.per,
            scale_by_keep=self.scale_by_keep,
            batch_axis=self.batch_axis,
        )


class DropoutAdd(_Member):
    """Drop, and add another array; the module of `fastdrop.jax.dropout_add`.

    The parameters are those of `Dropout` without ``broadcast_dims``.
    """

    @linen.compact
    def __call__(
        self, x: Any, residual: Any, deterministic: bool | None = None, rng: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call(
            fastdrop.jax.dropout_add,
            (
                x,
                residual,
            ),
            deterministic,
            rng,
        )


class EmbeddingDropout(_Member):
    """Drop whole words of a table; the module of `fastdrop.jax.embedding_dropout`.

    The parameters are those of `Dropout` without ``broadcast_dims``.
    """

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Return what the function returns."""
        return self._call(fastdrop.jax.embedding_dropout, (inputs,), deterministic, rng)


class FeatureDropout(_Member):
    """Drop whole channels; the module of `fastdrop.jax.feature_dropout`.

    ``channel_axis`` is as for the function, and other parameters as for `Dropout`.
    """

    channel_axis: int = 1

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Return what the function returns."""
        return self._call(
            fastdrop.jax.feature_dropout,
            (inputs,),
            deterministic,
            rng,
            channel_axis=self.channel_axis,
        )


class GaussianDropout(_Member):
    """Multiply by normal noise; the module of `fastdrop.jax.gaussian_dropout`.

    ``broadcast_dims`` is as for the function, and other parameters as for `Dropout`.
    """

    broadcast_dims: Sequence[int] = ()

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Return what the function returns."""
        return self._call(
            fastdrop.jax.gaussian_dropout,
            (inputs,),
            deterministic,
            rng,
            broadcast_dims=self.broadcast_dims,
        )


class GeluDropout(_Member):
    """Apply the Gaussian error linear unit, and drop; the module of `fastdrop.jax.gelu_dropout`.

    ``approximate`` is as for the function, and other parameters as for `Dropout`.
    """

    approximate: Approximate = "none"

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Return what the function returns."""
        return self._call(
            fastdrop.jax.gelu_dropout, (inputs,), deterministic, rng, approximate=self.approximate
        )


class LockedDropout(_Member):
    """Drop the same elements at all time steps; the module of `fastdrop.jax.locked_dropout`.

    ``time_axis`` is as for the function, and other parameters as for `Dropout`.
    """

    time_axis: int = 0

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Return what the function returns."""
        return self._call(
            fastdrop.jax.locked_dropout, (inputs,), deterministic, rng, time_axis=self.time_axis
        )


class ReluDropout(_Member):
    """Rectify and drop; the module of `fastdrop.jax.relu_dropout`.

    The parameters are those of `Dropout` without ``broadcast_dims``.
    """

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Return what the function returns."""
        return self._call(fastdrop.jax.relu_dropout, (inputs,), deterministic, rng)


class Zoneout(_Member):
    """Keep the previous state of some units; the module of `fastdrop.jax.zoneout`.

    The parameters are those of `Dropout` without ``broadcast_dims``.
    """

    @linen.compact
    def __call__(
        self, new: Any, previous: Any, deterministic: bool | None = None, rng: Any = None
    ) -> Array:
        """Return what the function returns."""
        return self._call(
            fastdrop.jax.zoneout,
            (
                new,
                previous,
            ),
            deterministic,
            rng,
        )
