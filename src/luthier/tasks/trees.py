"""The best tree over the words of a sentence, with exactly one word below the root.

Enters: for each word the score of every head, 0 being the root. Leaves: each word's head. Found with Chu-Liu's and
Edmonds' contraction of cycles, on weights that are compared in two steps: first how many arcs leave the root and how
many are forbidden, which are whole numbers, then the score. So one root word is exact, where a large number taken
from the scores of root arcs would swallow their digits (compare Zmigrod, Vieira and Cotterell 2020, sec. 3).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

NEVER = -(1 << 40)
"""The level of an arc from a node to itself, below every sum of levels."""
LARGE = 2.0**500
"""Scores from here on are scaled down, so that no sum of them overflows."""


def fault(heads: Sequence[int]) -> str | None:
    """Why heads (of the words 1, 2, ...; 0 is the root) are no tree with one root word; None where they are one."""
    count = len(heads)
    beyond = next((i for i, h in enumerate(heads, 1) if not 0 <= h <= count), None)
    if beyond is not None:
        return f"the head of word {beyond} is {heads[beyond - 1]}, where there are {count} words"
    roots = sum(h == 0 for h in heads)
    if roots != 1:
        return f"{roots} words hang from the root, not one"
    walk = [0] * (count + 1)  # the word from which each was first met
    for start in range(1, count + 1):
        word = start
        while word and not walk[word]:
            walk[word] = start
            word = heads[word - 1]
        if word and walk[word] == start:
            return f"a cycle through word {word}"
    return None


def best_tree(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Heads (n,) of the tree with the largest sum of scores, (n, n + 1): a line a word, column 0 for the root.

    A word's own column is not looked at. Arcs of -inf (or not a number) are taken only where no tree does without;
    those of inf are preferred to all others.
    """
    count = len(scores)
    greedy = _greedy(scores)
    if greedy is not None:
        return greedy
    scores = np.array(scores, dtype=np.float64)
    scores[np.arange(count), np.arange(1, count + 1)] = 0.0
    level = np.zeros((count + 1, count + 1), dtype=np.int64)
    value = np.zeros((count + 1, count + 1))
    level[1:] = (scores == np.inf).astype(np.int64) - (np.isnan(scores) | (scores == -np.inf))
    level[1:, 0] -= 2 * count + 1  # one root arc more weighs more than all arcs that are preferred or forbidden
    value[1:] = np.where(np.isfinite(scores), scores, 0.0)
    largest = np.abs(value).max()
    if largest > LARGE:
        value *= 2.0 ** -np.ceil(np.log2(largest))
    deps, heads = np.indices((count + 1, count + 1))
    graph = _Graph(level, value, deps, heads, np.arange(count + 1))
    rounds: list[tuple[_Graph, NDArray[np.int64]]] = []
    while True:
        best = graph.reduce()
        cycles = _cycles(best)
        rounds.append((graph, best))
        if not cycles:
            break
        graph = graph.contract(cycles)
    return _unfold(rounds)[1:]


@functools.cache
def on_tensors() -> Callable[[Tensor, Tensor], Tensor]:
    """`best_tree` for many sentences: scores (sentences, nodes, nodes) with the root as node 0, and the nodes of each sentence.

    Gives the head of each node, (sentences, nodes), 0 beyond a sentence's end. It is an operator of torch's own, so that
    the memory plan, which runs on tensors without content, knows the size of what comes out.
    """
    import torch

    def heads(scores: Tensor, sizes: Tensor) -> Tensor:
        values = scores.detach().double().cpu().numpy()
        found = np.zeros(values.shape[:2], dtype=np.int64)
        for line, own, size in zip(found, values, sizes.tolist(), strict=True):
            line[1:size] = best_tree(own[1:size, :size])
        return torch.from_numpy(found).to(scores.device)

    made = torch.library.custom_op("luthier::best_trees", heads, mutates_args=(), schema="(Tensor scores, Tensor sizes) -> Tensor")
    made.register_fake(lambda scores, sizes: scores.new_empty(scores.shape[:2], dtype=torch.int64))
    return made


