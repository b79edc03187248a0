"""The training loop: schedule, moving average, validation, checkpoints. What is trained, and on what, a `Task` says."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aecli.batch import atomic_write
from aecli.device import Compute
from aecli.errors import AecliError, UsageError
from aecli.training.data import Source
from aecli.training.distributed import ALONE, Processes
from aecli.training.optim import Muon

WARM_UP = 0.02  # share of the run
ANNEALING = 0.5  # share of the run over which the learning rate falls to zero: worth about 2 dB to the codec
EMA_DECAY = 0.999
CHECKPOINT_SECONDS = 300
VALIDATION_SHARE = 0.04  # of the time, at most
CHECKPOINT_FORMAT = 2
FEW_STEPS = 50  # of which nobody needs to be told how long they take
MOST_LR = 1000  # nothing learns at a tenth of it, and float32 overflows far above


class Task(Protocol):
    """What is trained."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def source(self) -> Source: ...

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The mean loss of a batch of clean pictures (B, C, H, W) in 0–1; the generator (CPU) is the step's own."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures on held-out pictures, among them `psnr` in dB."""


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of steps, or minutes of wall time (then the schedule follows the clock)."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise UsageError("give one of --epochs, --steps and --minutes")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and not 0 < self.minutes < math.inf):
            raise UsageError("--epochs, --steps and --minutes must be positive")

    def share_done(self, step: int, seconds: float) -> float:
        """Progress from 0 to 1."""
        if self.steps is not None:
            return step / self.steps
        assert self.minutes is not None
        return seconds / (60 * self.minutes)

    def seconds_left(self, step: int, seconds: float) -> float:
        """Told by the clock or, of a number of steps of which at least one is done, by how long they took."""
        if self.minutes is not None:
            return max(0.0, 60 * self.minutes - seconds)
        assert self.steps is not None
        return (self.steps - step) * seconds / step


@dataclass(frozen=True)
class Progress:
    """The state of a run after a step; `figures` are the last validation's."""

    step: int
    share: float
    loss: float
    images_per_second: float
    seconds: float
    seconds_left: float
    figures: Mapping[str, float]


