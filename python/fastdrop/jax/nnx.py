"""Flax NNX modules.

>>> from flax import nnx
>>> import fastdrop.jax.nnx
>>> layer = fastdrop.jax.nnx.Dropout(0.5, rngs=nnx.Rngs(dropout=fastdrop.jax.key(0)))
>>> layer(np.ones(4, dtype=np.float32))
Array([2., 2., 0., 2.], dtype=float32)
"""

from typing import Any

import fastdrop.jax

try:
    from flax import nnx
    from jax import Array
    from jax import numpy as jnp
except ImportError as error:
    raise ImportError("fastdrop.jax.nnx needs flax, which is not installed") from error

__all__ = ["Dropout"]


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
        deterministic = nnx.module.first_from(
            deterministic,
            self.deterministic,
            error_msg="No `deterministic` argument was provided to Dropout or to its call",
        )
        if self.rate == 0.0 or deterministic:
            return inputs
        if self.rate == 1.0:
            return jnp.zeros_like(inputs)
        rngs = nnx.module.first_from(
            rngs,
            self.rngs,
            error_msg=(
                "`deterministic` is False, but no `rngs` argument was provided to Dropout "
                "or to its call"
            ),
        )
        if isinstance(rngs, nnx.Rngs):
            key = rngs[self.rng_collection]()
        elif isinstance(rngs, nnx.RngStream):
            key = rngs()
        elif isinstance(rngs, Array):
            key = rngs
        else:
            raise TypeError(
                f"rngs must be Rngs, an RngStream or a JAX key, got {type(rngs).__name__}"
            )
        return fastdrop.jax.dropout(inputs, self.rate, key=key, broadcast_dims=self.broadcast_dims)
