"""Linear layers whose frozen weights lie in 8 or 4 bits, in bitsandbytes' own format.

Enters: a weight as the checkpoint has it. Leaves: a layer that computes with bf16 products and fp32 sums of
layers, the same in training and evaluation. It is a bitsandbytes layer to all that ask (PEFT does), but its
forward is its own: on CPUs with bf16 instructions bitsandbytes' 4-bit layer repacks its weights in the first
evaluation, after which no gradient passes through it, and its 8-bit layer rounds activations in evaluation that
it does not round in training.

Importing this needs the package bitsandbytes: `models/quantize.py` does it, once it is known to be there.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes import functional as bnb_functional
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 64
"""Weights that share a scale in 4 bits."""
PIECE = 1 << 20
"""Weights that are quantised at a time: what is computed on the way is fp32, and a few times as large."""
STEPS = 127.0
"""An 8-bit weight is its row's largest magnitude times so many parts."""


class Packed4(bnb.nn.Linear4bit):
    """4-bit NormalFloat in blocks of 64 (Dettmers et al. 2023), optionally with the scales in 8 bits."""

    def __init__(self, like: nn.Module, *, nested: bool) -> None:
        rows, columns = shape_of(like)
        super().__init__(
            columns, rows, bias=False, compute_dtype=torch.bfloat16, compress_statistics=nested, quant_type="nf4", device="meta"
        )
        self.bias, self.turned = like.bias, not isinstance(like, nn.Linear)

    def pack(self, weight: Tensor) -> None:
        """Take a weight, (rows, columns), of any floating precision; the very bytes of `bitsandbytes.functional.quantize_4bit`."""
        weight = weight.contiguous()
        nested: bool = self.weight.compress_statistics  # type: ignore[has-type]
        packed = torch.empty((weight.numel() // 2, 1), dtype=torch.uint8)
        scales = torch.empty(weight.numel() // BLOCK, dtype=torch.float32)
        for start in range(0, weight.numel(), PIECE):
            piece = weight.view(-1)[start : start + PIECE]
            found, state = bnb_functional.quantize_4bit(piece, blocksize=BLOCK, quant_type="nf4")
            packed[start // 2 : start // 2 + len(found)] = found
            scales[start // BLOCK : start // BLOCK + len(state.absmax)] = state.absmax
        offset = second = None
        if nested:
            offset = scales.mean()
            scales, second = bnb_functional.quantize_blockwise(scales - offset, blocksize=256)
        code = bnb_functional.get_4bit_type("nf4", device=packed.device)
        self.quant_state = bnb_functional.QuantState(scales, weight.shape, code, BLOCK, "nf4", torch.bfloat16, offset=offset, state2=second)
        self.weight = bnb.nn.Params4bit(
            packed,
            quant_state=self.quant_state,
            blocksize=BLOCK,
            compress_statistics=nested,
            quant_type="nf4",
            module=self,
            bnb_quantized=True,
        )

    def forward(self, x: Tensor) -> Tensor:
        found = bnb.matmul_4bit(x.to(torch.bfloat16), self.weight, quant_state=self.weight.quant_state).to(x.dtype)
        return found if self.bias is None else found + self.bias

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)  # scales are no state of a training: they do not move


class Packed8(bnb.nn.Linear8bitLt):
    """8-bit integers with one scale a row (Dettmers et al. 2022, without its rounding of activations)."""

    def __init__(self, like: nn.Module) -> None:
        rows, columns = shape_of(like)
        super().__init__(columns, rows, bias=False, has_fp16_weights=False, device="meta")
        self.bias, self.turned = like.bias, not isinstance(like, nn.Linear)

    def pack(self, weight: Tensor) -> None:
        """Take a weight, (rows, columns), of any floating precision; the very bytes of `bitsandbytes.functional.int8_vectorwise_quant`."""
        packed = torch.empty(weight.shape, dtype=torch.int8)
        scales = torch.empty(len(weight), dtype=torch.float32)
        step = max(1, PIECE // weight.shape[1])
        for start in range(0, len(weight), step):
            piece = weight[start : start + step].to(torch.float16).float()  # fp16 as bitsandbytes has it, and faster so
            packed[start : start + step], scales[start : start + step], _ = bnb_functional.int8_vectorwise_quant(piece)
        self.weight = bnb.nn.Int8Params(packed, requires_grad=False, has_fp16_weights=False, SCB=scales)

    def forward(self, x: Tensor) -> Tensor:
        found = _Product8.apply(x, self.weight.data, self.weight.SCB)  # type: ignore[no-untyped-call]
        return found if self.bias is None else found + self.bias

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self.weight.SCB is not None:
            self.weight.SCB = self.weight.SCB.to(self.weight.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)


class _Product8(torch.autograd.Function):
    """x @ (scale / 127 * weight).T: integers up to 127 are exact in bf16, so that only x and the sums are rounded.

    The widened weight lives for the product alone; the backward pass widens it again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.weight, ctx.scale = weight, scale / STEPS
        return F.linear(x.to(torch.bfloat16), weight.to(torch.bfloat16)).to(x.dtype) * ctx.scale.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (upstream,) = gradients
        scaled = (upstream * ctx.scale.to(upstream.dtype)).to(torch.bfloat16)
        return (scaled @ ctx.weight.to(torch.bfloat16)).to(upstream.dtype), None, None


class WideLinear(nn.Linear):
    """A frozen head in bf16 whose logits are those of an fp32 product; its weight is widened a piece at a time."""

    def forward(self, input: Tensor) -> Tensor:
        from luthier.models.language import project

        return project(input.float(), self.weight, self.bias)


def shape_of(layer: Any) -> tuple[int, int]:
    """Output and input features of a linear layer; GPT-2's Conv1D lies the other way."""
    return (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else (layer.weight.shape[1], layer.weight.shape[0])


def weight_of(layer: Packed4 | Packed8) -> Tensor:
    """The weight that a layer stands for, (rows, columns), in fp32."""
    if isinstance(layer, Packed8):
        return layer.weight.data.float() * (layer.weight.SCB / STEPS)[:, None]
    return bnb_functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
