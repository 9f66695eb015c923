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
TAG_NORMAL, TAG_SPLIT, TAG_FOLD_IN = 64, 254, 255

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

# Coefficients of FreeBSD's msun: log(1 + f), sin and cos near 0.
LOG = [
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
]
SIN = [
    -1.66666666666666324348e-01,
    8.33333333332248946124e-03,
    -1.98412698298579493134e-04,
    2.75573137070700676789e-06,
    -2.50507602534068634195e-08,
    1.58969099521155010221e-10,
]
COS = [
    4.16666666666666019037e-02,
    -1.38888888888741095749e-03,
    2.48015872894767294178e-05,
    -2.75573143513906633035e-07,
    2.08757232129817482790e-09,
    -1.13596475577881948265e-11,
]

Floats = NDArray[np.float64]


def estrin(z: Floats, c: Sequence[float]) -> Floats:
    """c0 + c1 z + c2 z^2 + ..., in Estrin's order."""
    z2 = z * z
    z4 = z2 * z2
    last = c[4] + z * c[5] if len(c) == 6 else (c[4] + z * c[5]) + z2 * c[6]
    return ((c[0] + z * c[1]) + z2 * (c[2] + z * c[3])) + z4 * last


def natural_log(x: Floats) -> Floats:
    """ln x, by splitting x into 2**exponent times m in [sqrt(1/2), sqrt(2))."""
    m, exponent = np.frexp(x)  # m in [1/2, 1)
    small = m < float.fromhex("0x1.6a09e667f3bcdp-1")
    m = np.where(small, 2 * m, m)
    exponent = np.where(small, exponent - 1, exponent)
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    return exponent * math.log(2) + s * (2.0 + z * estrin(z, LOG))


def normal_pairs(bits: NDArray[np.uint64]) -> tuple[Floats, Floats]:
    """Box and Muller's transform: 40 bits for the radius, 24 for the angle."""
    u = 1.0 - (bits & np.uint64(2**40 - 1)) * 2.0**-40
    r = np.sqrt(-2.0 * natural_log(u))
    quadrant = bits >> np.uint64(62)
    place = (bits >> np.uint64(40)) & np.uint64(2**22 - 1)
    x = ((place + 0.5) * 2.0**-22 - 0.5) * (math.pi / 2)
    z = x * x
    sin = x + x * (z * estrin(z, SIN))
    cos = 1.0 - (0.5 * z - z * (z * estrin(z, COS)))
    quarters = [(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos)]
    first = np.select([quadrant == q for q in range(4)], [pair[0] for pair in quarters])
    second = np.select([quadrant == q for q in range(4)], [pair[1] for pair in quarters])
    return r * first, r * second


def normals(key: Key, indices: ArrayLike) -> Floats:
    """Draw the standard normal number of each element, for element indices below 2**63."""
    indices = np.asarray(indices, dtype=np.uint64)
    lane = indices & np.uint64(GROUP - 1)
    halves = block(key, indices >> np.uint64(7), TAG_NORMAL + (lane & np.uint64(31))).view("<u8")
    low, high = halves[..., 0], halves[..., 1]
    first, second = normal_pairs(np.where((lane & np.uint64(32)) == 0, low, high))
    return np.where(lane < GROUP // 2, first, second)


def noise(x: NDArray[Any], std: float, z: Floats) -> NDArray[Any]:
    """x (1 + std z), the factor rounded once to the precision of the product."""
    factor = 1.0 + std * z
    with np.errstate(all="ignore"):
        if x.dtype.kind == "c":
            y = np.empty_like(x)
            y.real, y.imag = noise(x.real, std, z), noise(x.imag, std, z)
            return y
        if x.dtype == np.float64:
            return x * factor
        return (x.astype(np.float32) * factor.astype(np.float32)).astype(x.dtype)


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
