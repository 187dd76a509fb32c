"""Whether a device is fast in 16 bits, so that nobody waits for what is emulated."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate.utils import str_to_bool


def bfloat16_is_fast(device: torch.device | str = "cpu") -> bool:
    """Whether `device` multiplies matrices in bfloat16 at least as fast as in float32.

    A CPU does so with AVX-512 or AMX. One without emulates it: measured on a CPU with AVX2, a product of 256 x 256
    matrices took 60 times as long as in float32.
    """
    if torch.device(device).type != "cpu":
        return True
    # torch asks oneDNN in the same way before it compiles for bfloat16; builds without oneDNN have no such kernels
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def int8_is_fast() -> bool:
    """Whether the CPU multiplies whole numbers of 8 bits faster than any others: it has VNNI, and no AMX.

    With AMX bfloat16 was measured, and 8 bits were not.
    """
    has = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has.get(name) for name in ("avx512_vnni", "avx_vnni")) and not has.get("amx_tile")


def training_precision(mixed_precision: str) -> str:
    """`mixed_precision` of Accelerate ("no", "bf16" or "fp16"), but "no" for bf16 where its device emulates that."""
    on_cuda = torch.cuda.is_available() and not str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "no"))
    return "no" if mixed_precision == "bf16" and not (on_cuda or bfloat16_is_fast()) else mixed_precision


def as_dtype(dtype: Any) -> torch.dtype:
    """A type of floating-point numbers, given as one or by its name; ValueError for what is none."""
    names = {"auto": "float32", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # diffusers' words too
    value = getattr(torch, names.get(dtype, dtype), None) if isinstance(dtype, str) else dtype
    if value not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype {dtype!r}: choose from float32, bfloat16, float16")
    return value


__all__ = ["as_dtype", "bfloat16_is_fast", "int8_is_fast", "training_precision"]
