"""Where a run computes: the device, its precision, and the random numbers that dropout draws there."""

from __future__ import annotations

import torch
from torch import Tensor


def pick_device(name: str | torch.device) -> torch.device:
    """ "auto", "cpu", "cuda", "cuda:1", "mps"... Raises ValueError for a device that this machine does not have."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={str(name)!r}: use auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device={str(name)!r}: use auto, cpu, cuda or cuda:1")
    has = (
        torch.cuda.is_available()
        if device.type == "cuda"
        else device.type == "cpu" or torch.backends.mps.is_available()
    )
    if not has:
        raise ValueError(f"device={str(name)!r}: torch finds no GPU here; use cpu, or see `dfs-edu doctor`")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    asked = max(device.index or 0, int(str(name).partition(":")[2] or 0))  # torch takes cuda:256 for cuda:0
    if asked >= count:
        there = ", ".join(f"{device.type}:{i}" for i in range(count)) if count > 1 else device.type
        raise ValueError(f"device={str(name)!r}: this machine has {count} of the kind; use {there}")
    return device


def bf16_pays(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it would be emulated, and slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    # What the processor has is of no use where torch was told to do without (ATEN_CPU_CAPABILITY)
    used = torch.backends.cpu.get_cpu_capability() != "AVX2"
    return used and any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


def random_state(device: torch.device) -> list[Tensor]:
    """Of the generators that dropout draws from, CPU and GPU."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Put back what `random_state` took."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
