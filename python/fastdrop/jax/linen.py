"""Flax Linen modules.

>>> import fastdrop.jax.linen
>>> layer = fastdrop.jax.linen.Dropout(0.5, deterministic=False)
>>> y = layer.apply({}, np.ones(4, dtype=np.float32), rngs={"dropout": fastdrop.jax.key(0)})
>>> y.shape
(4,)
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import fastdrop.jax
from fastdrop._family.concrete import logit_of
from fastdrop.jax._flax import dot_product_attention
from fastdrop.jax._modules import NO_DEFAULT, options_of

try:
    from flax import linen
    from jax import Array
    from jax import numpy as jnp
except ImportError as error:
    raise ImportError("fastdrop.jax.linen needs flax, which is not installed") from error

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
    """A member. Parameters of its function after `p` are attributes.

    Others are as for `Dropout`. A call takes what the function takes before `p`, and keywords.
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    _function: ClassVar[Callable[..., Any]]
    _options: ClassVar[dict[str, inspect.Parameter]]

    def __init_subclass__(cls, of: Callable[..., Any] | None = None, **options: Any) -> None:
        if of is not None:
            cls._function, cls._options = staticmethod(of), options_of(of)
            cls.__annotations__ = dict.fromkeys(cls._options, Any)
            for name, option in cls._options.items():
                # Fields after one with a default need one.
                setattr(cls, name, None if option.default is NO_DEFAULT else option.default)
        super().__init_subclass__(**options)

    @linen.compact
    def __call__(self, *inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Any:
        """Return what the function returns."""
        options = {name: getattr(self, name) for name in self._options}
        return _called(self, type(self)._function, deterministic, rng, inputs, options)


def _called(
    module: Any, function: Callable[..., Any], deterministic: bool | None, rng: Any,
    inputs: tuple[Any, ...], options: dict[str, Any],
) -> Any:  # fmt: skip
    """Call a function with the probability and the key of a module."""
    fixed = linen.merge_param("deterministic", module.deterministic, deterministic)
    if rng is None and not fixed and module.rate not in (0.0, 1.0):
        rng = module.make_rng(module.rng_collection)
    if "logit" not in options:
        options = {"p": module.rate, **options}
    return function(*inputs, key=rng, deterministic=fixed, **options)


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


class ConcreteDropout(linen.Module):
    """Drop with a probability that is learned; the module of `fastdrop.jax.concrete_dropout`.

    The parameter "logit" starts as that of ``rate``. Others are as for `Dropout`. For the
    loss, see `fastdrop.jax.concrete_regularization`.
    """

    rate: float = 0.1
    temperature: float = 0.1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Return what the function returns."""
        logit = self.param("logit", lambda key: jnp.asarray(logit_of(self.rate), jnp.float32))
        options = {"logit": logit, "temperature": self.temperature}
        function = fastdrop.jax.concrete_dropout
        y: Array = _called(self, function, deterministic, rng, (inputs,), options)
        return y


class DropConnectLinear(linen.Module):
    """Map linearly, with connections dropped; the module of `fastdrop.jax.drop_connect_linear`.

    The parameters "kernel", of shape (inputs, features), and "bias", and the options ``use_bias``,
    ``kernel_init`` and ``bias_init`` are those of ``linen.Dense``. Others are as for `Dropout`.
    """

    features: int
    rate: float = 0.5
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    use_bias: bool = True
    kernel_init: Any = linen.initializers.lecun_normal()
    bias_init: Any = linen.initializers.zeros_init()

    @linen.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Array:
        """Map inputs of shape (..., inputs)."""
        kernel = self.param("kernel", self.kernel_init, (jnp.shape(inputs)[-1], self.features))
        bias = self.param("bias", self.bias_init, (self.features,)) if self.use_bias else None
        function = fastdrop.jax.drop_connect_linear
        y: Array = _called(self, function, deterministic, rng, (inputs, kernel.T, bias), {})
        return y
