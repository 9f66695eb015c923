"""Dropout and attention in compiled JAX functions: beside `jax.random.bernoulli`, as Flax has them.

    python benches/jax_dropout.py

Ratios of times from the same rounds, all compiled: medians with quartiles. "x * 2" is the cheapest
compiled function that reads and writes as much memory. Attention is timed forward and backward.
"""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import fastdrop as fd
import fastdrop.jax
import jax
import jax.numpy as jnp
from fastdrop._bench import machine, ratio, take_turns


def cases(elements: int, p: float) -> dict[str, Callable[[], object]]:
    """Return the compiled functions, each on its input."""
    x = jnp.ones(elements)

    def ours(x: Any, key: Any) -> Any:
        return fastdrop.jax.dropout(x, p, key=key)

    def theirs(x: Any, key: Any) -> Any:
        return jnp.where(jax.random.bernoulli(key, 1 - p, x.shape), x / (1 - p), 0)

    def gradient(function: Any) -> Any:
        return jax.grad(lambda x, key: function(x, key).sum())

    functions = {
        "fastdrop": (ours, fastdrop.jax.key(0)),
        "fastdrop, JAX's key": (ours, jax.random.key(0)),
        "bernoulli": (theirs, jax.random.key(0)),
        "fastdrop, gradient": (gradient(ours), fastdrop.jax.key(0)),
        "bernoulli, gradient": (gradient(theirs), jax.random.key(0)),
        "x * 2": (lambda x, key: x * 2, jax.random.key(0)),
    }
    compiled = {name: (jax.jit(function), key) for name, (function, key) in functions.items()}
    return {
        name: lambda function=function, key=key: function(x, key).block_until_ready()  # type: ignore[misc]
        for name, (function, key) in compiled.items()
    }


def attention(shape: tuple[int, ...], p: float) -> dict[str, Callable[[], object]]:
    """Return gradients of attention to itself; the shape is batch, heads, length, features."""
    batch, heads, length, features = shape
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, dy = (jax.random.normal(key, (batch, length, heads, features)) for key in keys)

    def ours(q: Any, k: Any, v: Any, key: Any) -> Any:
        return fastdrop.jax.dot_product_attention(q, k, v, dropout_p=p, dropout_key=key)

    def theirs(q: Any, k: Any, v: Any, key: Any) -> Any:
        scores = jnp.einsum("btnh,bsnh->bnts", q / features**0.5, k)
        keep = jax.random.bernoulli(key, 1 - p, scores.shape)
        weights = jax.nn.softmax(scores) * (keep / (1 - p))
        return jnp.einsum("bnts,bsnh->btnh", weights, v)

    def plain(q: Any, k: Any, v: Any, key: Any) -> Any:
        return jax.nn.dot_product_attention(q, k, v)

    def gradient(function: Any) -> Any:
        return jax.jit(jax.grad(lambda *x: (function(*x) * dy).sum(), (0, 1, 2)))

    functions = {
        "fastdrop": (gradient(ours), fastdrop.jax.key(0)),
        "bernoulli": (gradient(theirs), jax.random.key(0)),
        "jax.nn at p = 0": (gradient(plain), jax.random.key(0)),
    }
    return {
        name: lambda function=function, key=key: jax.block_until_ready(function(q, k, v, key))  # type: ignore[misc]
        for name, (function, key) in functions.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time dropout in compiled JAX functions.")
    parser.add_argument("--rounds", type=int, default=25, help="turns that each case gets")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10, 16, 20, 23], help="binary logarithms"
    )
    parser.add_argument(
        "--attention",
        type=int,
        nargs=4,
        default=[8, 12, 512, 64],
        help="batch, heads, length and features",
    )
    options = parser.parse_args()
    print(f"{machine()}, JAX {version('jax')}, {fd.get_num_threads()} threads, float32\n")
    print(
        "| elements | p | bernoulli / fastdrop | with JAX's key | gradient | fastdrop / (x * 2) |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for exponent in options.sizes:
        for p in (0.5, 0.1):
            times = take_turns(cases(1 << exponent, p), rounds=options.rounds, seconds=0.02)
            ratios = [
                ratio(times, "bernoulli", "fastdrop"),
                ratio(times, "bernoulli", "fastdrop, JAX's key"),
                ratio(times, "bernoulli, gradient", "fastdrop, gradient"),
                ratio(times, "fastdrop", "x * 2"),
            ]
            shown = " | ".join(f"{spread:.1f}" for spread in ratios)
            print(f"| 2^{exponent} | {p} | {shown} |", flush=True)
    print("\n| attention | p | bernoulli / fastdrop | jax.nn at p = 0 / fastdrop |")
    print("| --- | --- | --- | --- |")
    times = take_turns(attention(options.attention, 0.1), rounds=options.rounds, seconds=0.02)
    ratios = [ratio(times, name, "fastdrop") for name in ("bernoulli", "jax.nn at p = 0")]
    shown = " | ".join(f"{spread:.1f}" for spread in ratios)
    print(f"| {', '.join(map(str, options.attention))} | 0.1 | {shown} |")


if __name__ == "__main__":
    main()
