"""Embedding gradients without a vocabulary-sized buffer a step.

torch's backward fills a dense (vocabulary, width) tensor with zeros at every step, then adds a few
hundred rows. Here the gradient buffer is kept, the rows of this batch are added to it in place, and
after the update only those rows are zeroed again (`clear`). The gradient that the optimizer sees is
the same dense one. Where the table is the head too (tied weights), the head's gradient comes first and
the rows are added to it.
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
        if not table.tied:
            table.touched.append(ids)
        return None, None, None


class KeptEmbedding(nn.Embedding):
    """`nn.Embedding` with a kept gradient buffer, for tables that nothing else adds gradients to but a tied head.

    The table may be of higher precision than what it gives (`gives`): with bf16 weights it stays
    fp32 and needs no master copy.
    """

    touched: list[Tensor]
    anchor: Tensor
    gives: torch.dtype
    tied: bool

    def forward(self, input: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return self.rows(input)
        return _Rows.apply(self.anchor, self, input)  # type: ignore[no-untyped-call, no-any-return]

    def rows(self, ids: Tensor) -> Tensor:
        """The looked-up rows, (*ids.shape, width), outside any graph."""
        return self.weight.detach().index_select(0, ids.reshape(-1)).view(*ids.shape, -1).to(self.gives)

    def clear(self) -> None:
        """Zero the rows that gradients were added to since the last call; a tied table's buffer is written anew instead."""
        if self.tied:
            self.weight.grad = None
        if self.weight.grad is not None and self.touched:
            self.weight.grad.index_fill_(0, torch.cat(self.touched), 0)
        self.touched.clear()


def install(model: nn.Module, *, dtype: torch.dtype, head: nn.Module | None = None) -> list[KeptEmbedding]:
    """Keep the gradient of the large embedding tables of `model`; returns those found.

    Several plain tables may share a weight, and so may `head`, whose loss hands its gradient over through
    `models/language.py`. Where another kind of module shares it, it is left to torch; a tied one stays
    fp32 with its head all the same, so it too is made to give `dtype`.
    """
    users: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            users.setdefault(id(weight), []).append(module)
    found: list[KeptEmbedding] = []
    for modules in users.values():
        tables = [m for m in modules if m is not head and isinstance(m, nn.Embedding)]
        tied = head in modules
        if not tables or tables[0].weight.numel() < MIN_ELEMENTS or len(tables) + tied < len(modules):
            continue
        if all(type(m) is nn.Embedding and m.max_norm is None and not m.scale_grad_by_freq for m in tables):
            found += [_keep(m, dtype=dtype, tied=tied) for m in tables]
        elif tied:
            for table in tables:
                table.register_forward_hook(lambda *call: call[-1].to(dtype))
    return found


def _keep(module: nn.Embedding, *, dtype: torch.dtype, tied: bool) -> KeptEmbedding:
    module.__class__ = KeptEmbedding
    table = cast(KeptEmbedding, module)
    table.touched, table.gives, table.tied = [], dtype, tied
    table.anchor = torch.zeros((), requires_grad=True)
    return table
