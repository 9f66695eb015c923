"""Memory for large results, which is kept when they are gone and used again.

The C library returns large blocks to the system, so that each new tensor pays for its pages again:
more than the rest of a call. These blocks stay, up to a limit.
"""

import itertools
import weakref

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.uint8]

LINE = 64
"""Bytes of a cache line."""


class Blocks:
    """Blocks of memory that are lent, and return when nobody holds what was lent.

    `most` is the number of bytes that are kept while nobody uses them; those that returned first go
    first.

    A block returns in a finalizer, which may run inside any method below, and signal handlers and
    other threads may make calls there. So there is no lock to wait for and no count to keep: each
    step on `_spare` is one operation of the dictionary, and nothing iterates over the dictionary
    itself.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.forget()

    def forget(self) -> None:
        """Keep nothing that has returned; for a forked child, which may never use it."""
        self._spare: dict[int, Block] = {}  # in the order in which they returned
        self._numbers = itertools.count()

    def lend(self, size: int) -> tuple[Block, bool]:
        """Return `size` bytes, and whether they are new to the process."""
        rounded = _rounded(size)
        block = self._take(rounded)
        new = block is None
        if block is None:
            block = _aligned(rounded)
        # Of a buffer, so that its views hold this array: they would hold the block instead.
        lent = np.frombuffer(block.data, dtype=np.uint8, count=size)
        weakref.finalize(lent, self._return, block).atexit = False
        return lent, new

    def _take(self, size: int) -> Block | None:
        for number in reversed(list(self._spare)):
            block = self._spare.get(number)
            # Of several callers that see a block, one removes it.
            if block is not None and block.size == size and self._spare.pop(number, None) is block:
                return block
        return None

    def _return(self, block: Block) -> None:
        self._spare[next(self._numbers)] = block
        excess = sum(block.size for block in list(self._spare.values())) - self._most
        for number in list(self._spare):
            if excess <= 0:
                break
            gone = self._spare.pop(number, None)
            excess -= 0 if gone is None else gone.size


def _aligned(size: int) -> Block:
    """Return new memory that begins with a cache line, as that of torch does."""
    memory = np.empty(size + LINE, dtype=np.uint8)
    first = -memory.ctypes.data % LINE
    return memory[first : first + size]


def _rounded(size: int) -> int:
    """Return the size with its lowest binary digits rounded up, so that few sizes differ."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step
