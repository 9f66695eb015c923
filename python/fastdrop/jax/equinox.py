"""Equinox modules.

>>> import equinox as eqx
>>> import fastdrop.jax.equinox
>>> model = eqx.nn.Sequential([eqx.nn.Lambda(jax.numpy.abs), fastdrop.jax.equinox.Dropout(0.5)])
>>> y = model(jax.numpy.ones(4), key=fastdrop.jax.key(0))
>>> bool((eqx.nn.inference_mode(model)(y) == y).all())
True

As in Equinox, a call takes one example, without a batch: give ``jax.vmap`` a key for each.
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import fastdrop.jax
from fastdrop._base.arguments import Axes
from fastdrop._family.concrete import logit_of
from fastdrop.jax._modules import NO_DEFAULT, options_of

try:
    import equinox as eqx
    import jax
    from jax import Array
    from jax import numpy as jnp
except ImportError as error:
    raise ImportError("fastdrop.jax.equinox needs equinox, which is not installed") from error

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
]


class Dropout(eqx.nn.Dropout):
    """Equinox's ``eqx.nn.Dropout`` with the masks of `fastdrop.jax.dropout`.

    ``p`` and ``inference`` are as there, and ``broadcast_dims`` as for the function.
    """

    broadcast_dims: Axes = eqx.field(static=True)

    def __init__(self, p: Any = 0.5, inference: bool = False, *, broadcast_dims: Axes = ()) -> None:
        super().__init__(p, inference)
        self.broadcast_dims = broadcast_dims

    def __call__(self, x: Any, *, key: Any = None, inference: bool | None = None) -> Array:
        """Return what the function returns."""
        options = {"broadcast_dims": self.broadcast_dims}
        y: Array = _called(self, fastdrop.jax.dropout, key, inference, (x,), options)
        return y


class _Member(eqx.Module):
    """A member. Parameters of its function after `p` are attributes.

    Others are as for `Dropout`. A call takes what the function takes before `p`, and keywords.
    """

    p: Any = 0.5
    inference: bool = False

    _function: ClassVar[Callable[..., Any]]
    _options: ClassVar[dict[str, inspect.Parameter]] = {}
    _of_batches: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, of: Callable[..., Any] | None = None, **options: Any) -> None:
        if of is not None:
            stored = {n: one for n, one in options_of(of).items() if n not in cls._of_batches}
            cls._function, cls._options = staticmethod(of), stored
            cls.__annotations__ = dict.fromkeys(stored, Any)
            for name, option in stored.items():
                # Fields after one with a default need one.
                default = None if option.default is NO_DEFAULT else option.default
                setattr(cls, name, eqx.field(static=True, default=default))
        super().__init_subclass__(**options)

    def __call__(self, *inputs: Any, key: Any = None, inference: bool | None = None) -> Any:
        """Return what the function returns."""
        options = {name: getattr(self, name) for name in self._options}
        return _called(self, type(self)._function, key, inference, inputs, options)


def _called(
    module: Any, function: Callable[..., Any], key: Any, inference: bool | None,
    inputs: tuple[Any, ...], options: dict[str, Any],
) -> Any:  # fmt: skip
    """Call a function with the probability of a module."""
    deterministic = module.inference if inference is None else inference
    if "logit" not in options:
        options = {"p": module.p, **options}
    return function(*inputs, key=key, deterministic=deterministic, **options)


class _OfExample(_Member):
    """A member whose function takes batches. Channels, tokens or whole examples are axis 0."""

    _of_batches: ClassVar[tuple[str, ...]] = ("channel_axis", "batch_axis", "per")

    def __call__(self, *inputs: Any, key: Any = None, inference: bool | None = None) -> Any:
        """Return what the function returns."""
        batches = [jnp.asarray(x)[None] for x in inputs]
        y = super().__call__(*batches, key=key, inference=inference)
        return jax.tree.map(lambda y: y[0], y)


class FeatureDropout(_OfExample, of=fastdrop.jax.feature_dropout):
    """Drop whole channels; see `fastdrop.jax.feature_dropout`."""


class Dropout1d(_OfExample, of=fastdrop.jax.dropout1d):
    """Drop whole channels of sequences; see `fastdrop.jax.dropout1d`."""


class Dropout2d(_OfExample, of=fastdrop.jax.dropout2d):
    """Drop whole channels of images; see `fastdrop.jax.dropout2d`."""


class Dropout3d(_OfExample, of=fastdrop.jax.dropout3d):
    """Drop whole channels of volumes; see `fastdrop.jax.dropout3d`."""


class LockedDropout(_Member, of=fastdrop.jax.locked_dropout):
    """Drop the same elements at all time steps; see `fastdrop.jax.locked_dropout`."""


class DropPath(_OfExample, of=fastdrop.jax.drop_path):
    """Drop whole samples; see `fastdrop.jax.drop_path`."""


class DropBlock1d(_OfExample, of=fastdrop.jax.drop_block1d):
    """Drop stretches of sequences; see `fastdrop.jax.drop_block1d`."""


class DropBlock2d(_OfExample, of=fastdrop.jax.drop_block2d):
    """Drop blocks of images; see `fastdrop.jax.drop_block2d`."""


class DropBlock3d(_OfExample, of=fastdrop.jax.drop_block3d):
    """Drop blocks of volumes; see `fastdrop.jax.drop_block3d`."""


class AlphaDropout(_Member, of=fastdrop.jax.alpha_dropout):
    """Set elements to SELU's lower limit; see `fastdrop.jax.alpha_dropout`."""


class FeatureAlphaDropout(_OfExample, of=fastdrop.jax.feature_alpha_dropout):
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


class PatchDropout(_OfExample, of=fastdrop.jax.patch_dropout):
    """Drop whole tokens, which shortens sequences; see `fastdrop.jax.patch_dropout`."""


class ConcreteDropout(eqx.Module):
    """Drop with a probability that is learned; the module of `fastdrop.jax.concrete_dropout`.

    ``logit`` is in the beginning that of ``p``. Other parameters are as for `Dropout`. For the
    loss, see `fastdrop.jax.concrete_regularization`.
    """

    logit: Array
    temperature: float = eqx.field(static=True)
    inference: bool

    def __init__(
        self, p: float = 0.1, inference: bool = False, *, temperature: float = 0.1
    ) -> None:
        self.logit = jnp.asarray(logit_of(p), jnp.float32)
        self.temperature = temperature
        self.inference = inference

    def __call__(self, x: Any, *, key: Any = None, inference: bool | None = None) -> Array:
        """Return what the function returns."""
        options = {"logit": self.logit, "temperature": self.temperature}
        y: Array = _called(self, fastdrop.jax.concrete_dropout, key, inference, (x,), options)
        return y


class DropConnectLinear(eqx.nn.Linear):
    """Map linearly, with connections dropped; the module of `fastdrop.jax.drop_connect_linear`.

    ``p`` and ``inference`` are as for `Dropout`, other parameters as for ``eqx.nn.Linear``.
    """

    p: Any
    inference: bool

    def __init__(
        self, in_features: int, out_features: int, p: Any = 0.5, inference: bool = False,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, **options)
        self.p = p
        self.inference = inference

    def __call__(self, x: Any, *, key: Any = None, inference: bool | None = None) -> Array:
        """Map an example of shape (in_features,)."""
        function = fastdrop.jax.drop_connect_linear
        y: Array = _called(self, function, key, inference, (x, self.weight, self.bias), {})
        return y
