"""A cache of storages for large results: each is lent again once nothing else holds it.

The C library returns large blocks to the system, and each new tensor takes fresh pages, which
cost more than the rest of a call.
"""

import sys
import weakref
from typing import Any

import torch
from torch import Tensor

_uses: Any = getattr(torch._C, "_storage_Use_Count", None)


class _Known:
    """A storage that torch made, and its state while it is whole and nothing else holds it."""

    __slots__ = ("address", "alone", "size", "storage")

    def __init__(self, size: int) -> None:
        self.storage = torch.empty(size, dtype=torch.uint8, device="cpu").untyped_storage()
        self.size, self.address = size, self.storage.data_ptr()
        self.alone = self.holders()

    def holders(self) -> tuple[int, int]:
        """Return the number of tensors on the storage, and of references to its Python object."""
        return _uses(self.storage._cdata), sys.getrefcount(self.storage)

    def is_whole(self) -> bool:
        """Return whether the storage and its Python object are as they were made.

        `Tensor.numpy` fixes the size of a storage; `share_memory_` and `resize_` move it.
        """
        return (
            self.storage.nbytes() == self.size
            and self.storage.resizable()
            and not self.storage.is_shared()
            and self.storage.data_ptr() == self.address
            and not vars(self.storage)
            and not weakref.getweakrefcount(self.storage)
        )


class Storages:
    """Storages of at most `most` bytes together, in use or not.

    The least recently lent are evicted first.

    Signal handlers, finalizers and other threads may call `lend` inside any step of it. So there is
    no lock, and each step on `_spare` is one operation of the dictionary. Whoever removes a storage
    is the only one to lend it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.forget()

    def forget(self) -> None:
        """Empty the cache in a forked child."""
        self._spare: dict[_Known, bool] = {}  # in the order in which they were lent

    def lend(
        self, size: int, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> tuple[Tensor, bool]:
        """Return a tensor of `size` bytes, and whether its memory is new to the process."""
        if size > self._most or _uses is None:
            return torch.empty_strided(shape, stride, dtype=dtype, device="cpu"), True
        known = self._take(size)
        new = known is None
        if known is None:
            known = _Known(size)
        y = torch.empty(0, dtype=dtype, device="cpu").set_(known.storage, 0, shape, stride)
        self._spare[known] = True
        excess = sum(known.size for known in list(self._spare)) - self._most
        for oldest in list(self._spare):
            if excess <= 0:
                break
            excess -= oldest.size if self._spare.pop(oldest, False) else 0
        return y.data, new  # `data` has a version of its own: `set_` has raised that of `y`

    def _take(self, size: int) -> _Known | None:
        for known in reversed(list(self._spare)):
            if known.size != size or known.holders() != known.alone:
                continue
            if not self._spare.pop(known, False):
                continue
            if known.holders() != known.alone:  # lent meanwhile
                self._spare[known] = True
            elif known.is_whole():
                return known
        return None
