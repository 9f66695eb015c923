"""Flax Linen modules.

>>> import fastdrop.jax.linen
>>> layer = fastdrop.jax.linen.Dropout(0.5, deterministic=False)
>>> y = layer.apply({}, np.ones(4, dtype=np.float32), rngs={"dropout": fastdrop.jax.key(0)})
>>> y.shape
(4,)
"""

from typing import Any

import fastdrop.jax

try:
    from flax import linen
    from jax import Array
    from jax import numpy as jnp
except ImportError as error:
    raise ImportError("fastdrop.jax.linen needs flax, which is not installed") from error

__all__ = ["Dropout"]


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
