"""The models of `torch_libraries.py` in JAX, of the same sizes and on the same data.

They have no biases. Each drops with Flax's formula, with the functions of fastdrop.jax, or not at
all.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import fastdrop.jax as fj
import jax
from jax import nn
from jax import numpy as jnp
from torch_tasks import TASKS

# --- Two ways to drop ----------------------------------------------------------------------------


def bernoulli(x: Any, p: float, key: Any, shape: Any = None) -> Any:
    """Drop as Flax does; elements share decisions along the axes where `shape` is 1."""
    if not p:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - p, shape or x.shape), x / (1 - p), 0)


def attention(q: Any, k: Any, v: Any, p: float, key: Any, mask: Any = None) -> Any:
    """Attend as Flax does, which stores the weights to drop them."""
    if not p:
        return nn.dot_product_attention(q, k, v, mask=mask)
    scores = jnp.einsum("btnh,bsnh->bnts", q * q.shape[-1] ** -0.5, k)
    weights = nn.softmax(scores if mask is None else jnp.where(mask, scores, -1e30))
    return jnp.einsum("bnts,bsnh->btnh", bernoulli(weights, p, key), v)


FLAX = SimpleNamespace(
    drop=bernoulli,
    relu=lambda x, p, key: bernoulli(nn.relu(x), p, key),
    add=lambda x, residual, p, key: residual + bernoulli(x, p, key),
    connections=bernoulli,
    locked=lambda x, p, key: bernoulli(x, p, key, (1, *x.shape[1:])),
    words=lambda w, ids, p, key: bernoulli(w, p, key, (len(w), 1))[ids],
    attend=attention,
)
FASTDROP = SimpleNamespace(
    drop=lambda x, p, key: fj.dropout(x, p, key=key),
    relu=lambda x, p, key: fj.relu_dropout(x, p, key=key),
    add=lambda x, residual, p, key: fj.dropout_add(x, residual, p, key=key),
    connections=lambda w, p, key: fj.drop_connect(w, p, key=key),
    locked=lambda x, p, key: fj.locked_dropout(x, p, key=key),
    words=lambda w, ids, p, key: fj.embedding_dropout(w, p, indices=ids, key=key),
    attend=lambda q, k, v, p, key, mask=None: fj.dot_product_attention(
        q, k, v, mask=mask, dropout_p=p, dropout_key=key
    ),
)

# --- Models: functions of weights, a batch, p, keys and a way to drop -----------------------------


def mlp(w: Any, x: Any, p: float, keys: Any, by: Any) -> Any:
    """Apply three linear maps."""
    for n in range(2):
        x = by.relu(x @ w[n], p, keys[n])
    return x @ w[2]


def cnn(w: Any, x: Any, p: float, keys: Any, by: Any) -> Any:
    """Apply two convolutions and a linear map."""
    for n in range(2):
        axes = ("NHWC", "HWIO", "NHWC")  # those of Flax
        x = jax.lax.conv_general_dilated(x, w[n], (1, 1), "SAME", dimension_numbers=axes)
        x = by.relu(x, p, keys[n])
    return x.reshape(len(x), 4, 8, 4, 8, 32).mean((2, 4)).reshape(len(x), -1) @ w[2]


normed = nn.standardize


def relu(by: Any, x: Any, p: float, key: Any) -> Any:
    """Activate and drop."""
    return by.relu(x, p, key)


def gelu(by: Any, x: Any, p: float, key: Any) -> Any:
    """Activate, without dropout."""
    return nn.gelu(x, approximate=False)


def reglu(by: Any, x: Any, p: float, key: Any) -> Any:
    """Drop a half of the features times the positive ones of the other half."""
    y, gate = jnp.split(x, 2, -1)
    return by.drop(y * nn.relu(gate), p, key)


def encoder(
    w: Any, x: Any, p: float, keys: Any, by: Any, *,
    heads: int, hidden: Any = relu, first: bool = False, mask: Any = None,
) -> Any:  # fmt: skip
    """Apply layers of a transformer, which may normalize `first`; `hidden` is their activation."""
    for n in range(len(w) // 4):
        into, out, wide, narrow = w[4 * n : 4 * n + 4]
        y = normed(x) if first else x
        q, k, v = jnp.split((y @ into).reshape(*x.shape[:2], 3 * heads, -1), 3, 2)
        y = by.attend(q, k, v, p, keys[4 * n], mask).reshape(x.shape) @ out
        x = by.add(y, x, p, keys[4 * n + 1])
        x = x if first else normed(x)
        y = hidden(by, (normed(x) if first else x) @ wide, p, keys[4 * n + 2])
        x = by.add(y @ narrow, x, p, keys[4 * n + 3])
        x = x if first else normed(x)
    return x


def bert(w: Any, batch: Any, p: float, keys: Any, by: Any) -> Any:
    """Classify lines of bytes."""
    words, places, pool, out, *layers = w
    x = by.drop(normed(words[batch["input_ids"]] + places), p, keys[-1])
    mask = batch["attention_mask"][:, None, None] > 0
    x = encoder(layers, x, p, keys, by, heads=4, hidden=gelu, mask=mask)
    return by.drop(jnp.tanh(x[:, 0] @ pool), p, keys[-2]) @ out


def vit(w: Any, batch: Any, p: float, keys: Any, by: Any) -> Any:
    """Classify digits."""
    patches, places, token, out, *layers = w
    x = batch["pixel_values"].reshape(-1, 7, 4, 7, 4).swapaxes(2, 3).reshape(-1, 49, 16) @ patches
    x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 96)), x], 1) + places
    x = by.drop(x, p, keys[-1])
    x = encoder(layers, x, p, keys, by, heads=3, hidden=gelu, first=True)
    return normed(x)[:, 0] @ out


def tabular(w: Any, batch: Any, p: float, keys: Any, by: Any) -> Any:
    """Classify rows of numbers."""
    scales, shifts, token, out, *layers = w
    x = batch["x"][..., None] * scales + shifts
    x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 128)), x], 1)
    x = encoder(layers, x, p, keys, by, heads=8, hidden=reglu, first=True)
    return nn.relu(normed(x)[:, 0]) @ out


def lstm(w: Any, batch: Any, p: float, keys: Any, by: Any) -> Any:
    """Predict bytes with locked, weight and embedding dropout."""
    words, out, *layers = w
    x = by.locked(by.words(words, batch["input_ids"].T, p / 2, keys[0]), p, keys[1])
    for n in range(2):
        into, within = layers[2 * n], by.connections(layers[2 * n + 1], p, keys[2 * n + 2])

        def step(carry: Any, x: Any, within: Any = within) -> Any:
            h, c = carry
            i, f, g, o = jnp.split(x + h @ within, 4, -1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros(x.shape[1:])
        x = by.locked(jax.lax.scan(step, (start, start), x @ into)[1], p, keys[2 * n + 3])
    return x[:-1] @ out


def _layers(count: int, width: int, wide: int, narrow: int) -> list[tuple[int, ...]]:
    return [(width, 3 * width), (width, width), (width, wide), (narrow, width)] * count


MODELS: dict[str, tuple[Any, list[tuple[int, ...]], Any]] = {
    "MLP": (mlp, [(784, 1024), (1024, 1024), (1024, 10)], (128, 784)),
    "CNN": (cnn, [(3, 3, 3, 32), (3, 3, 32, 32), (512, 10)], (64, 32, 32, 3)),
    "encoder": (partial(encoder, heads=4), _layers(4, 256, 1024, 1024), (16, 128, 256)),
    "bert": (bert, [(128, 128), (64, 128), (128, 128), (128, 5), *_layers(2, 128, 512, 512)], None),
    "vit": (vit, [(16, 96), (50, 96), (96,), (96, 10), *_layers(3, 96, 384, 384)], None),
    "ft-transformer": (
        tabular, [(30, 128), (30, 128), (128,), (128, 2), *_layers(2, 128, 340, 170)], None
    ),
    "lstm": (lstm, [(128, 128), (128, 128), *[(128, 512)] * 4], None),
}  # fmt: skip
"""Functions, shapes of weights, and the shape of random data; None if the data are a task's."""

