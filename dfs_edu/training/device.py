"""Where a run computes: the device, its precision, and the random numbers that dropout draws there."""

from __future__ import annotations

import torch
from torch import Tensor


def pick_device(name: str | torch.device) -> torch.device:
    """Return a device by name: "auto" (a GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        ValueError: This machine has no such device; the message says which it has.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = f"device={str(name)!r}"
    available = {"cpu": lambda: True, "cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    try:
        device = torch.device(name)
        is_available = available[device.type]
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(f"{given}: use auto, cpu, cuda or cuda:1") from error
    if not is_available():
        raise ValueError(f"{given}: torch finds no GPU here; use cpu, or see `dfs-edu doctor`")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    index = max(device.index or 0, int(str(name).partition(":")[2] or 0))  # torch takes cuda:256 for cuda:0
    if index >= count:
        known = ", ".join(f"{device.type}:{i}" for i in range(count)) if count > 1 else device.type
        raise ValueError(f"{given}: this machine has {count} of the kind; use {known}")
    return device


def bf16_pays(device: torch.device) -> bool:
    """Tell whether the device has instructions for bfloat16; emulated, it would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    # The processor's instructions are of no use if torch was told to do without (ATEN_CPU_CAPABILITY)
    used = torch.backends.cpu.get_cpu_capability() != "AVX2"
    return used and any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))


def random_state(device: torch.device) -> list[Tensor]:
    """Return the state of the generators that dropout draws from: the CPU's, and the GPU's if the device is one."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Restore what ``random_state`` returned."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
