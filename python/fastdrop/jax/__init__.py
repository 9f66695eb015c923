"""The family in JAX on CPUs: in compiled, differentiated, batched and sharded functions.

>>> import jax
>>> import fastdrop.jax
>>> x = jax.numpy.ones((2, 4))
>>> fastdrop.jax.dropout(x, 0.5, key=fd.Key(0))
Array([[2., 2., 2., 0.],
       [2., 0., 2., 0.]], dtype=float32)

A `fastdrop.Key` gives the mask that NumPy's functions draw with it; `key` turns it into a JAX key
for compiled functions. Any other JAX key works as well. Masks are not kept for the gradient.

`fastdrop.jax.nnx` and `fastdrop.jax.linen` have modules for Flax, and `fastdrop.jax.equinox` for
Equinox.
"""

from typing import Any

import fastdrop as fd

try:
    import jax
    from jax import Array
except ImportError as error:
    raise ImportError("fastdrop.jax needs jax, which is not installed") from error

if jax.__version_info__ < (0, 9):  # their XLA asks handlers for metadata in another way
    raise ImportError(f"fastdrop.jax needs jax 0.9 or newer, got {jax.__version__}")

from fastdrop.jax._attention import dot_product_attention
from fastdrop.jax._blocks import drop_block1d, drop_block2d, drop_block3d
from fastdrop.jax._combined import (
    activation_dropout,
    alpha_dropout,
    bias_dropout_add,
    dropout_add,
    feature_alpha_dropout,
    gelu_dropout,
    relu_dropout,
    silu_dropout,
    zoneout,
)
from fastdrop.jax._connect import drop_connect_linear
from fastdrop.jax._elements import (
    drop_path,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_dropout,
    gaussian_dropout,
    locked_dropout,
)
from fastdrop.jax._keys import restored, words_of
from fastdrop.jax._patches import patch_dropout
from fastdrop.jax._relaxed import concrete_dropout, concrete_regularization
from fastdrop.jax._weights import drop_connect, embedding_dropout, weight_drop

__all__ = [
    "activation_dropout",
    "alpha_dropout",
    "bias_dropout_add",
    "concrete_dropout",
    "concrete_regularization",
    "dot_product_attention",
    "drop_block1d",
    "drop_block2d",
    "drop_block3d",
    "drop_connect",
    "drop_connect_linear",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "embedding_dropout",
    "feature_alpha_dropout",
    "feature_dropout",
    "gaussian_dropout",
    "gelu_dropout",
    "key",
    "locked_dropout",
    "patch_dropout",
    "relu_dropout",
    "silu_dropout",
    "weight_drop",
    "zoneout",
]


def key(rng: Any = None) -> Array:
    """Return a JAX key with the bits of a `fastdrop.Key`, for compiled functions and Flax.

    `rng` is a `Key`, or anything that `Key` takes. ``jax.random.fold_in`` and ``split`` give the
    same children as `Key.fold_in` and `Key.split`, so a model draws the same masks as in NumPy.
    Other functions of ``jax.random`` draw from blocks that no mask uses.

    >>> k = fastdrop.jax.key(0)
    >>> k
    Array((), dtype=key<fastdrop>) overlaying:
    [3653403231 2735729615 2195314465 1158725112]
    >>> child = jax.random.key_data(jax.random.fold_in(k, 3))
    >>> fd.Key.from_bytes(np.asarray(child).tobytes()) == fd.Key(0).fold_in(3)
    True
    """
    made = rng if isinstance(rng, fd.Key) else fd.Key(rng)
    return restored(words_of(made))
