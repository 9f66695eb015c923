"""Memory for large results, which is kept when they are gone and used again.

The C library returns large blocks to the system, so that each new tensor pays for its pages again:
more than the rest of a call. These blocks stay, up to a limit.
"""

import itertools
import threading
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
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.forget()

    def forget(self) -> None:
        """Keep nothing that has returned; for a forked child, whose parent may hold the lock."""
        self._spare: dict[int, Block] = {}  # in the order in which they returned
        self._numbers = itertools.count()
        self._size = 0
        # A block may return at any point of the methods below, in the thread that runs them.
        self._lock = threading.RLock()

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
        with self._lock:
            for number, block in reversed(list(self._spare.items())):
                if block.size == size and self._spare.pop(number, None) is not None:
                    self._size -= size
                    return block
        return None

    def _return(self, block: Block) -> None:
        with self._lock:
            self._spare[next(self._numbers)] = block
            self._size += block.size
            while self._size > self._most:
                self._size -= self._spare.pop(next(iter(self._spare))).size


def _aligned(size: int) -> Block:
    """Return new memory that begins with a cache line, as that of torch does."""
    memory = np.empty(size + LINE, dtype=np.uint8)
    first = -memory.ctypes.data % LINE
    return memory[first : first + size]


def _rounded(size: int) -> int:
    """Return the size with its lowest binary digits rounded up, so that few sizes differ."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step
