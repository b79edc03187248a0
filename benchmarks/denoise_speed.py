"""How fast `aecli denoise` is: beside DnCNN and FFDNet, as a share of the machine's peak, over sizes, and as a whole command.

DnCNN-colour (Zhang et al. 2017: 20 layers of 64 channels) and FFDNet-colour (Zhang et al. 2018: 12 layers of 96 channels at
half the resolution) have random weights and merged batch normalisation: their speed does not depend on what they learned. All
networks run in alternation, in one process, with the same threads and precision; ratios are medians of the rounds' own.

usage: python benchmarks/denoise_speed.py [--side N] [--rounds N] [--megapixels 1,4,16] [--precision P] [--threads N] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from common import machine, numbers, parser, table, timed, write_json
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import aecli
from aecli import device
from aecli.models.denoiser import Denoiser

Network = Callable[[Tensor], Tensor]
PEAK_CONVOLUTIONS = ((64, 256), (96, 256), (128, 128), (256, 64))  # channels, side: the shapes that denoisers are made of
CHILD = """
import resource, sys, time
import aecli.cli
start = time.perf_counter()
try:
    aecli.cli.main()
finally:
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--weights", default="photo-denoise", help="shipped weights by name, or a file (default: %(default)s)")
    arguments.add_argument("--side", type=int, default=1024, help="of the square picture that the networks are timed on")
    arguments.add_argument("--rounds", type=int, default=5, help="times that each network runs (default: %(default)s)")
    arguments.add_argument("--megapixels", type=numbers, default=[1.0, 4.0, 16.0], help="sizes for the whole command")
    arguments.add_argument("--precision", choices=device.PRECISIONS, default="auto")
    args = arguments.parse_args()
    compute = device.select("auto", args.precision, args.threads)
    weights = aecli.load_weights(args.weights)
    assert isinstance(weights.model, Denoiser)
    line = machine(compute, weights)
    print(line, end="\n\n")
    networks = all_networks(weights.model, compute)
    peak = convolution_peak(compute)
    seconds = alternate(networks, args.side, args.rounds, compute)
    work = {name: macs_per_pixel(network) for name, network in networks.items()}
    print(f"fastest 3×3 convolution measured: {peak / 1e12:.3f} TFLOP/s\n")
    print(
        table(
            ["network", "kMAC a pixel", "s/MP", "share of peak", "time / DnCNN", "time / FFDNet"],
            rows(seconds, work, args.side, peak),
        )
    )
    sizes = [whole_command(m, args) for m in args.megapixels]
    print("\nThe whole command, blind, PNG in and out:\n")
    columns = ["megapixels", "seconds, start to end", "in the command, torch imported by it", "s/MP", "resident, GB"]
    print(
        table(
            columns, [[f"{m:g}", f"{wall:.1f}", f"{inner:.1f}", f"{wall / m:.2f}", f"{rss:.2f}"] for m, wall, inner, rss in sizes]
        )
    )
    write_json(args.json, {"machine": line, "seconds": seconds, "macs_per_pixel": work, "peak": peak, "sizes": sizes})


def all_networks(model: Denoiser, compute: device.Compute) -> dict[str, Network]:
    """By name: what takes a picture (1, 3, H, W) to its restored self."""
    dncnn, ffdnet = (plain.eval().to(compute.device, memory_format=torch.channels_last) for plain in (DnCNN(), FFDNet()))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    level = torch.tensor([25 / 255], device=compute.device)
    return {
        "DnCNN": dncnn,
        "FFDNet": ffdnet,
        "aecli, told sigma": lambda x: model(x, level),  # type: ignore[no-any-return]
        "aecli, blind": lambda x: model(x, model.estimate(x)),  # type: ignore[no-any-return]
    }


def plain_network(inputs: int, outputs: int, width: int, layers: int) -> nn.Sequential:
    """`layers` 3×3 convolutions with ReLU between them."""
    sizes = [inputs, *[width] * (layers - 1), outputs]
    chain: list[nn.Module] = []
    for a, b in pairwise(sizes):
        chain += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*chain[:-1])


class DnCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = plain_network(3, 3, 64, 20)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.body(x)  # type: ignore[no-any-return]


class FFDNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = plain_network(4 * 3 + 1, 4 * 3, 96, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.pixel_unshuffle(x, 2)
        level = torch.full_like(h[:, :1], 25 / 255)
        return nn.functional.pixel_shuffle(self.body(torch.cat([h, level], dim=1)), 2)


def convolution_peak(compute: device.Compute) -> float:
    """FLOP/s of the fastest 3×3 convolution: the most that any of these networks could reach here."""
    fastest = 0.0
    for channels, side in PEAK_CONVOLUTIONS:
        conv = nn.Conv2d(channels, channels, 3, padding=1).to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        dtype = torch.bfloat16 if compute.bf16 else torch.float32
        conv = conv.to(dtype)
        x = torch.randn(1, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last).to(compute.device)
        with torch.inference_mode():
            conv(x)
            best = min(timed(conv, x)[1] for _ in range(10))
        fastest = max(fastest, 2 * 9 * channels**2 * side**2 / best)
    return fastest


def alternate(networks: dict[str, Network], side: int, rounds: int, compute: device.Compute) -> dict[str, list[float]]:
    """Seconds of each network in each round; a first round is not counted."""
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(compute.device)
    x = x.contiguous(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode(), compute.autocast():
        for _ in range(rounds + 1):
            for name, network in networks.items():
                seconds[name].append(timed(network, x)[1])
    return {name: values[1:] for name, values in seconds.items()}


def macs_per_pixel(network: Network) -> float:
    x = torch.zeros(1, 3, 64, 64)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        network(x)
    return counter.get_total_flops() / 2 / 64**2


def rows(seconds: dict[str, list[float]], work: dict[str, float], side: int, peak: float) -> list[list[str]]:
    result = []
    for name, values in seconds.items():
        share = 2 * work[name] * side**2 / statistics.median(values) / peak
        ratios = [statistics.median(a / b for a, b in zip(values, seconds[peer], strict=True)) for peer in ("DnCNN", "FFDNet")]
        per_megapixel = statistics.median(values) / (side**2 / 1e6)
        result.append([name, f"{work[name] / 1e3:.0f}", f"{per_megapixel:.2f}", f"{share:.0%}", *(f"{r:.2f}" for r in ratios)])
    return result


def whole_command(megapixels: float, args) -> tuple[float, float, float, float]:  # type: ignore[no-untyped-def]
    """(megapixels, wall seconds, seconds in main, resident gigabytes) of `aecli denoise` on 4:3 pixels of noise over a ramp."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "noisy.png"
        Image.fromarray(noisy_ramp(height, width)).save(source, compress_level=1)
        command = [sys.executable, "-c", CHILD, "denoise", str(source), "--json", "--weights", str(args.weights)]
        command += ["--precision", args.precision, *(["--threads", str(args.threads)] if args.threads else [])]
        done, wall = timed(lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    assert json.loads(done.stdout)["status"] == "done"
    inner, kilobytes = done.stderr.split()[-2:]
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return megapixels, wall, float(inner), int(kilobytes) / unit


def noisy_ramp(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 200, width, dtype=np.float32)[None, :, None]
    result = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 512):  # in strips, so that 100 megapixels need no gigabytes here
        part = result[top : top + 512]
        part[:] = np.clip(ramp + 25 * rng.standard_normal(part.shape, dtype=np.float32), 0, 255)
    return result


if __name__ == "__main__":
    main()
