"""From logits to a token: against transformers' own processors, and what may be asked."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import RecipeError
from luthier.inference import sampling as drawing
from luthier.inference.sampling import Sampling


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_new_tokens", 0), ("temperature", -1), ("temperature", float("nan")), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.5), ("min_p", 2),
     ("repetition_penalty", 0.0), ("stop", ("",)), ("stop", "text"), ("seed", -1), ("candidates", 0), ("top_logprobs", 2)],
)  # fmt: skip
def test_sampling_is_checked(field, value):
    with pytest.raises(RecipeError, match=rf"sampling\.{field}: .*\n.*→"):
        Sampling(**{field: value})


def test_all_faults_of_sampling_come_together():
    with pytest.raises(RecipeError) as caught:
        Sampling(top_k=-1, top_p=7)
    assert len(caught.value.faults) == 2


rows = st.integers(0, 10_000).map(lambda s: torch.randn(3, 50, generator=torch.Generator().manual_seed(s)) * 3)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 60), st.floats(0.01, 1.0), st.floats(0.0, 1.0), st.floats(0.1, 3.0), st.floats(0.2, 3.0))
def test_shaping_is_transformers(logits, k, p, low, temperature, penalty):
    ids = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(k))
    seen = torch.zeros(3, 50, dtype=torch.bool).scatter_(1, ids, True)
    theirs = hf.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    torch.testing.assert_close(drawing.penalize(logits, seen, penalty), theirs, rtol=0, atol=0)
    theirs = hf.TemperatureLogitsWarper(temperature)(ids, theirs)
    theirs = hf.TopKLogitsWarper(k)(ids, theirs)
    torch.testing.assert_close(drawing.keep_top_k(logits, k), hf.TopKLogitsWarper(k)(ids, logits), rtol=0, atol=0)
    if borderline(theirs, p):
        return
    theirs = hf.TopPLogitsWarper(p)(ids, theirs) if p < 1 else theirs
    theirs = hf.MinPLogitsWarper(low)(ids, theirs)
    wish = Sampling(temperature=temperature, top_k=k, top_p=p, min_p=low, repetition_penalty=penalty)
    torch.testing.assert_close(drawing.shape(logits, wish, seen=seen), theirs, rtol=0, atol=0)
    one = drawing.shape(logits[0], wish, seen=seen[0])
    torch.testing.assert_close(one, theirs[0], rtol=0, atol=0)


def borderline(logits: torch.Tensor, p: float) -> bool:
    """Whether rounding decides where the nucleus ends."""
    reached = torch.softmax(logits, -1).sort(-1, descending=True).values.cumsum(-1)
    return bool(((reached - p).abs() < 1e-5).any()) and p < 1


def test_the_draw_follows_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, -torch.inf, 2.0, -3.0]])
    generator = torch.Generator().manual_seed(0)
    found = torch.cat([drawing.draw(logits, [generator]) for _ in range(20_000)])
    share = torch.bincount(found, minlength=5) / len(found)
    assert share[2] == 0
    torch.testing.assert_close(share, torch.softmax(logits[0], -1), atol=0.012, rtol=0)
