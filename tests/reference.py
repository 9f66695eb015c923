"""The stream and the meaning of dropout, said once in plain NumPy.

This is the oracle the tests compare the library with. It shares no code with the library and
does not import it: it is written to be read, and draws all 64 bit-planes of every group it needs.
`make_vectors.py` writes the golden vectors from it.

The generator is ARS-7 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2,
3", SC 2011: seven rounds of AES (FIPS 197) under round keys that a Weyl sequence makes.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Key = bytes  # 16 of them
Bytes = NDArray[np.uint8]

ROUNDS = 7
WEYL_A, WEYL_B = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B

PLANES = 64  # bits in the uniform of one element
GROUP = 128  # elements whose bits one block holds
TAG_NORMAL, TAG_WORDS, TAG_SPLIT, TAG_FOLD_IN = 64, 128, 254, 255

GROUPS_AT_ONCE = 1024  # bounds the reference's own memory, changes no bit


# --- The block -----------------------------------------------------------------------------------


def double(x: int) -> int:
    """Multiply by two in the field of 256 elements that AES works in."""
    return x << 1 if x < 128 else x << 1 ^ 0x11B


def product(x: int, y: int) -> int:
    """Multiply in that field, bit by bit of y."""
    total = 0
    while y:
        total ^= x if y & 1 else 0
        x, y = double(x), y >> 1
    return total


def substitute(x: int) -> int:
    """Return the S-box of AES at x: the inverse in the field (of 0, 0), then an affine map."""
    inverse = next((y for y in range(256) if product(x, y) == 1), 0)
    rotations = (inverse << turn | inverse >> (8 - turn) for turn in range(5))
    return functools.reduce(operator.xor, rotations, 0x63) & 0xFF


SBOX = np.array([substitute(x) for x in range(256)], dtype=np.uint8)
DOUBLE = np.array([double(x) for x in range(256)], dtype=np.uint8)

# Byte i of a block is row i % 4 of column i // 4. Row r takes its bytes from r columns on.
SHIFTED = [(i + 4 * (i % 4)) % 16 for i in range(16)]


def mix_columns(state: Bytes) -> Bytes:
    """Multiply each column by the matrix with rows 2 3 1 1, 1 2 3 1, 1 1 2 3, 3 1 1 2."""
    columns = state.reshape(*state.shape[:-1], 4, 4)
    second, third, fourth = (np.roll(columns, -turn, axis=-1) for turn in (1, 2, 3))
    return (DOUBLE[columns] ^ DOUBLE[second] ^ second ^ third ^ fourth).reshape(state.shape)


def round_key(key: Key, i: int) -> Bytes:
    """Key number i: the halves of `key`, each with i times its Weyl constant added."""
    a, b = (int.from_bytes(half, "little") for half in (key[:8], key[8:]))
    a, b = (a + i * WEYL_A) % 2**64, (b + i * WEYL_B) % 2**64
    return np.frombuffer(a.to_bytes(8, "little") + b.to_bytes(8, "little"), dtype=np.uint8)


def ars(key: Key, counters: Bytes, rounds: int = ROUNDS) -> Bytes:
    """ARS of counters of 16 bytes each, along the last axis."""
    v = counters ^ round_key(key, 0)
    for i in range(1, rounds):
        v = mix_columns(SBOX[v][..., SHIFTED]) ^ round_key(key, i)
    return np.ascontiguousarray(SBOX[v][..., SHIFTED]) ^ round_key(key, rounds)


def block(key: Key, index: Any, tag: Any) -> Bytes:
    """Block `index` (below 2**64) of kind `tag` (below 2**8), or many of them: (..., 16) bytes."""
    index, tag = np.broadcast_arrays(np.asarray(index, dtype="<u8"), np.asarray(tag, dtype="<u8"))
    return ars(key, np.stack([index, tag], axis=-1).view(np.uint8))


# --- Keys ----------------------------------------------------------------------------------------


def key_from_rng(rng: np.random.Generator) -> Key:
    """Draw a key from a NumPy generator: two 64-bit draws, low bytes first."""
    a, b = (int(draw) for draw in rng.integers(0, 2**64, size=2, dtype=np.uint64))
    return a.to_bytes(8, "little") + b.to_bytes(8, "little")


def key_from_seed(seed: Any) -> Key:
    """Return the key of a seed."""
    return key_from_rng(np.random.default_rng(seed))


def fold_in(key: Key, index: int) -> Key:
    """Child `index` of the fold_in family."""
    return block(key, index, TAG_FOLD_IN).tobytes()


def split(key: Key, count: int) -> list[Key]:
    """Children 0, 1, ..., count - 1 of the split family."""
    return [block(key, index, TAG_SPLIT).tobytes() for index in range(count)]


# --- Elements ------------------------------------------------------------------------------------


def group_uniforms(key: Key, groups: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Draw the uniforms of all the elements of some groups, shape (len(groups), 128)."""
    planes = block(key, groups[:, np.newaxis], np.arange(PLANES))  # (group, plane, byte)
    bits = np.unpackbits(planes, axis=-1, bitorder="little")  # (group, plane, lane)
    octets = np.packbits(bits, axis=1, bitorder="big")  # plane 0 is the most significant bit
    octets = np.ascontiguousarray(octets.transpose(0, 2, 1))  # (group, lane, octet)
    return octets.view(">u8")[..., 0].astype(np.uint64)


