"""A model without memory: the same code over tensors that have a size and no content.

Enters: code that builds a model, runs it and moves its weights. Leaves: how many bytes its tensors would hold at
once. Tensors are torch's fake ones (shape, type and device, no data), so a step of a model that fits no machine
takes seconds, and every copy, cache and gradient buffer of the real code is counted because that code is what runs.
Bookkeeping that holds no floats (offsets, places, masks of a batch) stays real: code reads its values.
"""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from luthier.models import rows
from luthier.models.heap import Heap
from luthier.models.host import KERNELS

aten: Any = torch.ops.aten
REAL = (aten.arange.default, aten.arange.start, aten.arange.start_step)
"""What is computed from nothing and yet is bookkeeping."""
PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.linear.default)
COMPILED = 258_376
"""Bytes of oneDNN's code for a product of new sizes, as its allocator asks for them."""
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class Shadow(TorchDispatchMode):
    """Counts the bytes of all fake tensors: `live` is what they hold, `heap` what a process would hold for them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.heap = Heap()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._places: dict[Any, tuple[int, int] | None] = {}
        self._compiled: OrderedDict[Any, tuple[int, int]] = OrderedDict()

    def settle(self, in_files: Iterable[Tensor] = ()) -> int:
        """Begin anew with what lives now; `in_files` lie in the pages of a file and need no place. Their bytes are returned."""
        apart = {weakref.ref(t.untyped_storage()): t.untyped_storage().nbytes() for t in in_files}
        self.heap = Heap()
        self._compiled.clear()
        for reference in self._places:
            storage = reference()
            out = reference in apart or storage is None
            self._places[reference] = None if out else self.heap.take(storage.nbytes())
        self.heap.rest()
        return sum(apart.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in tree_iter((args, kwargs)) if isinstance(a, Tensor)]
        fake = any(isinstance(a, FakeTensor) for a in tensors)
        if func is aten._local_scalar_dense.default and fake:
            return 1.0
        if fake and func in INDEXING:
            args = (args[0], _places(args[1]), *args[2:])
        if fake or (not tensors and func not in REAL):
            with self._fake:
                out = func(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        if fake and func in PRODUCTS:
            self._compile((func, *((t.shape, t.stride(), t.dtype) for t in tensors)))
        for value in tree_iter(out):
            if isinstance(value, FakeTensor):
                self._count(value)
        return out

    def _count(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        reference = weakref.ref(storage, functools.partial(self._gone, storage.nbytes()))
        if reference not in self._places:
            self._places[reference] = self.heap.take(storage.nbytes())
            self.live += storage.nbytes()

    def _compile(self, product: Any) -> None:
        """Have the code of a product stand in the heap, among the tensors, until it is the oldest."""
        if product in self._compiled:
            self._compiled.move_to_end(product)
            return
        self._compiled[product] = self.heap.take(COMPILED)
        if len(self._compiled) > 2 * KERNELS:
            self.heap.give_back(self._compiled.popitem(last=False)[1])

    def _gone(self, size: int, reference: Any) -> None:
        place = self._places.pop(reference)
        self.live -= size
        if place is not None:
            self.heap.give_back(place)


def _places(indices: Any) -> list[Any]:
    """Masks as places: how many there are is known, since bookkeeping is real."""
    found: list[Any] = []
    for index in indices:
        masks = isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        found += index.nonzero(as_tuple=True) if masks else [index]
    return found


BITS = {8: 1.0, 4: 0.53}
"""Bytes a weight: one; half of one, and the scales of its block."""


class _Unpack(torch.autograd.Function):
    """A product with a packed weight, which stands unpacked in bf16 for as long as the product takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return (x.to(torch.bfloat16) @ torch.empty(shape, dtype=torch.bfloat16).t()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        weight = torch.empty(ctx.shape, dtype=torch.bfloat16)
        return (gradients[0].to(torch.bfloat16) @ weight).to(gradients[0].dtype), None


class ShadowPacked(nn.Linear):
    """Stands for `models/packed.py`'s layers: the bytes of one, without its kernels."""

    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = _Unpack.apply(input, (self.out_features, self.in_features))  # type: ignore[no-untyped-call]
        return found if self.bias is None else found + self.bias


def pack(model: nn.Module, *, bits: int) -> None:
    """Let the linear layers inside the stacks have the size of packed ones, and tables and heads that of bf16."""
    from luthier.models.adapters.injected import linears

    inside: dict[str, Any] = {n: m for n, m in linears(model).items() if type(m) is nn.Linear}
    for layer in inside.values():
        layer.__class__ = ShadowPacked
        number = layer.weight.numel()
        layer.weight = nn.Parameter(torch.empty(round(layer.weight.numel() * BITS[bits]), dtype=torch.uint8), requires_grad=False)
        layer.weight.stands_for = number
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.data = module.weight.data.to(torch.bfloat16)
            module.register_forward_hook(lambda *call: call[-1].float())


@contextmanager
def shadow(mode: Shadow) -> Iterator[Shadow]:
    """Run what is inside on fake tensors; may be entered again with the same `mode`."""
    convert = nn.Module._apply
    nn.Module._apply = _converted(convert)  # type: ignore[method-assign, assignment]
    try:
        with mode:
            yield mode
    finally:
        nn.Module._apply = convert  # type: ignore[method-assign]
        rows.allowed.cache_clear()


def _converted(real: Callable[..., Any]) -> Callable[..., Any]:
    """`Module.to` for fake parameters, which torch cannot swap in place once they are counted."""

    def apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        if not any(isinstance(p, FakeTensor) for p in self.parameters()):
            return real(self, fn, recurse)
        for child in self.children():
            child._apply(fn)
        for name, parameter in self._parameters.items():
            if parameter is not None and (value := _without_grad(fn, parameter)) is not parameter:
                self._parameters[name] = nn.Parameter(value, parameter.requires_grad)
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = fn(buffer)
        return self

    return apply


@torch.no_grad()
def _without_grad(fn: Callable[[Tensor], Tensor], parameter: nn.Parameter) -> Tensor:
    return fn(parameter)
