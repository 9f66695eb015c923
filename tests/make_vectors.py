"""Write the golden vectors, `vectors/stream_v2.json`, from the reference implementation.

Run `python tests/make_vectors.py`; the output is the same at every run, and the test suite checks
that the committed file is what this script writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import reference as ref

PATH = Path(__file__).parent / "vectors" / "stream_v2.json"

ABOUT = (
    "Golden vectors of version 2 of the mask stream, for implementations in any language. Keys, "
    "counters and blocks are 16 bytes as 32 hex digits, the first byte first; seeds, indices and "
    "starts may exceed 2^53, so they are decimal strings. In 'masks', 'threshold' is "
    "floor(p * 2^64) as 16 hex digits (null when p is 1, where it is 2^64), and 'kept' is the hex "
    "form of the bytes that hold the bits of elements start_index, start_index + 1, ..., least "
    "significant bit first, 1 for kept. In 'normals', 'bits' are the IEEE 754 bits of the standard "
    "normal numbers of elements start_index, start_index + 1, ..., as 8 hex digits each."
)

KEYS: list[ref.Key] = [
    bytes(16),
    bytes(range(16)),
    b"\xff" * 16,
    bytes.fromhex("243f6a8885a308d313198a2e03707344"),
]

# Counter and key: two known answers of Random123 (as 32-bit words there), then one bit at a time.
BLOCKS: list[tuple[bytes, bytes]] = [
    ((1).to_bytes(16, "little"), (1).to_bytes(16, "little")),
    (bytes.fromhex("243f6a8885a308d313198a2e03707344"), bytes(15) + b"\x80"),
    *((bytes(at) + b"\x01" + bytes(15 - at), bytes(16)) for at in range(16)),
    *((bytes(16), bytes(at) + b"\x80" + bytes(15 - at)) for at in range(16)),
]

SEEDS = [0, 1, 42, 2**32, 2**64 - 1, 2**128 + 7]

FOLD_INDICES = [0, 1, 127, 2**24, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 3, 2**56, 2**64 - 1]

# p: zero, drops nothing though not zero (T = 0), T = 1, T odd with 64 planes, everyday values,
# the double next below one half and next below one, one.
PROBABILITIES = [
    0.0,
    2.0**-65,
    2.0**-64,
    (2.0**52 + 1) * 2.0**-64,
    1e-6,
    0.1,
    0.25,
    0.3,
    float(np.nextafter(0.5, 0.0)),
    0.5,
    0.9,
    1 - 2.0**-53,
    1.0,
]

# Start and count: whole groups, one lane off, either side of a group edge, 32-bit carries of the
# element index and of the group index (2^32 groups are 2^39 elements), the top of the range.
SPANS = [
    (0, 1024),
    (1, 130),
    (127, 129),
    (128, 128),
    (2**31 - 64, 256),
    (2**32 - 64, 256),
    (2**39 - 200, 512),
    (2**56, 256),
    (2**63 - 512, 512),
]


def mask_vector(key: ref.Key, p: float, start: int, count: int) -> dict[str, Any]:
    limit = ref.threshold(p)
    keep = ref.kept(key, p, np.uint64(start) + np.arange(count, dtype=np.uint64))
    return {
        "key": key.hex(),
        "p": p,
        "threshold": None if limit == 2**64 else f"{limit:016x}",
        "start_index": str(start),
        "count": count,
        "kept": np.packbits(keep, bitorder="little").tobytes().hex(),
    }


def normal_vector(key: ref.Key, start: int, count: int) -> dict[str, Any]:
    normals = ref.normals(key, np.uint64(start) + np.arange(count, dtype=np.uint64))
    bits = "".join(f"{int(word):08x}" for word in normals.view(np.uint32))
    return {"key": key.hex(), "start_index": str(start), "count": count, "bits": bits}


def vectors() -> dict[str, Any]:
    """All the vectors, as the dictionary that the file holds."""
    return {
        "about": ABOUT,
        "version": 2,
        "ars": [
            {
                "counter": counter.hex(),
                "key": key.hex(),
                "block": ref.ars(key, np.frombuffer(counter, dtype=np.uint8)).tobytes().hex(),
            }
            for counter, key in BLOCKS
        ],
        "seeds": [{"seed": str(seed), "key": ref.key_from_seed(seed).hex()} for seed in SEEDS],
        "fold_in": [
            {"key": key.hex(), "index": str(index), "child": ref.fold_in(key, index).hex()}
            for key in KEYS
            for index in FOLD_INDICES
        ],
        "split": [
            {"key": key.hex(), "children": [child.hex() for child in ref.split(key, 5)]}
            for key in KEYS
        ],
        "masks": [
            mask_vector(KEYS[(i + j) % len(KEYS)], p, start, count)
            for i, p in enumerate(PROBABILITIES)
            for j, (start, count) in enumerate(SPANS)
        ],
        "normals": [
            normal_vector(key, start, min(count, 256)) for key in KEYS for start, count in SPANS
        ],
    }


def render(data: dict[str, Any]) -> str:
    """JSON with one vector a line, so that a difference shows which one changed."""
    fields = []
    for name, value in data.items():
        if isinstance(value, list):
            lines = ",\n".join("    " + json.dumps(item) for item in value)
            fields.append(f'  "{name}": [\n{lines}\n  ]')
        else:
            fields.append(f'  "{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(fields) + "\n}\n"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(render(vectors()), encoding="utf-8", newline="\n")
