"""Embedding gradients without a vocabulary-sized buffer a step.

torch's backward fills a dense (vocabulary, width) tensor with zeros at every step, then adds a few
hundred rows. Here the gradient buffer is kept, the rows of this batch are added to it in place, and
after the update only those rows are zeroed again (`clear`). The gradient that the optimizer sees is
the same dense one.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

MIN_ELEMENTS = 1 << 20
"""Smaller tables are left to torch."""


class _Rows(torch.autograd.Function):
    """Lookup whose backward adds into `weight.grad` directly and returns no gradient for it.

    `anchor` is a leaf that requires grad, so that the node is part of the graph.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, table: KeptEmbedding, ids: Tensor) -> Tensor:
        ctx.table, ctx.ids = table, ids
        return table.rows(ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        table: KeptEmbedding = ctx.table
        ids, rows = ctx.ids.reshape(-1), gradients[0].reshape(-1, gradients[0].shape[-1])
        if table.padding_idx is not None:
            kept = ids != table.padding_idx
            ids, rows = ids[kept], rows[kept]
        if table.weight.grad is None:
            table.weight.grad = torch.zeros_like(table.weight)
        table.weight.grad.index_add_(0, ids, rows.to(table.weight.dtype))
        table.touched.append(ids)
        return None, None, None


class KeptEmbedding(nn.Embedding):
    """`nn.Embedding` with a kept gradient buffer, for tables that nothing else adds gradients to.

    The table may be of higher precision than what it gives (`gives`): with bf16 weights it stays
    fp32 and needs no master copy.
    """

    touched: list[Tensor]
    anchor: Tensor
    gives: torch.dtype

    def forward(self, input: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return self.rows(input)
        return _Rows.apply(self.anchor, self, input)  # type: ignore[no-untyped-call, no-any-return]

    def rows(self, ids: Tensor) -> Tensor:
        """The looked-up rows, (*ids.shape, width), outside any graph."""
        return self.weight.detach().index_select(0, ids.reshape(-1)).view(*ids.shape, -1).to(self.gives)

    def clear(self) -> None:
        """Zero the rows that gradients were added to since the last call."""
        if self.weight.grad is not None and self.touched:
            self.weight.grad.index_fill_(0, torch.cat(self.touched), 0)
        self.touched.clear()


def install(model: nn.Module, *, dtype: torch.dtype) -> list[KeptEmbedding]:
    """Keep the gradient of the large, untied embedding tables of `model`; returns those found."""
    uses: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            uses[id(weight)] = uses.get(id(weight), 0) + 1
    found: list[KeptEmbedding] = []
    for module in model.modules():
        if type(module) is not nn.Embedding or module.max_norm is not None or module.scale_grad_by_freq:
            continue
        if module.weight.numel() < MIN_ELEMENTS or uses[id(module.weight)] > 1:
            continue
        module.__class__ = KeptEmbedding
        table = cast(KeptEmbedding, module)
        table.touched, table.gives = [], dtype
        table.anchor = torch.zeros((), requires_grad=True)
        found.append(table)
    return found
