"""Where and how precisely networks run: device, precision, threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from aecli import winograd
from aecli.errors import UsageError

PRECISIONS = ("auto", "fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda", "mps")
_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")  # of oneDNN's limits
KEPT = 256 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True)
class Compute:
    """A device and whether bfloat16 is used there, by autocast and by the optimiser's iterations."""

    device: torch.device
    bf16: bool

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context in which a network runs: in bfloat16, or with faster convolutions in float32, or as it is."""
        if self.bf16:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return winograd.convolutions() if self.device.type == "cpu" else contextlib.nullcontext()

    @property
    def layout(self) -> torch.memory_format:
        """How what a network takes had best lie in memory."""
        faster = self.device.type == "cpu" and not self.bf16 and winograd.available()
        return torch.contiguous_format if faster else torch.channels_last

    def __str__(self) -> str:
        return f"{self.device.type} {'bf16' if self.bf16 else 'fp32'}"


def select(device: str = "auto", precision: str = "auto", threads: int | None = None) -> Compute:
    """Resolve `auto`: the GPU where there is one; bf16 on a GPU or where the processor has instructions for it
    that oneDNN may use (ONEDNN_MAX_CPU_ISA).

    Raises UsageError for a device that this machine does not have, or an unknown word.
    """
    if device not in DEVICES:
        raise UsageError(f"--device {device} is not known: give one of {', '.join(DEVICES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is not known: give one of {', '.join(PRECISIONS)}")
    if threads is not None:
        torch.set_num_threads(threads)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[device]:
        raise UsageError(f"--device {device} is not available on this machine: pass --device auto or cpu")
    if device == "cpu":
        keep_memory()
    bf16 = precision == "bf16" or (precision == "auto" and _has_fast_bf16(device))
    return Compute(torch.device(device), bf16)


@functools.cache
def keep_memory() -> None:
    """Have the C library keep blocks of up to KEPT bytes that are freed, for those that follow.

    glibc gives blocks above 32 MiB back to the system at once. The output of every layer of a large tile then comes from there
    again, page by page and filled with zeros, which took 18 % of the denoiser's time in float32 and more on a busy machine.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            library.mallopt(_M_MMAP_THRESHOLD, KEPT)
            library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The processor at work in one thread. torch takes the values of a layer by vectors, and the last few that a thread has one by
    one, which rounds functions such as sigmoid differently: only with one thread are these always the last of a batch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _has_fast_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device == "mps":
        return False
    return _processor_has_bf16() and _onednn_uses_bf16()


def _processor_has_bf16() -> bool:
    return any(getattr(torch.cpu, name, lambda: False)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))


def _onednn_uses_bf16() -> bool:
    """Whether the library that convolutions and matrix products run in may use the instructions: a variable can forbid it."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    return limit not in _WITHOUT_BF16
