"""Flax NNX modules.

>>> from flax import nnx
>>> import fastdrop.jax.nnx
>>> layer = fastdrop.jax.nnx.Dropout(0.5, rngs=nnx.Rngs(dropout=fastdrop.jax.key(0)))
>>> layer(np.ones(4, dtype=np.float32))
Array([2., 2., 0., 2.], dtype=float32)
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import fastdrop.jax
from fastdrop._family.concrete import logit_of
from fastdrop.jax._flax import dot_product_attention
from fastdrop.jax._modules import checked, options_of

try:
    from flax import nnx
    from jax import Array
    from jax import numpy as jnp
except ImportError as error:
    raise ImportError("fastdrop.jax.nnx needs flax, which is not installed") from error

__all__ = [
    "ActivationDropout",
    "AlphaDropout",
    "BiasDropoutAdd",
    "ConcreteDropout",
    "DropBlock1d",
    "DropBlock2d",
    "DropBlock3d",
    "DropConnect",
    "DropConnectLinear",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutAdd",
    "EmbeddingDropout",
    "FeatureAlphaDropout",
    "FeatureDropout",
    "GaussianDropout",
    "GeluDropout",
    "LockedDropout",
    "PatchDropout",
    "ReluDropout",
    "SiluDropout",
    "WeightDrop",
    "Zoneout",
    "dot_product_attention",
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
    """A member. Arguments after `rate` that its function takes as well are attributes.

    All others are as for `Dropout`; `broadcast_dims` is an argument where the function has it. A
    call takes what the function takes before `p`.
    """

    _function: ClassVar[Callable[..., Any]]
    _options: ClassVar[dict[str, inspect.Parameter]]

    def __init_subclass__(cls, of: Callable[..., Any] | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if of is not None:
            cls._function, cls._options = staticmethod(of), options_of(of)

    def __init__(
        self,
        rate: float,
        *positional: Any,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs
        )
        options = {**dict(zip(self._options, positional, strict=False)), **options}
        for name, value in checked(type(self), self._options, options).items():
            setattr(self, name, value)

    def __call__(self, *inputs: Any, deterministic: bool | None = None, rngs: Any = None) -> Any:
        """Return what the function returns."""
        options = {name: getattr(self, name) for name in self._options}
        return _called(self, type(self)._function, deterministic, rngs, inputs, options)


def _called(
    module: Any, function: Callable[..., Any], deterministic: bool | None, rngs: Any,
    inputs: tuple[Any, ...], options: dict[str, Any],
) -> Any:  # fmt: skip
    """Call a function with the probability and the key of a module."""
    deterministic = _is_deterministic(module, deterministic)
    draws = not deterministic and module.rate not in (0.0, 1.0)
    key = _key_of(module, rngs) if draws else None
    options = {"key": key, "deterministic": deterministic, **options}
    if "logit" not in options:
        options["p"] = module.rate
    return function(*inputs, **options)


class FeatureDropout(_Member, of=fastdrop.jax.feature_dropout):
    """Drop whole channels; see `fastdrop.jax.feature_dropout`."""


class Dropout1d(_Member, of=fastdrop.jax.dropout1d):
    """Drop whole channels of sequences; see `fastdrop.jax.dropout1d`."""


class Dropout2d(_Member, of=fastdrop.jax.dropout2d):
    """Drop whole channels of images; see `fastdrop.jax.dropout2d`."""


class Dropout3d(_Member, of=fastdrop.jax.dropout3d):
    """Drop whole channels of volumes; see `fastdrop.jax.dropout3d`."""


class LockedDropout(_Member, of=fastdrop.jax.locked_dropout):
    """Drop the same elements at all time steps; see `fastdrop.jax.locked_dropout`."""


class DropPath(_Member, of=fastdrop.jax.drop_path):
    """Drop whole samples; see `fastdrop.jax.drop_path`."""


class DropBlock1d(_Member, of=fastdrop.jax.drop_block1d):
    """Drop stretches of sequences; see `fastdrop.jax.drop_block1d`."""


class DropBlock2d(_Member, of=fastdrop.jax.drop_block2d):
    """Drop blocks of images; see `fastdrop.jax.drop_block2d`."""


class DropBlock3d(_Member, of=fastdrop.jax.drop_block3d):
    """Drop blocks of volumes; see `fastdrop.jax.drop_block3d`."""


class AlphaDropout(_Member, of=fastdrop.jax.alpha_dropout):
    """Set elements to SELU's lower limit; see `fastdrop.jax.alpha_dropout`."""


