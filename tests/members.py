"""The family as a table: what the conformance suite runs on. A new member is one row.

A row says how its layer is made and called, and how its function does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import fastdrop as fd
import numpy as np
import pytest

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Member:
    """A layer, its function, and shapes of the inputs that both take."""

    layer: type[Any]
    function: Callable[..., Any]
    shapes: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[Any, ...] = ()
    """Arguments of the layer before p."""

    def make(self, p: float = 0.4, rng: Any = 0, **more: Any) -> Any:
        """Return the layer."""
        return self.layer(*self.arguments, p=p, rng=rng, **self.options, **more)

    def inputs(self, seed: int = 0) -> Inputs:
        """Return arrays for a call; where a shape is a list, a list of arrays."""
        rng = np.random.default_rng(seed)

        def array(shape: Any) -> Any:
            if isinstance(shape, list):
                return [array(one) for one in shape]
            return rng.standard_normal(shape).astype(np.float32)

        return tuple(array(shape) for shape in self.shapes)

    def call(
        self, layer: Any, inputs: Inputs, p: float = 0.4, *, function: Any = None, **more: Any
    ) -> Any:
        """Call the function, or another library's, as `layer` would do it."""
        options = dict(self.options)
        if "mask" in more:
            options.pop("broadcast_dims", None)
        if self.layer is fd.DropConnectLinear:
            inputs = (*inputs, layer.weight, layer.bias)
        if self.layer is fd.ConcreteDropout:
            more = more if "logit" in more else {**more, "logit": fd.ConcreteDropout(p).logit}
        else:
            options["p"] = p
        return (function or self.function)(*inputs, **options, **more)


IMAGES = (3, 5, 4, 6)
ROWS = [
    Member(fd.Dropout, fd.dropout, ((3, 50),)),
    Member(fd.Dropout, fd.dropout, ((3, 50),), {"mode": "standard", "broadcast_dims": (0,)}),
    Member(fd.FeatureDropout, fd.feature_dropout, ((9, 7),)),
    Member(fd.Dropout1d, fd.dropout1d, ((3, 5, 7),)),
    Member(fd.Dropout1d, fd.dropout1d, ((3, 5, 7),), {"channel_axis": -1}),
    Member(fd.Dropout2d, fd.dropout2d, (IMAGES,)),
    Member(fd.Dropout2d, fd.dropout2d, (IMAGES,), {"channel_axis": 3, "mode": "standard"}),
    Member(fd.Dropout3d, fd.dropout3d, ((2, 3, 2, 4, 3),)),
    Member(fd.LockedDropout, fd.locked_dropout, ((6, 4, 9),)),
    Member(fd.LockedDropout, fd.locked_dropout, ((6, 4, 9),), {"time_axis": 1}),
    Member(fd.DropPath, fd.drop_path, ((3, 40, 2),), {"batch_axis": 1}),
    Member(fd.DropPath, fd.drop_path, ((4, 3, 2),), {"per": "batch"}),
    Member(fd.DropPath, fd.drop_path, ((40, 3, 2),), {"scale_by_keep": False}),
    Member(fd.EmbeddingDropout, fd.embedding_dropout, ((60, 5),)),
    Member(fd.DropConnect, fd.drop_connect, ((20, 11),)),
    Member(fd.WeightDrop, fd.weight_drop, ([(5, 6), (7,)],)),
    Member(fd.AlphaDropout, fd.alpha_dropout, ((3, 50),), {"broadcast_dims": 0}),
    Member(fd.FeatureAlphaDropout, fd.feature_alpha_dropout, (IMAGES,), {"channel_axis": -1}),
    Member(fd.FeatureAlphaDropout, fd.feature_alpha_dropout, (IMAGES,)),
    Member(fd.GaussianDropout, fd.gaussian_dropout, (IMAGES,), {"broadcast_dims": (2, 3)}),
    Member(fd.GaussianDropout, fd.gaussian_dropout, ((3, 50),)),
    Member(fd.DropBlock1d, fd.drop_block1d, ((3, 2, 30),), {"block_size": 3}),
    Member(fd.DropBlock2d, fd.drop_block2d, (IMAGES,), {"block_size": 2, "scale_by_keep": False}),
    Member(fd.DropBlock3d, fd.drop_block3d, ((2, 3, 4, 4, 4),), {"block_size": 2, "shared": True}),
    Member(fd.DropBlock3d, fd.drop_block3d, ((2, 3, 4, 4, 4),), {"block_size": (1, 2, 3)}),
    Member(fd.ConcreteDropout, fd.concrete_dropout, ((3, 50),)),
    Member(fd.PatchDropout, fd.patch_dropout, ((3, 20, 4),), {"prefix": 1}),
    Member(fd.DropConnectLinear, fd.drop_connect_linear, ((6, 5),), {}, (5, 4)),
    Member(fd.DropoutAdd, fd.dropout_add, ((3, 50), (3, 50))),
    Member(fd.BiasDropoutAdd, fd.bias_dropout_add, ((3, 50), (50,), (3, 50))),
    Member(fd.ReluDropout, fd.relu_dropout, ((3, 50),)),
    Member(fd.GeluDropout, fd.gelu_dropout, ((3, 50),), {"mode": "standard"}),
    Member(fd.GeluDropout, fd.gelu_dropout, ((3, 50),), {"approximate": "tanh"}),
    Member(fd.SiluDropout, fd.silu_dropout, ((3, 50),)),
    *(
        Member(
            fd.ActivationDropout, fd.activation_dropout, ((3, 50),), {"activation": name, **more}
        )
        for name, more in (
            ("leaky_relu", {"negative_slope": 0.2}),
            ("elu", {"alpha": 0.7, "mode": "standard"}),
            ("tanh", {}),
            ("sigmoid", {}),
            ("relu6", {}),
            ("hardswish", {"mode": "standard"}),
        )
    ),
    Member(fd.Zoneout, fd.zoneout, ((3, 50), (3, 50))),
    Member(
        fd.ScaledDotProductAttention,
        fd.scaled_dot_product_attention,
        ((2, 2, 7, 4), (2, 1, 9, 4), (2, 1, 9, 3)),
        {"is_causal": "lower_right"},
    ),
]
MEMBERS = [
    pytest.param(
        row, id=row.layer.__name__ + "".join(f"-{value}" for value in row.options.values())
    )
    for row in ROWS
]
