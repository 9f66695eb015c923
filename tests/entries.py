"""Every entry point as a call: the members' functions, layers and gradients, and the rest.

Some are refused, with TypeError or ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastdrop as fd
import numpy as np
from members import ROWS, Member

Call = Callable[[], Any]


def attempt(call: Call) -> Any:
    """Return what a call returns; None if it is refused."""
    try:
        return call()
    except (TypeError, ValueError):
        return None


def larger(member: Member, elements: int) -> tuple[Any, ...]:
    """Return inputs of about this many elements each: longer along axis 0."""
    inputs = member.inputs()
    first = inputs[0][0] if isinstance(inputs[0], list) else inputs[0]
    factor = max(1, elements // first.size)

    def grown(x: Any) -> Any:
        if isinstance(x, list):
            return [grown(one) for one in x]
        return np.concatenate([x] * factor) if x.ndim > 1 else x

    return tuple(grown(x) for x in inputs)


def _of(member: Member, elements: int) -> dict[str, Call]:
    """Return the calls of one member."""
    key, inputs = fd.Key(1), larger(member, elements)
    layer = member.make(rng=key)

    def train() -> Any:
        y = layer(*inputs)
        tokens = y[0] if isinstance(y, tuple) else y
        return y, layer.backward(tokens), layer(*inputs, training=False)

    def refused() -> None:
        for call in (lambda: member.function(*inputs, p=2.0), lambda: layer("x")):
            attempt(call)

    name = "-".join([member.layer.__name__, *map(str, member.options.values())])
    return {
        f"{name}, function": lambda: member.call(layer, inputs, rng=key),
        f"{name}, layer": train,
        f"{name}, refused": refused,
    }


def entries(elements: int = 1, large: int = 1 << 16) -> dict[str, Call]:
    """Return all calls, with arrays of about `elements` for members, of `large` for the rest."""
    key, drop = fd.Key(0), fd.Dropout(0.3, rng=0)
    x, many = np.ones(64, np.float32), np.ones(large, np.float32)
    square = np.ones((int(large**0.5), int(large**0.5)), np.float32)
    mask, whole = fd.Mask((64,), 0.3, key), fd.Mask((large,), 0.3, key)
    given = np.ones(large, np.bool_)

    def attend(numbers: Any, biased: bool | None) -> Any:
        """Attend to about the square root of so many keys, with 16 features."""
        z = numbers[: int((len(numbers) / 2) ** 0.5) * 32].reshape(1, 2, -1, 16)
        bias = z[0, :1, :, :1] if biased else None
        options = {"attn_mask": bias, "rng": key}
        y, lse = fd.scaled_dot_product_attention(z, z, z, 0.3, return_lse=True, **options)
        return fd.scaled_dot_product_attention_backward(
            y, z, z, z, y, lse, 0.3, return_dattn_mask=bias is not None, **options
        )

    others: dict[str, Call] = {
        "dropout": lambda: fd.dropout(many, 0.3),
        "dropout of a list": lambda: fd.dropout([1.0] * 64, 0.3, rng=key),
        "dropout of a seed": lambda: fd.dropout(x, 0.3, rng=3),
        "dropout, out": lambda: fd.dropout(many, 0.3, rng=key, out=np.empty_like(many)),
        "dropout, overlapping": lambda: fd.dropout(many[:-1], 0.3, rng=key, out=many[1:]),
        "dropout, transposed": lambda: fd.dropout(
            square.T, 0.3, rng=key, out=np.empty_like(square)
        ),
        "dropout, shared": lambda: fd.dropout(square, 0.3, rng=key, broadcast_dims=0),
        "dropout, given": lambda: fd.dropout(many, 0.3, mask=given),
        "dropout, other byte order": lambda: fd.dropout(many.astype(">f4"), 0.3, rng=key),
        "dropout, refused dtype": lambda: fd.dropout(np.arange(64), 0.3, rng=key),
        "dropout, refused rng": lambda: fd.dropout(x, 0.3, rng="seed"),  # type: ignore[arg-type]
        "dropout, refused out": lambda: fd.dropout(x, 0.3, rng=key, out=many),
        "dropout, refused mask": lambda: fd.dropout(x, 0.3, mask=given),
        "bernoulli": lambda: (fd.bernoulli(large, 0.3), fd.bernoulli(large, 0.3, packed=True)),
        "Key": lambda: (fd.Key(), fd.Key(0), key.split(3)[0].fold_in(np.int64(4)), bytes(key)),
        "Key, refused": lambda: fd.Key("x"),  # type: ignore[arg-type]
        "Mask": lambda: fd.Mask([64], np.float32(0.3), key).region([np.int64(3)], [5]).to_numpy(),
        "Mask, whole": lambda: (whole.count(), whole.packbits(), whole.to_numpy()),
        "Mask.apply": lambda: (mask.apply([1.0] * 64), whole.apply(many)),
        "Mask, refused": lambda: mask.region([60], [5]),
        "gradients": lambda: (
            fd.gelu_dropout_backward(many, many, 0.3, rng=key),
            fd.relu_dropout_backward(many, many, 0.3, rng=key),
            fd.zoneout_backward(many, 0.3, rng=key),
        ),
        "attention": lambda: attend(many, None),
        "attention, biased": lambda: attend(many, True),
        "attention, refused": lambda: fd.scaled_dot_product_attention(x, x, x, 0.3, rng=key),
        "state": lambda: (drop.load_state_dict(drop.state_dict()), drop.hold(), drop.release()),
        "state, refused": lambda: drop.load_state_dict({}),
        "settings": lambda: (fd.get_num_threads(), fd.show_config("dicts")),
    }
    for member in {row.layer: row for row in ROWS}.values():
        others.update(_of(member, elements))
    return others


ENTRIES = entries()
