"""One number for each model, in memory that a replica's processes share: what "latest" means, right now.

The agent writes, workers only read. A write is one aligned machine word, so a reader sees the old number or the
new one; and once any worker has answered with the new one, none can read the old one any more. That is what keeps
versions from going back on a connection whose requests are answered by several workers.
"""

from __future__ import annotations

import mmap
import os

COUNT = 1 << 17
"""More than any replica has models; pages that are not touched take no memory."""

_BYTES = 8


class Cells:
    """The numbers; all are 0 at first.

    Args:
        descriptor: of the shared memory; whoever passes it on to a process keeps it open.
        writable: whether to write; only the process that created them may.
    """

    def __init__(self, descriptor: int, *, writable: bool = False) -> None:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, COUNT * _BYTES, access=access)
        self._numbers = memoryview(self._memory).cast("Q")
        self.read = self._numbers.__getitem__

    @classmethod
    def create(cls) -> Cells:
        descriptor = os.memfd_create("cortex-models")
        os.ftruncate(descriptor, COUNT * _BYTES)
        return cls(descriptor, writable=True)

    def write(self, index: int, number: int) -> None:
        """Make `number` what all processes read from here on."""
        self._numbers[index] = number