def _greedy(scores: NDArray[np.floating]) -> NDArray[np.int64] | None:
    """Each word's best head, where these happen to be a tree: most often so with a trained model."""
    words = np.arange(len(scores))
    others = np.array(scores, dtype=np.float64)
    others[words, words + 1] = 0.0
    if not np.isfinite(others).all():
        return None
    others[words, words + 1] = -np.inf
    heads = others.argmax(1)
    return heads if fault(heads.tolist()) is None else None


@dataclass
class _Graph:
    """Nodes, some of them contracted cycles; node 0 is the root.

    `level` and `value` (nodes, nodes) weigh the arc from head (column) to dependent (line); `deps` and `heads` name the
    words that it joins, and `place` (words + 1,) the node that holds a word.
    """

    level: NDArray[np.int64]
    value: NDArray[np.float64]
    deps: NDArray[np.int64]
    heads: NDArray[np.int64]
    place: NDArray[np.int64]

    def reduce(self) -> NDArray[np.int64]:
        """Each node's best head; its weight is taken from all arcs into the node, which changes no comparison of trees."""
        np.fill_diagonal(self.level, NEVER)
        best = _argmax(self.level, self.value)
        lines = np.arange(len(best))
        self.level -= self.level[lines, best][:, None]
        self.value -= self.value[lines, best][:, None]
        return best

    def contract(self, cycles: list[list[int]]) -> _Graph:
        """The graph in which each cycle is one node, with the best arc into it and out of it to each other node."""
        inside = {node for cycle in cycles for node in cycle}
        groups = [[node] for node in range(len(self.level)) if node not in inside] + cycles
        names = np.empty(len(self.level), dtype=np.int64)
        for name, group in enumerate(groups):
            names[group] = name
        first = [group[0] for group in groups]
        arrays: list[NDArray[Any]] = [self.level, self.value, self.deps, self.heads]
        taller = [a[first] for a in arrays]
        for name in range(len(groups) - len(cycles), len(groups)):
            group = groups[name]
            chosen = _argmax(self.level[group].T, self.value[group].T)
            for new, old in zip(taller, arrays, strict=True):
                new[name] = old[np.asarray(group)[chosen], np.arange(len(chosen))]
        smaller = [a[:, first] for a in taller]
        for name in range(len(groups) - len(cycles), len(groups)):
            group = groups[name]
            chosen = _argmax(taller[0][:, group], taller[1][:, group])
            for new, old in zip(smaller, taller, strict=True):
                new[:, name] = old[np.arange(len(chosen)), np.asarray(group)[chosen]]
        return _Graph(smaller[0], smaller[1], smaller[2], smaller[3], names[self.place])


def _argmax(level: NDArray[np.int64], value: NDArray[np.float64]) -> NDArray[np.int64]:
    """In each line the place of the highest level, and of the largest value among those."""
    return np.where(level == level.max(1, keepdims=True), value, -np.inf).argmax(1)


def _cycles(best: NDArray[np.int64]) -> list[list[int]]:
    """The cycles of nodes that are each other's best heads."""
    heads = best.tolist()
    seen = [0] * len(heads)
    found = []
    for start in range(1, len(heads)):
        node = start
        while node and not seen[node]:
            seen[node] = start
            node = heads[node]
        if node and seen[node] == start:
            cycle = [node]
            while (after := heads[cycle[-1]]) != node:
                cycle.append(after)
            found.append(cycle)
    return found


def _unfold(rounds: list[tuple[_Graph, NDArray[np.int64]]]) -> NDArray[np.int64]:
    """Heads of all words, from the last graph, which has no cycle, back to the first, where each node is a word."""
    final, best = rounds[-1]
    arcs = {node: (final.deps[node, best[node]], final.heads[node, best[node]]) for node in range(1, len(best))}
    for graph, best in reversed(rounds[:-1]):
        entered = {int(graph.place[dep]): (dep, head) for dep, head in arcs.values()}
        arcs = {node: entered.get(node, (graph.deps[node, best[node]], graph.heads[node, best[node]])) for node in range(1, len(best))}
    heads = np.zeros(len(rounds[0][1]), dtype=np.int64)
    for dep, head in arcs.values():
        heads[dep] = head
    return heads
