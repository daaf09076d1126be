"""What is switched on: few compiled kernels are kept, unless the environment says how many."""

from __future__ import annotations

import os

from luthier.models import host


def test_few_kernels_are_kept_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    host.set_up(device="cpu", threads=1)
    assert os.environ["LRU_CACHE_CAPACITY"] == str(host.KERNELS)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