class _Loss(nn.Module):
    """A task's loss as a module: what DistributedDataParallel can wrap, whichever methods of the model the task calls."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self.task = task.model, task

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.task.loss(x, generator)


class Trainer:
    """One run: the model that is stepped, its moving average, the optimiser and the clock.

    Every one of several processes holds all of them and takes the same steps, with the mean of all gradients; `batch_size` is
    each process's own. The first one alone validates, reports and writes. Without `checkpoint` no state is kept. `options` are
    those by which the run was started, besides the ones given here, as a resumed run must have the same.
    """

    def __init__(
        self,
        task: Task,
        *,
        budget: Budget,
        batch_size: int,
        lr: float,
        clip: float,
        seed: int,
        compute: Compute,
        checkpoint: Path | None,
        options: Mapping[str, str] | None = None,
        largest: float = math.inf,
        annealing: float = ANNEALING,
        processes: Processes = ALONE,
    ) -> None:
        if batch_size < 1 or not 0 < lr <= MOST_LR:
            raise UsageError(f"--batch-size and --lr must be positive, and --lr at most {MOST_LR:,}")
        self.task, self.budget, self.compute, self.checkpoint, self.processes = task, budget, compute, checkpoint, processes
        self.batch_size, self.lr, self.clip, self.seed, self.annealing = batch_size, lr, clip, seed, annealing
        self.model = task.model.to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = Muon(self.model, lr, largest=largest, bf16=compute.bf16)
        self.options = {**(options or {}), "--lr": f"{lr:g}", "--seed": str(seed)}
        self.step = 0
        self.seconds = 0.0  # trained before this session
        self.figures: dict[str, float] = {}

    @property
    def batch_size_of_all(self) -> int:
        """Pictures that a step sees."""
        return self.processes.count * self.batch_size

    def run(self, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]) -> bool:
        """Train until the budget is spent or `should_stop`; True when it was spent. A checkpoint is left either way."""
        loss_of = self.loss_module()
        start = time.monotonic() - self.seconds
        last_checkpoint = last_validation = time.monotonic()
        validation_seconds = 0.0
        session_start, session_step = time.monotonic(), self.step
        smooth_loss = math.nan
        while True:
            self.seconds = time.monotonic() - start
            share, stop = self.processes.furthest(self.budget.share_done(self.step, self.seconds), should_stop())
            if share >= 1 or stop:
                break
            loss = self.processes.mean(self.train_step(loss_of, share))
            if not math.isfinite(loss):
                diverged = AecliError(f"training diverged at step {self.step} (the loss is {loss}): pass a smaller --lr")
                raise self.processes.told(diverged)
            if not self.processes.leads:
                continue
            smooth_loss = loss if math.isnan(smooth_loss) else 0.98 * smooth_loss + 0.02 * loss
            now = time.monotonic()
            if now - last_validation > max(2.0, validation_seconds / VALIDATION_SHARE):
                self.figures = self.validate()
                last_validation = time.monotonic()
                validation_seconds = last_validation - now
            if time.monotonic() - last_checkpoint > CHECKPOINT_SECONDS:
                self.save_checkpoint()
                last_checkpoint = time.monotonic()
            rate = (self.step - session_step) * self.batch_size_of_all / (time.monotonic() - session_start)
            seconds = time.monotonic() - start
            left = self.budget.seconds_left(self.step, seconds)
            on_progress(Progress(self.step, share, smooth_loss, rate, seconds, left, self.figures))
        if self.processes.leads:
            if share >= 1:  # whoever stops a run, torchrun for one, may not wait for figures
                self.figures = self.validate()
            self.save_checkpoint()
        return share >= 1

    def expected_seconds(self) -> float | None:
        """How long the rest of the run takes: told by the clock or, of more than a few steps, by one that leaves no trace."""
        if self.budget.steps is None:
            return self.budget.seconds_left(self.step, self.seconds)
        left = self.budget.steps - self.step
        return None if left < FEW_STEPS else left * self._seconds_of_a_step()

    def _seconds_of_a_step(self) -> float:
        step, loss_of = self.step, self.loss_module()
        before = copy.deepcopy((self.model.state_dict(), self.ema.state_dict(), self.optimizer.state_dict()))
        self.train_step(loss_of, 0.0)  # the first one takes longer
        start = time.monotonic()
        self.train_step(loss_of, 0.0)
        seconds = time.monotonic() - start
        for part, state in zip((self.model, self.ema, self.optimizer), before, strict=True):
            part.load_state_dict(state)
        self.step = step
        return seconds

    def loss_module(self) -> nn.Module:
        """The task's loss, whose gradients are the mean of all processes'; called by all of them."""
        return self.processes.averaging(_Loss(self.task))

    def validate(self) -> dict[str, float]:
        """The task's figures for the moving average of the weights."""
        with torch.inference_mode(), self.compute.autocast():
            return self.task.validate(self.ema)

    def train_step(self, loss_of: nn.Module, share: float) -> float:
        """One step of `loss_module` when that share of the run is done; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * learning_rate_factor(share, self.annealing)
        part = self.processes.part(self.batch_size)
        seed = _seed(self.seed, self.step, part.start)
        torch.manual_seed(seed)  # noise drawn inside models
        generator = torch.Generator().manual_seed(seed)
        x = self.task.source.batch(self.step, self.batch_size_of_all, part).to(self.compute.device)
        with self.compute.autocast():
            loss: Tensor = loss_of(x, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.update()
        return loss.item()

    def update(self) -> None:
        """One step from the gradients at hand, and the moving average after it."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.step += 1
        self._update_average()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        averaged = list(self.ema.parameters())
        torch._foreach_lerp_(averaged, [p.detach() for p in self.model.parameters()], 1 - decay)

    def save_checkpoint(self) -> None:
        """Weights, moving average, optimiser, step and clock; batches and noise follow from seed and step."""
        if self.checkpoint is None:
            return
        state = {
            "format": CHECKPOINT_FORMAT,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "options": self.options,
            "batch_size": self.batch_size_of_all,
        }
        with atomic_write(self.checkpoint, overwrite=True) as stream:
            torch.save(state, stream)

    def remove_checkpoint(self) -> None:
        """When nothing is left to go on with."""
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)

    def load_checkpoint(self) -> None:
        """Go on where a checkpoint stands. Raises AecliError where there is none, or it is of another model or other options."""
        assert self.checkpoint is not None
        checkpoint = self.checkpoint
        state = self.processes.from_leader(lambda: _read_checkpoint(checkpoint))
        self._refuse_other_options(state["options"])
        if state["batch_size"] != self.batch_size_of_all:
            raise UsageError(f"{self.checkpoint} was trained with {self._batches_of(state['batch_size'])}")
        try:
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AecliError(f"{self.checkpoint} is of another model: pass the --arch and options it was started with") from error
        self.step, self.seconds = state["step"], state["seconds"]

    def _refuse_other_options(self, trained: Mapping[str, str]) -> None:
        differing = [name for name in {**trained, **self.options} if trained.get(name, "") != self.options.get(name, "")]
        if differing:
            was, now = (
                " and ".join(f"{name} {options[name]}" if options.get(name) else f"no {name}" for name in differing)
                for options in (trained, self.options)
            )
            raise UsageError(f"{self.checkpoint} was trained with {was}, not with {now}: pass the same, or --restart to begin anew")

    def _batches_of(self, pictures: int) -> str:
        """How to have as many pictures a step with the processes at hand."""
        count = self.processes.count
        if pictures % count:
            return f"{pictures} pictures a step, which {count} processes cannot share evenly: start another number of them"
        each = f", {pictures} pictures a step" if count > 1 else ""
        return f"--batch-size {pictures // count}{each}: pass the same"


def _seed(seed: int, step: int, first: int) -> int:
    """Of the noise of a step's pictures from the `first` on: they and those after it have seeds that no other step has."""
    return (((seed * 1_000_003 + step) << 20) + first) % 2**63


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # tensors and numbers only: nothing is run
    except FileNotFoundError as error:
        raise AecliError(f"there is no checkpoint {path} to resume from: leave --resume out") from error
    except Exception as error:
        raise AecliError(f"checkpoint {path} is damaged: pass --restart instead of --resume") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        raise AecliError(f"checkpoint {path} was written by another version of aecli: pass --restart instead of --resume")
    numbers = all(isinstance(state.get(name), int | float) for name in ("batch_size", "step", "seconds"))
    if not numbers or not isinstance(state.get("options"), dict):
        raise AecliError(f"checkpoint {path} is damaged: pass --restart instead of --resume")
    return state


def learning_rate_factor(share: float, annealing: float = ANNEALING) -> float:
    """Warm-up, constant, then a half cosine to zero over the last `annealing` of the run; share of it done, 0–1 → factor 0–1."""
    if share < WARM_UP:
        return (share + 1e-4) / WARM_UP
    annealed = max(0.0, share - (1 - annealing)) / annealing
    return 0.5 * (1 + math.cos(math.pi * min(1.0, annealed)))