# --- Steps ---------------------------------------------------------------------------------------


def loss(w: Any, name: str, batch: Any, p: float, keys: Any, by: Any) -> Any:
    """Return the cross-entropy, or the mean square of results of random data."""
    y = MODELS[name][0](w, batch, p, keys, by)
    if not isinstance(batch, dict):
        return (y**2).mean()
    labels = batch["labels"] if "labels" in batch else batch["input_ids"].T[1:]
    return -jnp.take_along_axis(nn.log_softmax(y), labels[..., None], -1).mean()


def steps(name: str, p: float) -> dict[str, Callable[[], object]]:
    """Return compiled steps of training; none for a model that is not written here."""
    if name not in MODELS:
        return {}
    _, shapes, shape = MODELS[name]
    random = [jax.random.key(n) for n in range(len(shapes) + 1)]
    w = [jax.random.normal(key, s) * 0.05 for key, s in zip(random[1:], shapes, strict=True)]
    batch = (
        {name: jnp.asarray(x.numpy()) for name, x in TASKS[name].batch().items()}
        if shape is None
        else jax.random.normal(random[0], shape)
    )

    def step(p: float, by: Any) -> Callable[[], object]:
        @jax.jit
        def train(w: Any, key: Any) -> Any:
            keys = jax.random.split(key, 18)
            gradients = jax.grad(loss)(w, name, batch, p, keys, by)
            return [one - 1e-4 * d for one, d in zip(w, gradients, strict=True)]

        return lambda: jax.block_until_ready(train(w, random[0]))

    return {"torch": step(p, FLAX), "fastdrop": step(p, FASTDROP), "none": step(0.0, FLAX)}
