"""How work scales with processes: training under torchrun, and `aecli denoise` on many files, with one and with two of them.

Every setup works for some seconds, all of them in turn, for several rounds; a figure is the median over the rounds. Two threads
are what two cores give without a second process. Efficiency: pictures a second and core, beside those of one process with one
thread. The rates of files leave the start out: they come from the difference between a call with many files and one with few.
Wants a machine that has nothing else to do.

usage: python benchmarks/scaling.py [--photos FOLDER] [--seconds S] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import machine, parser, pictures, table, write_json
from startup import aecli_script
from throughput import landscape, run_command, write_files

from aecli.device import select
from aecli.training import Progress, Request, train
from aecli.training.distributed import joined

SETUPS = {"1 process, 1 thread": (1, 1), "2 processes, 1 thread each": (2, 1), "1 process, 2 threads": (1, 2)}
FILE_SETUPS = {
    "local, 1 thread": (1, ["--threads", "1"]),
    "--engine ray, 2 workers of 1 thread": (2, ["--threads", "1", "--engine", "ray"]),
    "local, 2 threads": (2, ["--threads", "2"]),
}
MANY, FEW = 24, 4  # files
WARM_UP_STEPS = 3  # they allocate, and torch chooses its kernels

Figures = dict[str, float]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--photos", help="a folder of photographs: measures denoiser, codec and files too")
    arguments.add_argument("--seconds", type=float, default=20, help="of each run (default: %(default)s)")
    arguments.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    arguments.add_argument("--worker", nargs=2, metavar=("ARCH", "FILE"), help="how the script starts itself under torchrun")
    args = arguments.parse_args()
    if args.worker:
        work(*args.worker, args.photos, args.seconds, args.threads)
        return
    line = machine(select())
    print(line, end="\n\n")
    architectures = ("conv", "denoiser", "codec") if args.photos else ("conv",)
    figures = {arch: measure(arch, args.photos, args.seconds, args.rounds) for arch in architectures}
    print(table(["training", "", "batch of a process", "steps/s", "pictures/s", "efficiency"], rows(figures), names=2))
    files = files_per_second(args.photos, args.rounds) if args.photos else {}
    if files:
        print(f"\n{table(['aecli denoise, 768×512', 'files/s', 'efficiency'], file_rows(files))}")
    write_json(args.json, {"machine": line, "training": figures, "files": files})


def measure(arch: str, photos: str | None, seconds: float, rounds: int) -> dict[str, Figures]:
    """Figures of an architecture by setup, which alternate."""
    runs: dict[str, list[Figures]] = {setup: [] for setup in SETUPS}
    for number in range(rounds):
        for setup, (processes, threads) in SETUPS.items():
            print(f"{arch}, {setup}, round {number + 1} of {rounds}", file=sys.stderr)
            runs[setup].append(run(arch, photos, seconds, processes, threads))
    return {setup: {name: statistics.median(r[name] for r in found) for name in found[0]} for setup, found in runs.items()}


def run(arch: str, photos: str | None, seconds: float, processes: int, threads: int) -> Figures:
    """One run of one setup, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "figures.json")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        options = ["--worker", arch, str(result), "--seconds", str(seconds), "--threads", str(threads)]
        options += ["--photos", str(Path(photos).resolve())] if photos else []
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run([*torchrun, str(Path(__file__).resolve()), *options], check=True, cwd=folder, env=environment)
        figures: Figures = json.loads(result.read_text())
        return figures


def work(arch: str, result: str, photos: str | None, seconds: float, threads: int) -> None:
    """One of the processes: trains for as long, and the first of them writes the figures."""
    ends: list[float] = []

    def note(progress: Progress) -> None:
        ends.append(time.perf_counter())

    def stop() -> bool:
        return len(ends) > WARM_UP_STEPS and ends[-1] - ends[WARM_UP_STEPS] > seconds

    with joined() as processes:
        data = photos if arch in ("denoiser", "codec") else None
        request = Request(arch, Path("weights.safetensors"), select(threads=threads), data=data, steps=10**6)
        train(request, note, stop, processes)
        if processes.leads:
            batch = request.recipe.batch_size
            # Validation falls between some steps: the median leaves it out.
            step = statistics.median(b - a for a, b in zip(ends[WARM_UP_STEPS:], ends[WARM_UP_STEPS + 1 :], strict=False))
            figures = {"batch": batch, "steps_per_second": 1 / step, "pictures_per_second": processes.count * batch / step}
            Path(result).write_text(json.dumps(figures))


def files_per_second(photos: str, rounds: int) -> dict[str, float]:
    """By setup, which alternate."""
    crops = [crop for pixels in pictures(photos, MANY) for crop in landscape(pixels)]
    seconds: dict[str, list[float]] = {setup: [] for setup in FILE_SETUPS}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder, "many"), crops, MANY)
        write_files(Path(folder, "few"), crops, FEW)
        for _ in range(rounds):
            for setup, (_, options) in FILE_SETUPS.items():
                command = [aecli_script(), "denoise", *options, "--quiet", "--overwrite", "-o", str(Path(folder, "out"))]
                many, few = (run_command([*command, str(Path(folder, name))])[0] for name in ("many", "few"))
                seconds[setup].append((many - few) / (MANY - FEW))
    return {setup: 1 / statistics.median(found) for setup, found in seconds.items()}


def file_rows(rates: dict[str, float]) -> list[list[str]]:
    """Of the table."""
    alone = rates["local, 1 thread"]
    return [[setup, f"{rate:.2f}", f"{rate / alone / FILE_SETUPS[setup][0]:.0%}"] for setup, rate in rates.items()]


def rows(figures: dict[str, dict[str, Figures]]) -> list[list[str]]:
    """Of the table."""
    lines = []
    for arch, setups in figures.items():
        alone = setups["1 process, 1 thread"]["pictures_per_second"]
        for setup, found in setups.items():
            processes, threads = SETUPS[setup]
            efficiency = found["pictures_per_second"] / alone / (processes * threads)
            rates = [f"{found['steps_per_second']:.2f}", f"{found['pictures_per_second']:.1f}", f"{efficiency:.0%}"]
            lines.append([arch, setup, f"{found['batch']:.0f}", *rates])
    return lines


if __name__ == "__main__":
    main()