class FeatureAlphaDropout(_Member, of=fastdrop.jax.feature_alpha_dropout):
    """Set whole channels to SELU's lower limit; see `fastdrop.jax.feature_alpha_dropout`."""


class GaussianDropout(_Member, of=fastdrop.jax.gaussian_dropout):
    """Multiply by normal noise; see `fastdrop.jax.gaussian_dropout`."""


class DropoutAdd(_Member, of=fastdrop.jax.dropout_add):
    """Drop, and add another array; see `fastdrop.jax.dropout_add`."""


class BiasDropoutAdd(_Member, of=fastdrop.jax.bias_dropout_add):
    """Add a bias, drop, and add another array; see `fastdrop.jax.bias_dropout_add`."""


class ReluDropout(_Member, of=fastdrop.jax.relu_dropout):
    """Rectify and drop; see `fastdrop.jax.relu_dropout`."""


class GeluDropout(_Member, of=fastdrop.jax.gelu_dropout):
    """Apply the Gaussian error linear unit, and drop; see `fastdrop.jax.gelu_dropout`."""


class SiluDropout(_Member, of=fastdrop.jax.silu_dropout):
    """Apply the sigmoid-weighted linear unit, and drop; see `fastdrop.jax.silu_dropout`."""


class ActivationDropout(_Member, of=fastdrop.jax.activation_dropout):
    """Apply an activation, and drop; see `fastdrop.jax.activation_dropout`."""


class Zoneout(_Member, of=fastdrop.jax.zoneout):
    """Keep the previous state of some units; see `fastdrop.jax.zoneout`."""


class EmbeddingDropout(_Member, of=fastdrop.jax.embedding_dropout):
    """Drop whole words of a table; see `fastdrop.jax.embedding_dropout`."""


class DropConnect(_Member, of=fastdrop.jax.drop_connect):
    """Drop single weights; see `fastdrop.jax.drop_connect`."""


class WeightDrop(_Member, of=fastdrop.jax.weight_drop):
    """Drop connections of several recurrent weights; see `fastdrop.jax.weight_drop`."""


class PatchDropout(_Member, of=fastdrop.jax.patch_dropout):
    """Drop whole tokens, which shortens sequences; see `fastdrop.jax.patch_dropout`."""


class ConcreteDropout(nnx.Dropout):
    """Drop with a probability that is learned; the module of `fastdrop.jax.concrete_dropout`.

    ``logit``, an ``nnx.Param``, starts as that of ``rate``. Add `regularization` to the
    loss. Other parameters are as for `Dropout`.
    """

    def __init__(self, rate: float = 0.1, *, temperature: float = 0.1, **options: Any) -> None:
        super().__init__(rate, **options)
        self.temperature = temperature
        self.logit = nnx.Param(jnp.asarray(logit_of(rate), jnp.float32))

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Return what the function returns."""
        options = {"logit": self.logit[...], "temperature": self.temperature}
        function = fastdrop.jax.concrete_dropout
        y: Array = _called(self, function, deterministic, rngs, (inputs,), options)
        return y

    def regularization(self, weight: Any, inputs: int, **options: Any) -> Array:
        """Return `fastdrop.jax.concrete_regularization` of the layer after the dropout."""
        return fastdrop.jax.concrete_regularization(weight, self.logit[...], inputs, **options)


class DropConnectLinear(nnx.Linear):
    """Map linearly, with connections dropped; the module of `fastdrop.jax.drop_connect_linear`.

    Parameters after `rate` are those of `Dropout` and of ``nnx.Linear``; ``kernel`` has the shape
    (in_features, out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rate: float = 0.5,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: Any,
        **options: Any,
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs, **options)
        self.drop = Dropout(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs
        )

    def __call__(
        self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None
    ) -> Array:
        """Map inputs of shape (..., in_features)."""
        bias = None if self.bias is None else self.bias[...]
        arrays = inputs, self.kernel[...].T, bias
        function = fastdrop.jax.drop_connect_linear
        y: Array = _called(self.drop, function, deterministic, rngs, arrays, {})
        return y
