"""Where an allocator would put tensors: what a process holds is more than what lives in it.

Enters: sizes, in the order in which they are asked for and given back. Leaves: the bytes that the process holds.
It is glibc's way with the settings of `models/host.py`: pieces of MAPPED bytes and more are mapped alone and given
back at once; smaller ones are cut from one heap, best fit first, neighbours that are free grow together, and the heap
never shrinks. So holes that nothing fits into are counted, which a sum over living tensors would leave out.
"""

from __future__ import annotations

from bisect import bisect_left, insort

MAPPED = 32 << 20
GRAIN, MARGIN = 16, 96
"""Sizes are whole grains. Pieces are aligned to cache lines: to be sure of it, glibc asks its heap for a margin more than it
needs, so that a hole of exactly the right size is passed over, and cuts the margin off again."""
EVERY = 3
"""Two in so many margins are taken by a small object (a node of the graph, a tensor's head) before the neighbour is free
again. The two then do not grow together until the object is gone, and the neighbour is too small for a tensor like the
one that left it."""
WASTE = 0.33
"""What is added to the part of the heap that comes and goes: what kernels take for themselves leaves holes too. As EVERY,
found with benchmarks/memory.py, whose own repetitions differ by a tenth."""


class Heap:
    """`held` is what the process holds now, `peak` the most since `mark`."""

    def __init__(self) -> None:
        self.top = self.apart = self.peak = self._used = self._steady = 0
        self._free: list[tuple[int, int]] = []
        """(size, start) of the holes, by size."""
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._cuts = 0
        self._pinned: list[int] = []

    @property
    def held(self) -> int:
        return self.top + round(WASTE * (self.top - self._steady)) + self.apart

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
            whole = size + MARGIN
            found = bisect_left(self._free, (whole, -1))
            if found < len(self._free):
                length, start = self._free[found]
                self._forget(length, start)
                if length > whole:
                    self._remember(length - whole, start + whole)
            else:
                start = self._extend(whole)
            self._cuts += 1
            if self._cuts % EVERY:
                self._pinned.append(start)
                start += MARGIN
            else:
                size = whole
            self._used += size
            place = start, size
        self.peak = max(self.peak, self.held)
        return place

    def give_back(self, place: tuple[int, int]) -> None:
        """The place is free again."""
        start, size = place
        if start < 0:
            self.apart -= size
            return
        self._used -= size
        self._free_up(start, size)

    def _free_up(self, start: int, size: int) -> None:
        if (before := self._ends.get(start)) is not None:
            self._forget(start - before, before)
            start, size = before, size + start - before
        if (length := self._starts.get(start + size)) is not None:
            self._forget(length, start + size)
            size += length
        self._remember(size, start)

    def rest(self) -> None:
        """The graph of a step is gone, and the small objects with it; what is left stays."""
        pinned, self._pinned = self._pinned, []
        for start in pinned:
            self._free_up(start, MARGIN)
        self._steady = self._used

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
