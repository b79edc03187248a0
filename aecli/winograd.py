"""3×3 convolutions in float32 by Winograd's algorithm (Lavin & Gray 2016), a third to a half of the time of torch's own.

torch has them in NNPACK, but takes oneDNN's. Measured on one core, GFLOP/s at 64 / 128 / 256 channels: with AVX2 125 / 124 / 127
by oneDNN and 232 / 314 / 358 by NNPACK; with AVX-512 253 / 245 / 246 and 188 / 321 / 358, and 504 / 489 / 501 in bfloat16. So
with AVX-512 the denoiser would gain a quarter in float32, but the codec lose one, and bfloat16 is faster than both.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

LEAST_CHANNELS = 32  # of what comes out: below, transforming what goes in costs more than is saved
TOLERANCE = 1e-3  # of results of order one, whose errors are below 1e-4


def convolutions() -> contextlib.AbstractContextManager[object]:
    """A context in which networks that take one picture, without gradients, use them; one that does nothing where there are none.

    Only float32 is touched: neither bfloat16 nor the exact arithmetic of the codec, which is float64.
    """
    return Winograd() if available() else contextlib.nullcontext()


@functools.cache
def available() -> bool:
    """Whether torch has them for this processor, which gains by them, and gives right results.

    NNPACK's name is a private one of torch, and on another processor it complains on standard error: it is asked where it was
    measured and nowhere else.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return False
    x = torch.linspace(-1, 1, 32 * 19 * 23).sin().view(1, 32, 19, 23)
    weight = torch.linspace(-40, 40, 32 * 32 * 9).cos().view(32, 32, 3, 3) / 17
    try:
        # The question also initialises it: without that, every call would fail.
        found = _convolution(x, weight, None) if torch.backends.nnpack.is_available() else None  # type: ignore[no-untyped-call]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return found is not None and torch.allclose(found, torch.conv2d(x, weight, padding=1), rtol=0, atol=TOLERANCE)


class Winograd(TorchFunctionMode):
    """The context; needs what `available` checks."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        if function is torch.conv2d and not options and _gains(*arguments):
            try:
                return _convolution(*arguments[:3])
            except RuntimeError:  # the ordinary way works, or says better what is wrong, such as too little memory
                pass
        return function(*arguments, **(options or {}))


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3×3, as large as x (1, C, H, W)."""
    found: Tensor = torch._nnpack_spatial_convolution(x.contiguous(), weight.contiguous(), bias, padding=1)
    return found


def _gains(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> bool:
    return (
        weight.shape[2:] == (3, 3)
        and x.ndim == 4
        and len(x) == 1  # places in a batch would be rounded differently
        and len(weight) >= LEAST_CHANNELS
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and (stride, padding, dilation, groups) == ((1, 1), (1, 1), (1, 1), 1)
    )