def uniforms(key: Key, indices: ArrayLike) -> NDArray[np.uint64]:
    """Draw the 64-bit uniform of each element, for element indices below 2**63."""
    indices = np.asarray(indices, dtype=np.uint64)
    groups, position = np.unique(indices >> np.uint64(7), return_inverse=True)
    lanes = (indices & np.uint64(GROUP - 1)).astype(np.intp)
    table = np.empty((groups.size, GROUP), dtype=np.uint64)
    for first in range(0, groups.size, GROUPS_AT_ONCE):
        chunk = slice(first, first + GROUPS_AT_ONCE)
        table[chunk] = group_uniforms(key, groups[chunk])
    return table[position.reshape(indices.shape), lanes]


def threshold(p: float) -> int:
    """T = floor(p * 2**64), exactly: scaling a double by a power of two does not round."""
    numerator, denominator = float(p).as_integer_ratio()
    return (numerator << PLANES) // denominator


def kept(key: Key, p: float, indices: ArrayLike) -> NDArray[np.bool_]:
    """Which elements stay: those whose uniform is not below the threshold."""
    limit = threshold(p)
    if limit == 2**PLANES:  # p = 1; the limit itself does not fit in 64 bits
        return np.zeros(np.shape(indices), dtype=np.bool_)
    return uniforms(key, indices) >= np.uint64(limit)


# --- Masks ---------------------------------------------------------------------------------------


def element_indices(
    whole: Sequence[int], start: Sequence[int], shape: Sequence[int]
) -> NDArray[np.uint64]:
    """C-order indices, in an array of shape `whole`, of the box of `shape` at `start`."""
    indices = np.zeros(shape, dtype=np.uint64)
    for axis in range(len(whole)):
        stride = math.prod(whole[axis + 1 :])
        along = [(start[axis] + step) * stride for step in range(shape[axis])]
        broadside = (-1,) + (1,) * (len(whole) - axis - 1)
        indices = indices + np.array(along, dtype=np.uint64).reshape(broadside)
    return indices


def mask(
    key: Key,
    p: float,
    whole: Sequence[int],
    start: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
) -> NDArray[np.bool_]:
    """Draw the mask of an array of shape `whole`, or of one region of it; True is kept."""
    start = (0,) * len(whole) if start is None else start
    shape = whole if shape is None else shape
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype=np.bool_)
    return kept(key, p, element_indices(whole, start, shape))


