"""What the optimiser takes of a training step of the default `deep`, `conv`, `denoiser` and `codec`, at their batch sizes.

The optimiser is all that follows the gradients: clipping, the update, the moving average. Seconds are medians of processor
time; the batches are random numbers. The second command shows a processor with AVX2 and nothing newer on any x86 machine.

usage: python benchmarks/optimiser_share.py [--archs A,B] [--steps N] [--precision P] [--threads N] [--json FILE]
       ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/optimiser_share.py …
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import machine, parser, table, write_json
from torch import Tensor

from aecli import device
from aecli.models import build
from aecli.training import FROM_SCRATCH, RECIPES
from aecli.training.features import FeatureTask
from aecli.training.loop import Budget, Trainer
from aecli.training.photos import CodecTask, DenoiserTask

ARCHS = "deep,conv,denoiser,codec"


class Random:
    """Batches of random pictures of one shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return 1

    def batch(self, step: int, size: int, part: slice = slice(None)) -> Tensor:
        return torch.rand(size, *self.shape, generator=torch.Generator().manual_seed(step))[part]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--archs", default=ARCHS, help="architectures, with commas (default: %(default)s)")
    arguments.add_argument("--steps", type=int, default=5, help="timed steps, after one that is not (default: %(default)s)")
    arguments.add_argument("--precision", default="auto", help="auto, fp32 or bf16 (default: %(default)s)")
    args = arguments.parse_args()
    compute = device.select("cpu", args.precision, args.threads)
    line = f"{machine(compute)}, torch's vectors {torch.backends.cpu.get_cpu_capability()}"
    print(line, end="\n\n", flush=True)
    found = {arch: seconds(arch, compute, args.steps) for arch in args.archs.split(",")}
    rows = [[arch, *(f"{s:.3f}" for s in pair), f"{pair[1] / sum(pair):.0%}"] for arch, pair in found.items()]
    print(table(["architecture", "gradients, s", "optimiser, s", "optimiser's share"], rows))
    write_json(args.json, {"machine": line, "seconds": found})


def seconds(arch: str, compute: device.Compute, steps: int) -> tuple[float, float]:
    """(gradients, optimiser) of a step."""
    trainer = trainer_of(arch, compute)
    updates, wholes = [], []
    update = trainer.update

    def timed_update() -> None:
        start = time.process_time()
        update()
        updates.append(time.process_time() - start)

    trainer.update = timed_update  # type: ignore[method-assign]
    loss_of = trainer.loss_module()
    for _ in range(steps + 1):
        start = time.process_time()
        trainer.train_step(loss_of, 0.5)
        wholes.append(time.process_time() - start)
    gradients = [whole - update for whole, update in zip(wholes, updates, strict=True)]
    return statistics.median(gradients[1:]), statistics.median(updates[1:])


def trainer_of(arch: str, compute: device.Compute) -> Trainer:
    recipe = RECIPES[arch]
    torch.manual_seed(0)
    model: Any = build(arch, FROM_SCRATCH.get(arch, {}))
    if arch in ("denoiser", "codec"):
        source, task_class = Random((3, recipe.patch_size, recipe.patch_size)), DenoiserTask if arch == "denoiser" else CodecTask
        task: Any = task_class(model, source, [torch.rand(3, 64, 64)])  # type: ignore[arg-type]
    else:
        task = FeatureTask(model, Random((1, 28, 28)), torch.rand(1, 1, 28, 28), None)
    return Trainer(
        task,
        budget=Budget(steps=1000),
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        clip=recipe.clip,
        largest=recipe.largest,
        seed=0,
        compute=compute,
        checkpoint=Path("unused"),
    )


if __name__ == "__main__":
    main()
