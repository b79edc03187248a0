"""JPEG (ITU-T T.81) as arithmetic on batches: what libjpeg makes of pictures, without a file.

Baseline JPEG is lossy in four places: the conversion to YCbCr, the halved resolution of colours (4:2:0), the quantisation of
8×8 cosine transforms, and the way back. Entropy coding loses nothing and is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
UNIT = 2 * BLOCK  # pixels of a side that 4:2:0 codes together
FIXED_BITS, EXTRA_BITS = 13, 2  # of libjpeg's integer transform: of its constants, and kept between rows and columns

# The tables of T.81, annex K, at quality 50.
LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * BLOCK,) * 4,
)


def jpeg(x: Tensor, quality: Tensor, subsampled: Tensor) -> Tensor:
    """Pictures as a JPEG file gives them back.

    Args:
        x: (B, 3, H, W), multiples of 1/255 in 0–1.
        quality: of libjpeg, 1–100, (B,).
        subsampled: whether colours have half the resolution (4:2:0), (B,) bool.

    Returns:
        (B, 3, H, W), multiples of 1/255 in 0–1; what libjpeg's accurate integer transform gives, to within a grey level.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x * 255, (0, -width % UNIT, 0, -height % UNIT), mode="replicate")
    ycc = _to_ycc(padded)
    y, chroma = ycc[:, :1], ycc[:, 1:]
    y_hat = _transcoded(y, _tables(LUMA_TABLE, quality))
    chroma_table = _tables(CHROMA_TABLE, quality)
    full = _transcoded(chroma, chroma_table)
    half = _transcoded(_halved(chroma), chroma_table)[..., : -(-height // 2), : -(-width // 2)]
    halved = F.pad(_doubled(half), (0, -width % UNIT, 0, -height % UNIT), mode="replicate")
    halved = halved[..., : full.shape[-2], : full.shape[-1]]
    chroma_hat = torch.where(subsampled.view(-1, 1, 1, 1), halved, full)
    return _to_rgb(torch.cat([y_hat, chroma_hat], dim=1))[..., :height, :width] / 255


def _to_ycc(rgb: Tensor) -> Tensor:
    """In 16-bit fixed point, rounded as libjpeg does."""
    r, g, b = rgb.unbind(dim=1)
    y = 19595 * r + 38470 * g + 7471 * b + 32768
    cb = -11059 * r - 21709 * g + 32768 * b + (128 * 65536 + 32767)
    cr = 32768 * r - 27439 * g - 5329 * b + (128 * 65536 + 32767)
    return torch.stack([y, cb, cr], dim=1).div(65536).floor()


def _to_rgb(ycc: Tensor) -> Tensor:
    y, cb, cr = ycc.unbind(dim=1)
    cb, cr = cb - 128, cr - 128
    added = torch.stack([91881 * cr, -22554 * cb - 46802 * cr, 116130 * cb], dim=1)
    return (y[:, None] + _descaled(added, 16)).clamp(0, 255)


def _descaled(x: Tensor, bits: int) -> Tensor:
    return x.div(2**bits).add(0.5).floor()


def _tables(at_50: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Quantisation steps, (B, 1, 8, 8), by libjpeg's scale of qualities."""
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality).view(-1, 1, 1)
    base = torch.tensor(at_50, dtype=torch.float32, device=quality.device)
    steps: Tensor = ((base * scale + 50) / 100).floor().clamp(1, 255)
    return steps[:, None]


def _transcoded(x: Tensor, steps: Tensor) -> Tensor:
    """(B, C, h, w) in grey levels, h and w multiples of 8 → the same, each 8×8 transform rounded to multiples of `steps`."""
    B, C, h, w = x.shape
    steps = steps.mT[:, :, None, None]  # (B, 1, 1, 1, 8, 8), columns first, as the coefficients
    forward, inverse = (matrix.to(x.device) for matrix in (_FORWARD, _FORWARD.T.contiguous()))
    blocks = (x - 128).view(B, C, h // BLOCK, BLOCK, w // BLOCK, BLOCK).transpose(3, 4)  # (B, C, h/8, w/8, 8, 8)
    rows = _descaled(F.linear(blocks, forward), FIXED_BITS - EXTRA_BITS)
    coefficients = _descaled(F.linear(rows.mT, forward), FIXED_BITS + EXTRA_BITS)  # 8 times those of the orthonormal transform
    rounded = coefficients.sign() * ((coefficients.abs() + 4 * steps) / (8 * steps)).floor()  # halves go away from zero
    columns = _descaled(F.linear(rounded * steps, inverse), FIXED_BITS - EXTRA_BITS)
    blocks = _descaled(F.linear(columns.mT, inverse), FIXED_BITS + EXTRA_BITS + 3)
    return (blocks.transpose(3, 4).reshape(B, C, h, w) + 128).clamp(0, 255)


def _integer_cosines() -> Tensor:
    """The 8-point DCT of libjpeg's accurate integer method (Loeffler, Ligtenberg, Moschytz 1989): (8, 8), √8 · 2¹³ times the
    orthonormal one, from constants of 13 bits. Its transpose is the inverse."""

    def fixed(value: float) -> int:
        return int(value * 2**FIXED_BITS + 0.5)

    x = torch.eye(BLOCK, dtype=torch.float64)
    s0, s1, s2, s3 = (x[n] + x[7 - n] for n in range(4))
    d0, d1, d2, d3 = (x[n] - x[7 - n] for n in range(4))
    even, odd = s0 + s3, s1 + s2
    e3, e2 = s0 - s3, s1 - s2
    z = fixed(0.541196100) * (e2 + e3)
    z5 = fixed(1.175875602) * (d3 + d1 + d2 + d0)
    z1, z2 = -fixed(0.899976223) * (d3 + d0), -fixed(2.562915447) * (d2 + d1)
    z3, z4 = z5 - fixed(1.961570560) * (d3 + d1), z5 - fixed(0.390180644) * (d2 + d0)
    rows = [
        (even + odd) * 2**FIXED_BITS,
        fixed(1.501321110) * d0 + z1 + z4,
        z + fixed(0.765366865) * e3,
        fixed(3.072711026) * d1 + z2 + z3,
        (even - odd) * 2**FIXED_BITS,
        fixed(2.053119869) * d2 + z2 + z4,
        z - fixed(1.847759065) * e2,
        fixed(0.298631336) * d3 + z1 + z3,
    ]
    return torch.stack(rows).float()


_FORWARD = _integer_cosines()


def _halved(x: Tensor) -> Tensor:
    """Means of 2×2, rounded down and up in turn as libjpeg does."""
    total = 4 * F.avg_pool2d(x, 2)
    bias = 1 + torch.arange(total.shape[-1], device=x.device) % 2
    return ((total + bias) / 4).floor()


def _doubled(x: Tensor) -> Tensor:
    """Twice the height and width by libjpeg's triangle filter ("fancy upsampling")."""
    tall = 3 * x.repeat_interleave(2, dim=2) + _neighbours(x)  # (B, C, 2h, w), times 4
    wide = 3 * tall.repeat_interleave(2, dim=3) + _neighbours(tall.transpose(2, 3)).transpose(2, 3)  # times 16
    bias = 8 - torch.arange(wide.shape[-1], device=x.device) % 2
    return ((wide + bias) / 16).floor()


def _neighbours(x: Tensor) -> Tensor:
    """For each of the two rows that a row becomes, the row on its other side: (B, C, h, w) → (B, C, 2h, w)."""
    above, below = torch.cat([x[:, :, :1], x[:, :, :-1]], dim=2), torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2)
    return torch.stack([above, below], dim=3).flatten(2, 3)
