"""Training in several processes under torchrun: who this process is, and the few things that all of them do together.

The first process leads: it alone validates, writes and prints. Each draws its own part of every batch, DistributedDataParallel
averages the gradients, and so all of them take the same steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from aecli.device import Compute
from aecli.errors import AecliError, UsageError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)  # also for a step: the others wait while the leader validates and writes


class ElsewhereError(AecliError):
    """A failure that the leading process tells of; the others end without a word."""


@dataclass(frozen=True)
class Processes:
    """The processes that train one model together, and which of them this one is.

    rank: 0 … count − 1 over all machines. local_rank, local_count: the same on this machine; the former picks the GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def launcher(self) -> list[str]:
        """The words that start as many processes, before those of the program itself."""
        if self.count == 1:
            return ["aecli"]
        nodes = [f"--nnodes={self.count // self.local_count}"] if self.count > self.local_count else []
        return ["torchrun", *nodes, f"--nproc-per-node={self.local_count}", "-m", "aecli"]

    def part(self, batch_size: int) -> slice:
        """The part of a batch of `count · batch_size` pictures that is this process's."""
        return slice(self.rank * batch_size, (self.rank + 1) * batch_size)

    def place(self, compute: Compute) -> Compute:
        """One GPU for each process. Raises UsageError where there are too few."""
        if self.count == 1 or compute.device.type == "cpu":
            return compute
        if compute.device.type != "cuda":
            raise UsageError(
                f"--device {compute.device.type} trains in one process only: pass --device cpu, or start without torchrun"
            )
        if self.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"this machine has {torch.cuda.device_count()} GPUs: start no more processes than that, or pass --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return replace(compute, device=torch.device("cuda", self.local_rank))

    def averaging(self, loss: nn.Module) -> nn.Module:
        """The same module, whose backward pass leaves in every process the mean of all processes' gradients.

        Called by all of them; the leader's parameters become everyone's.
        """
        if self.count == 1:
            return loss
        return nn.parallel.DistributedDataParallel(loss)

    def mean(self, value: float) -> float:
        """Over all processes."""
        return self._reduced([value], dist.ReduceOp.SUM)[0] / self.count

    def furthest(self, share: float, stop: bool) -> tuple[float, bool]:
        """The largest share done of any process, and whether any was told to stop: clocks and signals differ a little."""
        share, stopped = self._reduced([share, float(stop)], dist.ReduceOp.MAX)
        return share, bool(stopped)

    def _reduced(self, values: list[float], operation: Any) -> list[float]:
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=operation)
        return tensor.tolist()

    def from_leader(self, make: Callable[[], T]) -> T:
        """What `make` returns on the leader, or the AecliError that it raises there; the others need not have its files.

        Called by all of them, inside `together`.
        """
        if self.count == 1:
            return make()
        box: list[Any] = [None]
        if self.leads:
            try:
                box = [make()]
            except AecliError as error:
                box = [error]
        dist.broadcast_object_list(box, src=0)
        if isinstance(box[0], AecliError):
            raise box[0]
        return box[0]  # type: ignore[no-any-return]

    @contextmanager
    def together(self) -> Iterator[None]:
        """An AecliError that one process meets in the block is raised in all of them, when all have left it."""
        mine: AecliError | None = None
        try:
            yield
        except AecliError as error:
            mine = error
        found: list[AecliError | None] = [mine]
        if self.count > 1:
            found = [None] * self.count
            dist.all_gather_object(found, mine)
        first = next((error for error in found if error is not None), None)
        if first is not None:
            raise self.told(mine or first)

    def told(self, error: AecliError) -> AecliError:
        """An error that all processes have met, as the leader and as the others raise it."""
        return error if self.leads else ElsewhereError(str(error))


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, connected while the block lasts; without torchrun this one alone.

    Raises:
        UsageError: torchrun's variables are there in part only, or make no sense.
        AecliError: the processes do not find, or have lost, each other.
    """
    processes = _from_environment(os.environ)
    if processes.count == 1:
        yield processes
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT, rank=processes.rank, world_size=processes.count)
    except (RuntimeError, ValueError, OSError) as error:
        raise AecliError(
            f"process {processes.rank} of {processes.count} did not find the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({_first_line(error)}): check address and port"
        ) from error
    try:
        yield processes
        # torchrun ends all when one ends badly: nobody leaves while another may still be measuring and writing. Nor does one
        # end while gloo's threads, which outlive the group under DistributedDataParallel, hold a tensor of the last reduction:
        # letting go of it while Python ends would abort the process (pytorch/pytorch#38228, #179291). A barrier has none.
        dist.barrier()
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        lost = AecliError("another process of this training has ended; start all of them again, with --resume")
        raise processes.told(lost) from error
    finally:
        dist.destroy_process_group()


def _from_environment(environment: Mapping[str, str]) -> Processes:
    given = [name for name in ("RANK", "WORLD_SIZE") if name in environment]
    if not given or environment.get("WORLD_SIZE") == "1":  # the other variables stand in many an environment
        return ALONE
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    missing = [name for name in (*needed, "MASTER_ADDR") if not environment.get(name)]
    if missing:
        raise _broken_environment(f"{' and '.join(missing)} not set", given)
    try:
        rank, count, local_rank, local_count, port = (int(environment[name]) for name in needed)
    except ValueError as error:
        raise _broken_environment(str(error), given) from error
    if not (0 <= local_rank < local_count <= count and local_rank <= rank < count and 0 < port < 1 << 16):
        values = ", ".join(f"{name} {environment[name]}" for name in needed)
        raise _broken_environment(values, given)
    return Processes(rank, count, local_rank, local_count)


def _broken_environment(what: str, given: list[str]) -> UsageError:
    return UsageError(f"the variables of torchrun are broken ({what}): start with torchrun, or unset {' and '.join(given)}")


def _is_lost_connection(error: RuntimeError) -> bool:
    """Gloo's errors have no class of their own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection" in str(error)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
