"""A trained model, in plain files, must tell the story that its authors documented."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models

from luthier.inference.generate import Sampling, generate, stream
from luthier.models import forward

DATA = Path(os.environ.get("LUTHIER_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def stories() -> tuple[hf.LlamaForCausalLM, hf.PreTrainedTokenizerFast]:
    """The model and tokenizer of llama2.c's files.

    The model file: seven int32 (dim, hidden, layers, heads, key-value heads, vocabulary, context), then
    fp32 weights tensor by tensor. Rotary pairs lie side by side there, and half a head apart in transformers.
    """
    folder = DATA / "stories260k"
    raw = (folder / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack("7i", raw[:28])
    values, place = torch.frombuffer(bytearray(raw[28:]), dtype=torch.float32), 0

    def take(*sizes: int) -> torch.Tensor:
        nonlocal place
        count = torch.Size(sizes).numel()
        place += count
        return values[place - count : place].view(*sizes).clone()

    width = dim // heads
    weights = {"model.embed_tokens.weight": take(vocabulary, dim)}
    stacked = {
        name: take(layers, *sizes)
        for name, sizes in {
            "input_layernorm": (dim,),
            "self_attn.q_proj": (dim, dim),
            "self_attn.k_proj": (kv_heads * width, dim),
            "self_attn.v_proj": (kv_heads * width, dim),
            "self_attn.o_proj": (dim, dim),
            "post_attention_layernorm": (dim,),
            "mlp.gate_proj": (hidden, dim),
            "mlp.down_proj": (dim, hidden),
            "mlp.up_proj": (hidden, dim),
        }.items()
    }
    for name in ("self_attn.q_proj", "self_attn.k_proj"):
        pairs = stacked[name].view(layers, -1, width // 2, 2, dim)
        stacked[name] = pairs.transpose(2, 3).reshape(stacked[name].shape)
    weights |= {f"model.layers.{i}.{name}.weight": value[i] for name, value in stacked.items() for i in range(layers)}
    weights["model.norm.weight"] = weights_end = take(dim)
    take(2, context, width // 2)
    assert place == len(values)
    assert weights_end.isfinite().all()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = hf.LlamaForCausalLM(
        hf.LlamaConfig(vocab_size=vocabulary, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                       num_key_value_heads=kv_heads, max_position_embeddings=context, rms_norm_eps=1e-5, tie_word_embeddings=True)
    )  # fmt: skip
    model.load_state_dict(weights)

    file, pieces, at = (folder / "tok512.bin").read_bytes(), [], 4
    while at < len(file):
        _, length = struct.unpack("fi", file[at : at + 8])
        pieces.append(file[at + 8 : at + 8 + length].decode())
        at += 8 + length
    pieces[1:3] = ["<s>", "</s>"]
    backend = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return model.eval(), hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.skipif(not (DATA / "stories260k").is_dir(), reason=f"no {DATA / 'stories260k'}: set LUTHIER_DATA to the data folder")
def test_a_trained_model_tells_its_documented_story():
    document = (DATA / "stories260k" / "doc" / "stories260K.md").read_text(encoding="utf-8")
    story = document.split("-t 0.0\n")[1].split("\n```")[0]
    model, tokenizer = stories()
    answer = generate(model, tokenizer, [[1]], Sampling(max_new_tokens=256), stop_ids=[1], max_length=512)[0][0]
    assert answer.text.rstrip("\n") == story
    forward.prepare(model)
    assert forward.choose_layout(model, wanted="auto", pad_id=0, kind="causal").kind == "ragged"
    known = next(n for n in range(100, 200) if tokenizer.convert_ids_to_tokens(answer.tokens[n]).startswith(" "))
    told = "".join(
        stream(model, tokenizer, [1, *answer.tokens[:known]], Sampling(max_new_tokens=256 - known), stop_ids=[1], max_length=512)
    )
    assert answer.text.endswith(told)
    assert told.startswith(" ")