def shared_shape(shape: Sequence[int], broadcast_dims: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the decisions: length one along the axes that share them."""
    shared = {axis % len(shape) for axis in broadcast_dims}
    return tuple(1 if axis in shared else length for axis, length in enumerate(shape))


# --- Normals -------------------------------------------------------------------------------------

# Coefficients, lowest power first: (-2 log(1 - w) - 2 w) / w^2 in w, (sin(x) / x - 1) / x^2 and
# (cos(x) - 1) / x^2 in x^2.
LOG = [1.0000492, 0.6642579, 0.53933394, 0.1015956, 1.5033975, -2.072591, 2.3212823]
SIN = [-0.16666655, 0.008332189, -0.00019518292]
COS = [-0.49999884, 0.041655716, -0.0013591017]

Floats = NDArray[np.float32]
f32 = np.float32


def horner(z: Floats, c: Sequence[float]) -> Floats:
    """c0 + z (c1 + z (c2 + ...))."""
    return functools.reduce(lambda sum, term: f32(term) + z * sum, c[-2::-1], f32(c[-1]))


def estrin(z: Floats, c: Sequence[float]) -> Floats:
    """Seven terms in Estrin's order."""
    c0, c1, c2, c3, c4, c5, c6 = (f32(term) for term in c)
    z2 = z * z
    z4 = z2 * z2
    return ((c0 + z * c1) + z2 * (c2 + z * c3)) + z4 * ((c4 + z * c5) + z2 * c6)


def distances(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> Floats:
    """sqrt(-2 ln u) with 40 bits of u."""
    t = (a & 0x7FFFFFFF).astype(f32) + ((b & 0xFF).astype(f32) + f32(0.5)) / f32(256)
    return np.sqrt(minus_two_ln(t, a >= 2**31))


def minus_two_ln(t: Floats, above: NDArray[np.bool_]) -> Floats:
    """-2 ln u, where u is t / 2**32 below one half and 1 - t / 2**32 above it."""
    m, exponent = np.frexp(t)  # m in [1/2, 1)
    w = np.where(above, np.ldexp(t, -32), f32(1) - m)
    k = np.where(above, 0, 32 - exponent).astype(f32)
    return k * f32(2 * math.log(2)) + ((w + w) + (w * w) * estrin(w, LOG))


def directions(b: NDArray[np.uint32]) -> tuple[Floats, Floats]:
    """Cosine and sine of an angle in the middle of one of 2**22 steps, which two bits turn."""
    step = (b >> 8 & 0x3FFFFF).astype(np.int32)
    step = np.where(step < 2**21, step, step - 2**22)
    x = (2 * step + 1).astype(f32) * f32(math.pi / 2**24)
    z = x * x
    sin = x + x * (z * horner(z, SIN))
    cos = f32(1) + z * horner(z, COS)
    cos = np.where(b >> 31, -cos, cos)
    exchanged = b >> 30 & 1 == 1
    return np.where(exchanged, sin, cos), np.where(exchanged, cos, sin)


def normals(key: Key, indices: ArrayLike) -> Floats:
    """Draw the standard normal number of each element, for element indices below 2**63."""
    indices = np.asarray(indices, dtype=np.uint64)
    group, lane = indices >> np.uint64(7), (indices & np.uint64(GROUP - 1)).astype(np.intp)
    pair = lane % (GROUP // 2)

    def word(number: NDArray[np.intp]) -> NDArray[np.uint32]:
        words = block(key, group, TAG_NORMAL + number // 4).view("<u4")
        return np.take_along_axis(words, number[..., np.newaxis] % 4, axis=-1)[..., 0]

    a, b = word(pair), word(pair + GROUP // 2)
    first, second = directions(b)
    return distances(a, b) * np.where(lane < GROUP // 2, first, second)


def exponentials(key: Key, indices: ArrayLike) -> Floats:
    """Draw the exponential number of each element, of rate 1."""
    u = uniforms(key, indices)
    above = u >= 2**63
    u = np.where(above, ~u, u)
    high, low = (u >> np.uint64(32)).astype(np.uint32), (u & np.uint64(2**32 - 1)).astype(f32)
    fine = np.where(high < 2**20, (low + f32(0.5)) / f32(2**32), f32(0.5))
    return f32(0.5) * minus_two_ln(high.astype(f32) + fine, above)


def words(key: Key, count: int) -> NDArray[np.uint64]:
    """Draw the first words of a key's generator."""
    blocks = block(key, np.arange(-(-count // 2), dtype=np.uint64), TAG_WORDS)
    return blocks.view("<u8").reshape(-1)[:count].astype(np.uint64)


def noise(x: NDArray[Any], std: float, z: Floats) -> NDArray[Any]:
    """x (1 + std z), in the precision of the product."""
    with np.errstate(all="ignore"):
        if x.dtype.kind == "c":
            y = np.empty_like(x)
            y.real, y.imag = noise(x.real, std, z), noise(x.imag, std, z)
            return y
        if x.dtype == np.float64:
            return x * (1.0 + std * z.astype(np.float64))
        return (x.astype(np.float32) * (f32(1) + f32(std) * z)).astype(x.dtype)


# --- Dropout -------------------------------------------------------------------------------------


def multiply(x: NDArray[Any], factor: float) -> NDArray[Any]:
    """Multiply, with `factor` rounded once to the precision the product is computed in."""
    native = x.astype(x.dtype.newbyteorder("="), order="C")
    with np.errstate(all="ignore"):
        if native.dtype.kind == "c":  # each part by the real factor: no Inf * 0 in between
            real, imag = multiply(native.real, factor), multiply(native.imag, factor)
            product = np.empty_like(native)
            product.real, product.imag = real, imag
        elif native.dtype == np.float64:
            product = native * np.float64(factor)
        else:  # float32, and the 16-bit types, widened to it
            product = (native.astype(np.float32) * np.float32(factor)).astype(native.dtype)
    return product.astype(x.dtype)


def select(keep: NDArray[np.bool_], x: NDArray[Any], factor: float) -> NDArray[Any]:
    """Select x * factor or +0.0, so that what is dropped leaves no NaN and no sign behind."""
    product = multiply(x, factor)
    return np.where(np.broadcast_to(keep, x.shape), product, np.zeros((), dtype=x.dtype)).astype(
        x.dtype
    )


def inverse_keep(p: float) -> float:
    """Return the factor of inverted dropout; where p = 1 keeps nothing, any will do."""
    return 1.0 if p == 1.0 else 1.0 / (1.0 - p)


def dropout(
    x: NDArray[Any],
    p: float,
    key: Key,
    *,
    training: bool = True,
    mode: str = "inverted",
    broadcast_dims: Sequence[int] = (),
) -> NDArray[Any]:
    """Dropout with the mask of `key`.

    The layer is linear and diagonal, so this is its backward pass too: pass the gradient as x.
    """
    if not training and mode == "inverted":
        return x
    if not training:  # at p = 1 nothing is left, not even of NaN
        return multiply(x, 1.0 - p) if p < 1.0 else np.zeros_like(x)
    keep = mask(key, p, shared_shape(x.shape, broadcast_dims))
    return select(keep, x, inverse_keep(p) if mode == "inverted" else 1.0)
