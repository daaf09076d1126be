"""The allocator's arithmetic: what is given back is used again, neighbours grow together, large pieces are exact."""

from __future__ import annotations

import itertools
import random

from luthier.models.heap import GRAIN, MAPPED, Heap


def test_large_pieces_are_mapped_alone_and_given_back():
    heap = Heap()
    place = heap.take(MAPPED)
    assert (heap.top, heap.apart) == (0, MAPPED)
    heap.give_back(place)
    assert heap.held == 0
    assert heap.mark() == MAPPED
    assert heap.mark() == 0


def test_neighbours_that_are_free_hold_a_larger_piece_once_the_small_objects_between_them_are_gone():
    heap = Heap()
    places = [heap.take(1000) for _ in range(4)]
    heap.give_back(places[0])
    heap.give_back(places[1])
    top = heap.top
    larger = heap.take(1500)
    assert heap.top > top, "a small object stands between the two"
    heap.give_back(larger)
    heap.rest()
    top = heap.top
    heap.take(1500)
    assert heap.top == top


def test_random_pieces_never_overlap():
    heap, draw = Heap(), random.Random(0)
    living: list[tuple[int, int]] = []
    for _ in range(3000):
        if living and draw.random() < 0.5:
            heap.give_back(living.pop(draw.randrange(len(living))))
        else:
            living.append(heap.take(draw.randrange(1, 50_000)))
    ordered = sorted(living)
    assert all(start + size <= after for (start, size), (after, _) in itertools.pairwise(ordered))
    assert all(size % GRAIN == 0 for _, size in living)
    assert ordered[-1][0] + ordered[-1][1] <= heap.top
