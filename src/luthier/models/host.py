"""The machine: device, threads, memory allocator, and the fastest matrix product that is still exact.

Enters: the `training` section. Leaves: a `Host`, which says what is on and, where something is off,
why; `luthier doctor` and every run record it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from luthier.errors import ModelError

KERNELS = 64
"""Compiled products that oneDNN, and torch's own cache of them, keep each. Ragged batches have ever new sizes, and a kernel
takes a quarter of a MiB between the tensors: with the usual 1,024 the process grows for hundreds of updates (1.8 GiB where
0.9 do on tweets, 4.7 for 2.3 on instructions), and is no faster."""
EXACT = 2e-6
"""Relative error under which a matrix product counts as fp32."""


@dataclass
class Host:
    """Where training runs and which of its optimisations are on."""

    device: torch.device
    threads: int
    dtype: torch.dtype
    on: list[str] = field(default_factory=list)
    off: dict[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """For the run's record."""
        return {
            **asdict(self),
            "device": str(self.device),
            "device_name": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else processor(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "cores": os.cpu_count(),
        }


def set_up(
    *,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    threads: int | Literal["auto"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
) -> Host:
    """Choose the device and switch on what the machine has.

    Raises ModelError for a device or precision that is not there.
    """
    chosen = _device(device)
    count = threads if threads != "auto" else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(count)
    host = Host(chosen, count, torch.float32)
    if precision == "bf16":
        _need_bf16(chosen)
        host.dtype = torch.bfloat16
        host.on.append("bf16 weights with fp32 masters")
    if precision == "fp16":
        _need_fp16(chosen)
        host.dtype = torch.float16
        host.on.append("fp16 weights with fp32 masters and a scaled loss")
    if chosen.type == "cpu":
        bound_kernels()
        _note(host, "oneDNN fp32 matrix products", fast_matmul())
        _note(host, "memory kept between steps", keep_memory())
        if precision != "bf16":
            host.off["bf16"] = "training.precision is not bf16" if cpu_has_bf16() else "this CPU has no bf16 instructions"
    return host


def bound_kernels() -> None:
    """Have few compiled products kept, unless the environment says how many; read when the first one is compiled."""
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KERNELS))


def fast_matmul() -> str:
    """Send fp32 products on the CPU to oneDNN where that is faster and as exact; empty when on, else why not.

    The setting lets oneDNN round inside where the CPU has instructions for it (AMX), so its error
    is measured against fp64 and the setting withdrawn where it is more than fp32 rounding.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if not torch.backends.mkldnn.is_available() or matmul is None:
        return "this torch has no oneDNN"
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    error = matmul_error()
    if error > EXACT:
        matmul.fp32_precision = before
        return f"it rounds here: relative error {error:.0e} against fp64"
    return ""


def matmul_error(size: int = 384) -> float:
    """Relative error of this machine's fp32 product (forward and both backward shapes) against fp64."""
    draw = torch.Generator().manual_seed(0)
    worst = 0.0
    for rows, inner, columns in ((64, size, size), (size, 64, size), (size, size, 64)):
        a, b = torch.randn(rows, inner, generator=draw), torch.randn(inner, columns, generator=draw)
        exact = a.double() @ b.double()
        worst = max(worst, float((a @ b - exact).norm() / exact.norm()))
        linear = torch.nn.functional.linear(a, b.t().contiguous())
        worst = max(worst, float((linear - exact).norm() / exact.norm()))
    return worst


def keep_memory() -> str:
    """Keep freed memory in the process instead of giving it back at every step; empty when on, else why not."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return "needs glibc"
    mmap_threshold, trim_threshold, most = -3, -1, 32 << 20
    libc = ctypes.CDLL(None)
    if not libc.mallopt(mmap_threshold, most) or not libc.mallopt(trim_threshold, 2**31 - 1):
        return "mallopt refused"
    return ""


def give_back_memory() -> None:
    """Give free memory between what is used back to the system, where the allocator can."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware."""
    check: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return check is not None and bool(check())


def processor() -> str:
    """The CPU's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.processor())
    except OSError:
        return platform.processor() or platform.machine()


def _device(wanted: str) -> torch.device:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if not available[wanted]:
        raise ModelError(f"this machine has no {wanted}", where="training.device", remedy="set training.device: auto")
    return torch.device(wanted)


def _need_bf16(device: torch.device) -> None:
    checks: dict[str, Any] = {"cpu": cpu_has_bf16, "cuda": torch.cuda.is_bf16_supported, "mps": lambda: False}
    if not checks[device.type]():
        raise ModelError(f"this {device.type} has no bf16 instructions", where="training.precision", remedy="set training.precision: fp32")


def _need_fp16(device: torch.device) -> None:
    if device.type != "cuda":
        raise ModelError(
            f"fp16 is for CUDA: on {device.type} its products take minutes",
            where="training.precision",
            remedy="set training.precision: bf16",
        )


def _note(host: Host, what: str, reason: str) -> None:
    if reason:
        host.off[what] = reason
    else:
        host.on.append(what)
