"""`python -m fastdrop selftest` checks that this machine gives the results of all machines.

Each group of calls has one digest, the same for all CPUs, SIMD levels and numbers of threads. The
tests compare the digest of the masks with the reference implementation.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

import fastdrop as fd
from fastdrop import _core
from fastdrop._base.arguments import Array

KEY = fd.Key.from_bytes(bytes(range(16)))
PROBABILITIES = (0.5, 0.1, 1 / 3, 0.999, 2.0**-40)
LENGTHS = (1, 127, 128, 129, 8193, 100_003)
LARGE = (1 << 20) + 3
"""More elements than a call keeps to one thread."""


def masks() -> Iterator[Array]:
    """Yield masks: short, long, and from the middle of one of 2^62 elements."""
    for p in PROBABILITIES:
        for length in LENGTHS:
            yield fd.Mask(length, p, KEY).packbits()
        yield fd.Mask(2**62, p, KEY).region(2**61 + 77, 5000).to_numpy()


def arrays() -> Iterator[Array]:
    """Yield results for every supported dtype that NumPy has, in three layouts."""
    for dtype in (np.float32, np.float64, np.float16, np.complex64, np.complex128):
        x: Array = (np.arange(3 * 41 * 67) % 1009).astype(dtype).reshape(3, 41, 67)
        for view in (x, x.T, x[:, ::-1, 1::2]):
            yield np.ascontiguousarray(fd.dropout(view, 0.3, rng=KEY))
            yield np.ascontiguousarray(fd.feature_dropout(view, 0.3, rng=KEY))


def formulas() -> Iterator[Array]:
    """Yield results of noise, activations and residual sums."""
    x = (np.arange(10_007, dtype=np.float32) - 5000) / 512  # exact
    yield fd.gaussian_dropout(x, 0.3, rng=KEY)
    yield fd.alpha_dropout(x, 0.3, rng=KEY)
    yield fd.gelu_dropout(x, 0.3, rng=KEY)
    yield fd.gelu_dropout(x, 0.3, approximate="tanh", rng=KEY)
    for activation in ("silu", "elu", "tanh"):
        yield fd.activation_dropout(x, 0.3, activation=activation, rng=KEY)
    yield fd.dropout_add(x, x[::-1], 0.3, rng=KEY)


def large() -> Iterator[Array]:
    """Yield the result for an array that threads share."""
    yield fd.dropout(np.ones(LARGE, dtype=np.float32), 0.1, rng=KEY)


GROUPS: dict[str, tuple[Callable[[], Iterator[Array]], str]] = {
    "masks, short, long, and from the middle of 2^62 elements": (
        masks,
        "efde0410132535b48c7789e9470cda26",
    ),
    "arrays of five dtypes in three layouts": (arrays, "dd918abb3e08acc165fecec199fc3cc9"),
    "noise, activations and sums": (formulas, "a975c7871ce101092b94d14ce834a437"),
    "a large array": (large, "e4fd31f2585d029139b852b6685e8825"),
}
"""The name of each check, its results, and their digest."""


def digest(results: Iterator[Array]) -> str:
    """Return the BLAKE2b hash of the little-endian bytes of results."""
    total = hashlib.blake2b(digest_size=16)
    for result in results:
        total.update(result.astype(result.dtype.newbyteorder("<"), copy=False).tobytes())
    return total.hexdigest()


@contextmanager
def _level(name: str) -> Iterator[None]:
    before = _core.simd()
    _core.set_simd(name)
    try:
        yield
    finally:
        _core.set_simd(before)


def selftest() -> Iterator[tuple[str, bool]]:
    """Yield the name of each check and whether it passed."""
    for level in _core.simd_levels():
        with _level(level):
            for name, (results, expected) in GROUPS.items():
                with fd.threads(3 if results is large else 1):
                    yield f"{level}: {name}", digest(results()) == expected
