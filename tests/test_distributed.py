"""Training in several processes: two of them walk as one with the doubled batch, one of them writes and speaks, any number resumes.

The pair of processes is started once, does everything in PAIR, and leaves what it saw for the tests to look at.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys

import pytest
import torch
from conftest import DATA, tiny_codec, tiny_conv, tiny_denoiser, tiny_dense

from aecli.device import Compute, select
from aecli.errors import AecliError, UsageError
from aecli.training.data import ArraySource, FolderSource, folder_pictures, load_dataset
from aecli.training.distributed import ALONE, Processes, joined
from aecli.training.drawings import Drawings
from aecli.training.features import FeatureTask
from aecli.training.loop import Budget, Trainer
from aecli.training.photos import CodecTask, DenoiserTask
from aecli.weights import load_weights

BATCH = 8  # of all processes
STEPS = 6
DIGITS = torch.randint(0, 256, (40, 1, 13, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def never():
    return False


def task_of(kind):
    if kind == "dense":
        images = load_dataset("mnist").train.images[:2000]
        return FeatureTask(tiny_dense(height=28, width=28, latent_dim=40), ArraySource(images, 0), images[:20] / 255, None)
    if kind == "conv":
        return FeatureTask(tiny_conv(), ArraySource(DIGITS, 0), DIGITS[:5] / 255, None)
    if kind == "patches":
        source = FolderSource(folder_pictures(str(DATA)), 16, 0, grey_share=0.3)
        return FeatureTask(tiny_dense(channels=3, height=16, width=16, latent_dim=40), source, source.batch(0, 5), None)
    source, valid = FolderSource(folder_pictures(str(DATA)), 64, 0), [torch.rand(3, 64, 64)]
    return (
        DenoiserTask(tiny_denoiser(), source, valid, Drawings(64, 0, pages=2))
        if kind == "denoiser"
        else CodecTask(tiny_codec(), source, valid)
    )


def trainer_of(kind, processes, checkpoint, *, steps=STEPS, batch=BATCH):
    task = task_of(kind)
    task.model.train().requires_grad_(True)
    options = {"lr": 1e-2, "clip": 1e9, "seed": 0, "compute": select("cpu", "fp32", 1), "checkpoint": checkpoint}
    return Trainer(task, budget=Budget(steps=steps), batch_size=batch // processes.count, processes=processes, **options)


def train(kind, processes, folder, *, steps=STEPS, should_stop=never, resume=False):
    """Trains with a checkpoint for each process that should ever write one → losses, last gradients, weights, steps done."""
    trainer = trainer_of(kind, processes, folder / f"{kind}-{processes.rank}.pt", steps=steps)
    if resume:
        trainer.load_checkpoint()
    losses = []
    trainer.run(lambda progress: losses.append(progress.loss), should_stop)
    return {
        "losses": losses,
        "gradients": [p.grad.clone() for p in trainer.model.parameters()],
        "weights": [p.detach().clone() for p in trainer.ema.parameters()],
        "step": trainer.step,
    }


def start_of(kind):
    return [p.detach() for p in task_of(kind).model.parameters()]


def distance(a, b):
    """Euclidean. Of weights it is not mere rounding: where there is no gradient, Muon makes directions of rounding errors."""
    return sum((x - y).square().sum() for x, y in zip(a, b, strict=True)).sqrt().item()


# ------------------------------------------------------------------------------------------------------- what the pair does


def whole_runs(processes, folder):
    return {kind: train(kind, processes, folder) for kind in ("dense", "conv", "patches", "denoiser", "codec")}


def first_steps(processes, folder):
    return {kind: train(kind, processes, folder, steps=1) for kind in ("dense", "conv", "patches")}


def first_half(processes, folder):
    checks = iter(range(100))
    return train("dense", processes, folder, should_stop=lambda: next(checks) == STEPS // 2 and processes.rank == 1)


def second_half(processes, folder):
    return train("dense", processes, folder, resume=True)


def unshareable(processes, folder):
    trainer = trainer_of("dense", processes, folder / "odd.pt")
    with processes.together():
        trainer.load_checkpoint()


def missing(processes, folder):
    with processes.together():
        trainer_of("dense", processes, folder / "gone.pt").load_checkpoint()


def fails_on_the_second(processes, folder):
    with processes.together():
        if processes.rank == 1:
            raise AecliError("the second process has no such folder: check --data")


def diverges(processes, folder):
    trainer = trainer_of("dense", processes, folder / f"diverges-{processes.rank}.pt")
    if processes.rank == 1:
        trainer.task.loss = lambda x, generator: sum(p.sum() for p in trainer.model.parameters()) * float("nan")
    trainer.run(lambda progress: None, never)


PAIR = {
    f.__name__: f for f in (whole_runs, first_steps, first_half, second_half, unshareable, missing, fails_on_the_second, diverges)
}


def loses_the_second(processes, folder):
    """The last thing that the pair does."""

    def stop():
        return os._exit(1) if processes.rank == 1 else False

    train("dense", processes, folder, should_stop=stop)


def process_of_the_pair(rank, port, folder):
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in variables.items()}})
    seen = {}
    try:
        with joined() as processes:
            for name, act in PAIR.items():
                (folder / name).mkdir(exist_ok=True)
                try:
                    seen[name] = act(processes, folder / name)
                except AecliError as error:
                    seen[name] = error
            (folder / f"{rank}.pickle").write_bytes(pickle.dumps(seen))
            loses_the_second(processes, folder)
    except AecliError as error:
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(seen | {"loses_the_second": error}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the pair works; it finds there what a single process left to be resumed."""
    folder = tmp_path_factory.mktemp("pair")
    for name in ("second_half", "unshareable"):
        (folder / name).mkdir()
    train("dense", ALONE, folder / "second_half", should_stop=iter([False] * (STEPS // 2) + [True]).__next__)
    trainer_of("dense", ALONE, folder / "unshareable" / "odd.pt", batch=7).save_checkpoint()
    return folder


@pytest.fixture(scope="module")
def pair(folder):
    """What each of the two processes saw, (first, second)."""
    context = multiprocessing.get_context("spawn")
    port = free_port()
    processes = [context.Process(target=process_of_the_pair, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
        process.kill()
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ----------------------------------------------------------------------------------------------------------- same as alone


@pytest.mark.parametrize("kind", ["dense", "conv", "patches"])
def test_two_processes_have_the_loss_curve_of_one_with_the_doubled_batch(pair, tmp_path, kind):
    alone, two = train(kind, ALONE, tmp_path), pair[0]["whole_runs"][kind]
    assert len(two["losses"]) == STEPS
    assert two["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert len(set(two["losses"])) == STEPS
    assert distance(two["weights"], alone["weights"]) < 0.1 * distance(alone["weights"], start_of(kind))


@pytest.mark.parametrize("kind", ["dense", "conv", "patches"])
def test_gradients_are_averaged(pair, tmp_path, kind):
    """The optimiser hardly minds their scale, so that the loss curve alone would not show a sum."""
    alone = train(kind, ALONE, tmp_path, steps=1)["gradients"]
    for process in pair:
        assert distance(process["first_steps"][kind]["gradients"], alone) < 1e-5 * distance(alone, [0] * len(alone))


@pytest.mark.parametrize("kind", ["dense", "conv", "patches", "denoiser", "codec"])
def test_all_processes_take_the_same_steps(pair, kind):
    first, second = (process["whole_runs"][kind] for process in pair)
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    assert first["step"] == second["step"] == STEPS


@pytest.mark.parametrize("kind", ["dense", "patches"])
def test_a_batch_is_shared_without_repeats(kind):
    source = task_of(kind).source
    whole = source.batch(3, 12)
    parts = [source.batch(3, 12, Processes(rank, 3).part(4)) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)


# -------------------------------------------------------------------------------------------------- checkpoints, resuming


def test_one_process_writes_and_reports(pair, folder):
    written = {path.name for path in (folder / "whole_runs").iterdir()}
    assert written == {f"{kind}-0.pt" for kind in ("codec", "conv", "dense", "denoiser", "patches")}
    assert pair[1]["whole_runs"]["dense"]["losses"] == []


def test_when_one_is_told_to_stop_all_do_and_one_process_resumes_what_two_began(pair, folder, tmp_path):
    assert [process["first_half"]["step"] for process in pair] == [STEPS // 2, STEPS // 2]
    resumed, whole = train("dense", ALONE, folder / "first_half", resume=True), train("dense", ALONE, tmp_path)
    assert (len(resumed["losses"]), resumed["step"]) == (STEPS // 2, STEPS)
    assert distance(resumed["weights"], whole["weights"]) < 0.05 * distance(whole["weights"], start_of("dense"))


def test_two_processes_resume_what_one_began(pair, tmp_path):
    """Its checkpoint lies where the first process looks, and only there."""
    whole = train("dense", ALONE, tmp_path)
    for process in pair:
        assert process["second_half"]["step"] == STEPS
        assert distance(process["second_half"]["weights"], whole["weights"]) < 0.05 * distance(whole["weights"], start_of("dense"))


# ----------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "there is no checkpoint"),
        ("unshareable", r"odd\.pt was trained with 7 pictures a step, which 2 processes cannot share evenly"),
        ("fails_on_the_second", "the second process has no such folder"),
        ("diverges", r"training diverged at step 1 \(the loss is nan\)"),
    ],
)
def test_a_failure_ends_all_and_the_first_process_tells(pair, what, message):
    told, silent = (process[what] for process in pair)
    with pytest.raises(AecliError, match=message):
        raise told
    assert type(told).__name__ != "ElsewhereError"
    assert type(silent).__name__ == "ElsewhereError"


def test_a_process_that_is_lost_ends_the_others_with_a_sentence(pair):
    with pytest.raises(AecliError, match="another process of this training has ended; start all of them again, with --resume"):
        raise pair[0]["loses_the_second"]


ENVIRONMENT = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": None}, "RANK not set.*unset WORLD_SIZE"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "MASTER_PORT and MASTER_ADDR not set"),
        ({"RANK": "first"}, "'first'"),
        ({"RANK": "2"}, "RANK 2, WORLD_SIZE 2"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK -1"),
        ({"MASTER_PORT": "123456"}, "MASTER_PORT 123456"),
    ],
)
def test_a_broken_environment_is_refused(monkeypatch, change, message):
    for name, value in (ENVIRONMENT | change).items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=rf"the variables of torchrun are broken \(.*{message}"), joined():
        pass


@pytest.mark.parametrize("environment", [{}, {"MASTER_ADDR": "somewhere"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_a_single_process_needs_no_others(monkeypatch, environment):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with joined() as processes:
        assert (processes.rank, processes.count, processes.leads) == (0, 1, True)


def test_others_that_cannot_be_found_are_named(monkeypatch):
    from datetime import timedelta

    monkeypatch.setattr("aecli.training.distributed.TIMEOUT", timedelta(seconds=1))
    for name, value in (ENVIRONMENT | {"MASTER_PORT": str(free_port())}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AecliError, match=r"process 1 of 2 did not find the others at 127\.0\.0\.1:\d+"), joined():
        pass


def test_processes_on_one_gpu_or_on_mps_are_refused(monkeypatch):
    with pytest.raises(UsageError, match="--device mps trains in one process only"):
        Processes(0, 2).place(Compute(torch.device("mps"), False))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="this machine has 1 GPUs: start no more processes than that"):
        Processes(1, 2, 1, 2).place(Compute(torch.device("cuda"), False))
    assert Processes(1, 2, 1, 2).place(Compute(torch.device("cpu"), True)) == Compute(torch.device("cpu"), True)


# ------------------------------------------------------------------------------------------------------------ the program


def torchrun(*arguments, cwd):
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    program = ["-m", "aecli", "train", "--arch", "dense", "--batch-size", "16", "--latent-dim", "4", *arguments]
    return subprocess.Popen([*start, *program], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_torchrun_trains_writes_once_and_speaks_once(tmp_path):
    output, errors = (process := torchrun("--steps", "5", "-o", "w.safetensors", cwd=tmp_path)).communicate(timeout=240)
    assert process.returncode == 0, errors
    assert output == "w.safetensors\n"
    assert errors.count("step 1 ") == errors.count("squared_error") == 1
    card = load_weights(tmp_path / "w.safetensors").card
    assert card.steps == 5
    assert card.command.startswith("torchrun --nproc-per-node=2 -m aecli train --arch dense")


def test_ctrl_c_on_torchrun_leaves_a_checkpoint(tmp_path):
    process = torchrun("--epochs", "100", "-o", "w.safetensors", cwd=tmp_path)
    while "step 1 " not in (line := process.stderr.readline()):
        assert line, "torchrun ended"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)
    assert errors.count("--resume goes on from") == 1
    assert (tmp_path / "runs" / "w" / "checkpoint.pt").exists()
    assert not (tmp_path / "w.safetensors").exists()
