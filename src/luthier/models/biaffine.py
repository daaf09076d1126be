"""A head that scores, for each word of a sentence, every other word as its head, and every label of an arc.

Enters: a batch whose layers mark words, heads and relations. Leaves: the loss of its arcs, or the figures of each
sentence; arcs are scored a group of sentences of similar length at a time. After Dozat and Manning (2017): small views
of each word, as a head and as a dependent, for arcs and for labels, joined by bilinear forms; the root is a learned state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.batch import UNGRADED, Batch, Group, Loss, Segments, segments_of
from luthier.models.forward import Layout, hidden_states

CHUNK = 2048
"""Arcs that are labelled at a time, where no gradient is wanted."""
Trees = Callable[[Tensor, Tensor], Tensor]
"""Scores of a group's arcs, (sentences, nodes, nodes), and the nodes of each, to the number of each node's head, (sentences, nodes)."""


@dataclass(frozen=True)
class Views:
    """What the forms join, flat: (nodes, arc width) twice, (nodes, label width) twice."""

    arc_dep: Tensor
    arc_head: Tensor
    label_dep: Tensor
    label_head: Tensor


@dataclass(frozen=True)
class Sentences:
    """A flat run of nodes, each sentence's root before its words, fewest words first.

    `source` (nodes,) says which word of the batch a node is, -1 for a root. `words` (words,) and `roots` (words,)
    are, for each word as the batch has it, its node and that of its sentence's root: the node of head number h is
    `roots + h`.
    """

    segments: Segments
    source: Tensor
    words: Tensor
    roots: Tensor


def sentences_of(counts: Sequence[int], *, device: torch.device) -> Sentences:
    """Lay sentences with so many words each, one at least, into a run."""
    order = sorted(range(len(counts)), key=counts.__getitem__)
    segments = segments_of([counts[i] + 1 for i in order])
    first = torch.tensor([sum(counts[:i]) for i in range(len(counts))])
    starts = torch.empty(len(counts), dtype=torch.int64)
    starts[torch.tensor(order)] = segments.starts
    sizes = torch.tensor(list(counts))
    roots = torch.repeat_interleave(starts, sizes)
    number = torch.arange(int(sizes.sum())) - torch.repeat_interleave(first, sizes)
    words = roots + number + 1
    source = torch.full((int(sizes.sum()) + len(counts),), -1)
    source[words] = torch.arange(len(words))
    return Sentences(segments.to(device), source.to(device), words.to(device), roots.to(device))


class Biaffine(nn.Module):
    """The head. Its forms begin at zero: every head and every label is as likely as another until it has learned."""

    def __init__(self, width: int, *, arc_width: int, label_width: int, labels: int, dropout: float) -> None:
        super().__init__()

        def view(size: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(width, size), nn.GELU(), nn.Dropout(dropout))

        self.dropout = nn.Dropout(dropout)
        self.root = nn.Parameter(torch.randn(width))
        self.arc_dep, self.arc_head = view(arc_width), view(arc_width)
        self.label_dep, self.label_head = view(label_width), view(label_width)
        self.arc_form = nn.Parameter(torch.zeros(arc_width + 1, arc_width))
        self.label_form = nn.Parameter(torch.zeros(label_width + 1, labels * (label_width + 1)))

    def forward(self, states: Tensor, sentences: Sentences) -> Views:
        """States of words, (words, width), as views of nodes."""
        nodes = self.dropout(torch.cat([states, self.root[None].to(states.dtype)])[sentences.source])
        return Views(self.arc_dep(nodes), self.arc_head(nodes), self.label_dep(nodes), self.label_head(nodes))

    def arcs(self, views: Views, group: Group) -> Tensor:
        """Scores of arcs in a group, (sentences, nodes, nodes): a line a dependent, a column a head; -inf where none can be.

        The lines of roots, and those after a shorter sentence's end, are of no meaning.
        """
        dep, head = _rows(views.arc_dep, group), _rows(views.arc_head, group)
        scores = (_biased(dep) @ self.arc_form @ head.transpose(1, 2)).float()
        barred = torch.eye(group.length, dtype=torch.bool, device=scores.device)[None]
        if group.real is not None:
            barred = barred | ~group.real[:, None, :]
        return scores.masked_fill(barred, -torch.inf)

    def labels(self, views: Views, deps: Tensor, heads: Tensor) -> Tensor:
        """Scores of the labels of arcs between nodes, (arcs, labels)."""

        def some(part: slice) -> Tensor:
            dep, head = _biased(views.label_dep[deps[part]]), _biased(views.label_head[heads[part]])
            return ((dep @ self.label_form).view(len(dep), -1, head.shape[1]) @ head[:, :, None])[:, :, 0].float()

        if torch.is_grad_enabled() or len(deps) <= CHUNK:
            return some(slice(None))
        return torch.cat([some(slice(i, i + CHUNK)) for i in range(0, len(deps), CHUNK)])


def biaffine(*, arc_width: int, label_width: int, labels: int, dropout: float) -> Callable[[int], Biaffine]:
    """What makes the head, given the trunk's width."""
    return lambda width: Biaffine(width, arc_width=arc_width, label_width=label_width, labels=labels, dropout=dropout)


