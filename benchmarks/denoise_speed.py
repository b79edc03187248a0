"""How fast `aecli denoise` is: beside DnCNN and FFDNet, as a share of the machine's peak, over sizes, and as a whole command.

DnCNN-colour (Zhang et al. 2017: 20 layers of 64 channels) and FFDNet-colour (Zhang et al. 2018: 12 layers of 96 channels at
half the resolution) have random weights and merged batch normalisation: their speed does not depend on what they learned. All
networks run in alternation, in one process, with the same threads and precision; ratios are medians of the rounds' own. In float32
aecli's run a second time, "plain": with torch's own convolutions, as the peers do.

`--before SIZE` compares a picture of SIZE megapixels, denoised as now and as before aecli had Winograd convolutions and kept
memory: each in processes of its own, in alternation. With ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 and --precision fp32 any
x86 machine shows what most computers do.

The whole command runs as a process, blind, on a photograph (tests/data/photo.png, mirrored to the size that is wanted) with noise
of sigma 25, or on a file of your own. Start-up is everything but reading, network and writing: Python, torch, weights, and the end.

usage: python benchmarks/denoise_speed.py [--side N] [--rounds N] [--megapixels 1,4,16,64] [--photograph FILE] [--suffix .png]
                                          [--precision P] [--before 12] [--threads N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DATA, machine, numbers, parser, photograph, table, timed, write_json
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import aecli
from aecli import device
from aecli.denoising import TILE, denoise_picture
from aecli.images import from_array
from aecli.metrics import psnr
from aecli.models.denoiser import Denoiser
from aecli.weights import Weights

Network = Callable[[Tensor], Tensor]
PARTS = ("start-up", "reading", "network", "writing")
PEAK_CONVOLUTIONS = ((64, 256), (96, 256), (128, 128), (256, 64))  # channels, side: the shapes that denoisers are made of
PHOTOGRAPHS = ("arches", "colosseum", "photo", "skyline")
ROUNDS_BEFORE = 3
# Prints the seconds of wall and processor that one picture takes.
BEFORE = """
import json, sys, time
from pathlib import Path
import aecli
from aecli import device, winograd
from aecli.denoising import denoise_picture
from aecli.images import read_picture

now, picture, weights, precision, threads = json.loads(sys.argv[1])
if not now:
    device.keep_memory = lambda: None
    winograd.available = lambda: False
compute, loaded, picture = device.select("auto", precision, threads), aecli.load_weights(weights), read_picture(Path(picture))
wall, processor = time.perf_counter(), time.process_time()
denoise_picture(picture, loaded, compute)
print(time.perf_counter() - wall, time.process_time() - processor)
"""
CHILD = """
import json, resource, sys, time
from aecli import denoising, images

seconds = {}

def clocked(module, name, part):
    function = getattr(module, name)
    def run(*arguments, **options):
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            seconds[part] = time.perf_counter() - start
    setattr(module, name, run)

clocked(images, "read_picture", "reading")
clocked(denoising, "denoise_picture", "network")
clocked(images, "write_picture", "writing")
import aecli.cli
try:
    aecli.cli.main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    used = {"processor": used.ru_utime + used.ru_stime, "resident": used.ru_maxrss}
    print(json.dumps([seconds, used]), file=sys.stderr)
"""


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--weights", default="photo-denoise", help="shipped weights by name, or a file (default: %(default)s)")
    arguments.add_argument("--side", type=int, default=1024, help="of the square picture that the networks are timed on")
    arguments.add_argument("--rounds", type=int, default=5, help="times that each network runs (default: %(default)s)")
    arguments.add_argument("--megapixels", type=numbers, default=[1.0, 4.0, 12.0, 16.0, 64.0], help="sizes for the whole command")
    arguments.add_argument("--photograph", type=Path, metavar="FILE", help="a picture for the whole command, besides")
    arguments.add_argument("--suffix", default=".png", help="of the files that it reads and writes (default: %(default)s)")
    arguments.add_argument("--precision", choices=device.PRECISIONS, default="auto")
    arguments.add_argument("--before", type=float, metavar="SIZE", help="megapixels that are denoised as now and as before")
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
            ["network", "kMAC a pixel", "s/MP", "share of peak", *(f"time / {peer}" for peer in peers_of(seconds))],
            rows(seconds, work, args.side, peak),
        )
    )
    print(f"\nLargest difference between tiles and the whole picture: {tile_difference(weights, compute)} grey levels")
    cost = precision_cost(weights, args.threads)
    print(f"PSNR in bfloat16 less that in float32, sigma 25, mean of {len(PHOTOGRAPHS)} photographs: {cost:+.4f} dB")
    if args.before:
        print(f"\n{against_before(args)}")
    runs = [whole_command(photograph(megapixels), args) for megapixels in args.megapixels]
    runs += [whole_command(Image.open(args.photograph), args, args.photograph)] if args.photograph else []
    print("\nThe whole command, blind:\n")
    columns = ["megapixels", "file", "seconds", *PARTS, "s/MP", "network, s/MP", "processor, s/MP", "resident, GB"]
    print(table(columns, [run_row(run) for run in runs], names=2))
    results = {"seconds": seconds, "macs_per_pixel": work, "peak": peak, "bf16_minus_fp32_db": cost, "runs": runs}
    write_json(args.json, {"machine": line, **results})


def all_networks(model: Denoiser, compute: device.Compute) -> dict[str, Network]:
    """By name: what takes a picture (1, 3, H, W) to its restored self."""
    dncnn, ffdnet = (plain.eval().to(compute.device, memory_format=torch.channels_last) for plain in (DnCNN(), FFDNet()))
    model = model.to(memory_format=compute.layout)  # type: ignore[call-overload]
    level = torch.tensor([25 / 255], device=compute.device)

    def blind(x: Tensor) -> Tensor:
        return model(x, model.blind_level(x))  # type: ignore[no-any-return]

    def in_context(network: Network) -> Network:
        def run(x: Tensor) -> Tensor:
            with compute.autocast():
                return network(x.contiguous(memory_format=compute.layout))

        return run

    plain = {"aecli, blind, plain": blind} if compute.device.type == "cpu" and not compute.bf16 else {}
    told = in_context(lambda x: model(x, level))
    return {"DnCNN": dncnn, "FFDNet": ffdnet, "aecli, told sigma": told, "aecli, blind": in_context(blind), **plain}


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
    peers = torch.autocast(compute.device.type, dtype=torch.bfloat16, enabled=compute.bf16)
    with torch.inference_mode(), peers:
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
        ratios = [statistics.median(a / b for a, b in zip(values, seconds[peer], strict=True)) for peer in peers_of(seconds)]
        per_megapixel = statistics.median(values) / (side**2 / 1e6)
        result.append([name, f"{work[name] / 1e3:.0f}", f"{per_megapixel:.2f}", f"{share:.0%}", *(f"{r:.2f}" for r in ratios)])
    return result


def peers_of(seconds: dict[str, list[float]]) -> list[str]:
    """What the others' times are divided by."""
    return [name for name in ("DnCNN", "FFDNet", "aecli, blind, plain") if name in seconds]


