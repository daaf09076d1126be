"""Where an allocator would put tensors: what a process holds is more than what lives in it.

Enters: sizes, in the order in which they are asked for and given back. Leaves: the bytes that the process holds.
It is glibc's way with the settings of `models/host.py`: pieces of MAPPED bytes and more are mapped alone and given
back at once; smaller ones are cut from one heap, best fit first, neighbours that are free grow together, and the heap
never shrinks. So holes that nothing fits into are counted, which a sum over living tensors would leave out.
"""

from __future__ import annotations

from bisect import bisect_left, insort

MAPPED = 32 << 20
GRAIN = 128
"""Pieces are aligned to cache lines, with a header before. To be sure of the alignment, glibc asks its heap for so much
more than it needs: a hole of exactly the right size is passed over."""

WASTE = 1.3
"""What the heap comes to over one that sees the same batch again and again: others have other sizes, and leave other
holes; kernels take scratch space. Measured by benchmarks/memory.py."""


class Heap:
    """`held` is what the process holds now, `peak` the most since `mark`."""

    def __init__(self) -> None:
        self.top = self.apart = self.peak = 0
        self._free: list[tuple[int, int]] = []
        """(size, start) of the holes, by size."""
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    @property
    def held(self) -> int:
        return round(self.top * WASTE) + self.apart

    def mark(self) -> int:
        """The peak since the last mark, which starts anew."""
        peak, self.peak = self.peak, self.held
        return peak

    def take(self, size: int) -> tuple[int, int]:
        """A place for `size` bytes: (start, size as it is held); start -1 where it is mapped alone."""
        size = -(-max(size, 1) // GRAIN) * GRAIN
        if size >= MAPPED:
            self.apart += size
            place = -1, size
        else:
            found = bisect_left(self._free, (size + GRAIN, -1))
            if found < len(self._free):
                length, start = self._free[found]
                self._forget(length, start)
                if length > size:
                    self._remember(length - size, start + size)
            else:
                start = self._extend(size)
            place = start, size
        self.peak = max(self.peak, self.held)
        return place

    def give_back(self, place: tuple[int, int]) -> None:
        """The place is free again."""
        start, size = place
        if start < 0:
            self.apart -= size
            return
        if (before := self._ends.get(start)) is not None:
            self._forget(start - before, before)
            start, size = before, size + start - before
        if (length := self._starts.get(start + size)) is not None:
            self._forget(length, start + size)
            size += length
        self._remember(size, start)

    def _extend(self, size: int) -> int:
        """Grow the heap; a hole at its end is used."""
        start = self._ends.get(self.top)
        if start is None:
            start = self.top
        else:
            self._forget(self.top - start, start)
        self.top = start + size
        return start

    def _remember(self, size: int, start: int) -> None:
        insort(self._free, (size, start))
        self._starts[start], self._ends[start + size] = size, start

    def _forget(self, size: int, start: int) -> None:
        del self._free[bisect_left(self._free, (size, start))]
        del self._starts[start], self._ends[start + size]