def _rows(flat: Tensor, group: Group) -> Tensor:
    """A group's part of the flat run, (sentences, nodes, width)."""
    if group.places is not None:
        return flat[group.places]
    return flat[group.start : group.start + group.tokens].view(group.rows, group.length, -1)


def _biased(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)


@dataclass(frozen=True)
class Marked:
    """The words of a batch as the head sees them, and what the layers say of each: its head's number and its relation, or UNGRADED."""

    head: Any
    sentences: Sentences
    views: Views
    heads: Tensor
    relations: Tensor
    owner: Tensor

    def grouped(self) -> list[Tensor]:
        """The scores of each group's arcs, (sentences, nodes, nodes)."""
        return [self.head.arcs(self.views, group) for group in self.sentences.segments.groups]

    def nats(self, scores: Sequence[Tensor]) -> Tensor:
        """What each word's head and relation cost, (words,); 0 where they are not graded."""
        nodes = torch.full_like(self.sentences.source, UNGRADED)
        nodes[self.sentences.words] = self.heads
        groups = self.sentences.segments.groups
        gold = nodes.split([group.tokens for group in groups])
        lines = [_lines(found, group) for found, group in zip(scores, groups, strict=True)]
        found = torch.cat([_cost(each, own) for each, own in zip(lines, gold, strict=True)])[self.sentences.words]
        graded = (self.heads != UNGRADED).nonzero().squeeze(1)
        if not len(graded):
            return found
        words, heads = self.sentences.words[graded], (self.sentences.roots + self.heads)[graded]
        return found.index_add(0, graded, _cost(self.head.labels(self.views, words, heads), self.relations[graded]))


def marked(model: nn.Module, batch: Batch, layout: Layout) -> Marked:
    """The words of a batch; layer `words` is a word's number from 0 where it begins, `head` its head's from 1, 0 for the root."""
    places = (batch.layers["words"] >= 0).nonzero().squeeze(1)
    owner = batch.segments.owner[places]
    counts = torch.bincount(owner, minlength=batch.segments.count)
    sentences, head = sentences_of(counts.tolist(), device=places.device), model.head
    views = head(hidden_states(model, batch, layout)[places], sentences)  # type: ignore[operator]
    return Marked(head, sentences, views, batch.layers["head"][places], batch.layers["relation"][places], owner)


def arc_loss(model: nn.Module, batch: Batch, layout: Layout) -> Loss:
    """Cross-entropy of each word's head, and of its relation to the true head, summed over words."""
    found = marked(model, batch, layout)
    nats = found.nats(found.grouped())
    return Loss(nats.sum(), float((found.heads != UNGRADED).sum()))


def arc_figures(
    model: nn.Module, batch: Batch, layout: Layout, *, trees: Trees, universal: Sequence[int], allowed: Sequence[Sequence[bool]], slots: int
) -> Tensor:
    """Figures of each sentence, (segments, 5 + slots).

    Nats; words with the right head; with the right relation to it too; with one of the same `universal` number; with the
    right relation wherever it leads. Then each word's arc as head number x relations + relation, -1 beyond the last word.
    `allowed` says which relations lead from the root, and which from words.
    """
    found = marked(model, batch, layout)
    scores, sentences = found.grouped(), found.sentences
    nats = found.nats(scores)
    parts, sizes = [], sentences.segments.lengths.split([group.rows for group in sentences.segments.groups])
    for group, own, each in zip(sentences.segments.groups, sizes, scores, strict=True):
        best = trees(each, own).flatten()
        parts.append(best if group.valid is None else best[group.valid])
    heads = torch.cat(parts)[sentences.words]
    labels = found.head.labels(found.views, sentences.words, sentences.roots + heads)
    possible = torch.tensor(allowed, device=labels.device)[(heads > 0).long()]
    relations = labels.masked_fill(~possible, -torch.inf).argmax(1)
    right, same = heads == found.heads, relations == found.relations
    kinds = torch.tensor(universal, device=labels.device)
    alike = (kinds[relations] == kinds[found.relations.clamp_min(0)]) & (found.relations != UNGRADED)
    words = torch.stack([nats, right, right & same, right & alike, same], 1).double()
    out = torch.full((batch.segments.count, words.shape[1] + slots), -1.0, dtype=torch.float64, device=labels.device)
    out[:, : words.shape[1]] = torch.zeros(batch.segments.count, words.shape[1], dtype=torch.float64, device=labels.device).index_add(
        0, found.owner, words
    )
    out[found.owner, words.shape[1] + sentences.words - sentences.roots - 1] = (heads * len(universal) + relations).double()
    return out


def _lines(scores: Tensor, group: Group) -> Tensor:
    """The lines of a group's own nodes, (nodes, longest)."""
    flat = scores.flatten(0, 1)
    return flat if group.valid is None else flat[group.valid]


def _cost(scores: Tensor, gold: Tensor) -> Tensor:
    return nn.functional.cross_entropy(scores, gold, ignore_index=UNGRADED, reduction="none")