def against_before(args: argparse.Namespace) -> str:
    """A line: a picture as now against as before, by the wall and by the processor's time, medians of the pairs' ratios."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "noisy.png"
        Image.fromarray(noisy(np.asarray(photograph(args.before)))).save(source)

        def measured(now: bool) -> list[float]:
            given = json.dumps([now, str(source), str(args.weights), args.precision, args.threads])
            done = subprocess.run([sys.executable, "-c", BEFORE, given], capture_output=True, text=True, check=True)
            return [float(number) for number in done.stdout.split()]

        pairs = [(measured(now=True), measured(now=False)) for _ in range(ROUNDS_BEFORE)]
    wall, processor = (statistics.median(now[i] / before[i] for now, before in pairs) for i in range(2))
    seconds = [statistics.median(pair[i][0] for pair in pairs) for i in range(2)]
    ratios = f"ratio {wall:.2f}, of the processor's time {processor:.2f}"
    return f"{args.before:g} megapixels: {seconds[0]:.1f} s, before {seconds[1]:.1f} s; {ratios}"


def tile_difference(weights: Weights, compute: device.Compute) -> int:
    """Grey levels, on 3 megapixels: six tiles, or one."""
    picture = from_array(noisy(np.asarray(photograph(3))))
    tiled, whole = (denoise_picture(picture, weights, compute, tile=side).picture.pixels for side in (TILE, 1 << 16))
    return int(np.abs(tiled.astype(int) - whole).max())


def precision_cost(weights: Weights, threads: int | None) -> float:
    """dB that bfloat16 adds, told sigma, on noisy pictures as in files."""
    gains = []
    for name in PHOTOGRAPHS:
        clean = np.array(Image.open(DATA / f"{name}.png").convert("RGB"))
        picture = from_array(noisy(clean))
        half, full = (
            denoise_picture(picture, weights, device.select("auto", precision, threads), sigma=25).picture.pixels
            for precision in ("bf16", "fp32")
        )
        gains.append(psnr_of(half, clean) - psnr_of(full, clean))
    return statistics.mean(gains)


def psnr_of(restored: np.ndarray, clean: np.ndarray) -> float:
    return psnr(torch.from_numpy(restored) / 255, torch.from_numpy(clean) / 255)


def whole_command(picture: Image.Image, args: argparse.Namespace, file: Path | None = None) -> dict[str, Any]:
    """Seconds, in all and by part, and gigabytes that `aecli denoise` takes; `picture` is written first where `file` is None."""
    with tempfile.TemporaryDirectory() as folder:
        source = file or Path(folder) / f"noisy{args.suffix}"
        if file is None:
            Image.fromarray(noisy(np.asarray(picture))).save(source)
        command = [sys.executable, "-c", CHILD, "denoise", str(source), "-o", folder + "/result" + source.suffix, "--json"]
        command += ["--weights", str(args.weights), "--precision", args.precision]
        command += ["--threads", str(args.threads)] if args.threads else []
        done, wall = timed(lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    assert json.loads(done.stdout)["status"] == "done"
    parts, used = json.loads(done.stderr.splitlines()[-1])
    used["resident"] /= 1e9 if sys.platform == "darwin" else 1e6
    size = {"megapixels": picture.width * picture.height / 1e6, "file": source.suffix, "seconds": wall}
    return size | {"start-up": wall - sum(parts.values())} | parts | used


def run_row(run: dict[str, Any]) -> list[str]:
    megapixels = run["megapixels"]
    figures = [run["seconds"], *(run[part] for part in PARTS), run["seconds"] / megapixels, run["network"] / megapixels]
    figures += [run["processor"] / megapixels, run["resident"]]
    return [f"{megapixels:.3g}", run["file"], *(f"{figure:.2f}" for figure in figures)]


def noisy(pixels: np.ndarray, sigma: float = 25) -> np.ndarray:
    """Clipped and rounded, as in a file; in strips, so that 100 megapixels need no gigabytes here."""
    rng, result = np.random.default_rng(0), pixels.copy()
    for top in range(0, len(pixels), 512):
        part = result[top : top + 512]
        part[:] = np.clip(np.rint(part + sigma * rng.standard_normal(part.shape, dtype=np.float32)), 0, 255)
    return result


if __name__ == "__main__":
    main()
