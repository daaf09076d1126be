"""Parity is measured with torch's own matrix library: another test of the same process may have chosen the faster one."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _plain_products():
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before
