"""`aecli anomalies`: which pictures do not resemble what an autoencoder was trained on, and where."""

from __future__ import annotations

import heapq
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aecli.batch import Job, read_bytes
from aecli.cli import report
from aecli.cli.options import Inputs, Printing, Running
from aecli.images import SUFFIXES, Picture, read_picture
from aecli.pipeline import Work

if TYPE_CHECKING:
    from aecli.anomalies import Evidence, Verdict

    Named = tuple[str, Verdict]

SHOWN = 8  # pictures in the picture


def anomalies(
    inputs: Inputs,
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="The name of included weights, or a file: what they were trained on is normal.")
    ] = "photo-codec",
    top: Annotated[int, typer.Option(min=1, help="Number of files in the table.")] = 20,
    fail_on_anomaly: Annotated[
        bool, typer.Option("--fail-on-anomaly", help="End with status 3 if a picture is unlike the training data.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture of the worst, with maps of their errors.")] = Path(
        "anomalies.png"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", "-f", help="Replace the picture if it exists.")] = False,
    running: Running = Running(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Find pictures that are unlike what an autoencoder was trained on: it reconstructs them badly.

    [bold]Examples[/bold]

    aecli train --arch conv --data good/ --resize 64 -o good.safetensors

    aecli anomalies incoming/ --weights good.safetensors --fail-on-anomaly

    aecli anomalies scans/ -r --weights mnist-conv --json > errors.jsonl
    """
    report.configure(printing)
    found = report.find(inputs, SUFFIXES)
    report.check_figure(output, overwrite)
    report.refuse_source(output, "--output", (item.path for item in found))

    from aecli.anomalies import check_weights, judge
    from aecli.weights import load_weights

    compute = running.compute()
    loaded = load_weights(weights, compute.device)
    check_weights(loaded)
    verdicts: list[Named] = []
    worst: list[tuple[tuple[bool, float], int, Evidence]] = []  # a heap: only their pictures are kept

    def process(job: Job, picture: Picture) -> None:
        verdict, evidence = judge(picture, loaded, compute)
        add = heapq.heappush if len(worst) < SHOWN else heapq.heappushpop
        add(worst, (verdict.rank, -len(verdicts), evidence))
        verdicts.append((job.name, verdict))

    work = Work(lambda job: read_picture(read_bytes(job, sys.stdin.buffer), job.name), process, lambda job, _, stream: {})
    failed = report.count_failures([Job(item.path, None, item.name) for item in found], work)
    ranked = sorted(verdicts, key=lambda named: named[1].rank, reverse=True)
    if ranked:
        _draw(ranked, [evidence for _, _, evidence in sorted(worst, reverse=True)], loaded.name, output, overwrite)
    _tell(ranked, loaded.name, "pictures" if loaded.card.resize else "patches", top, output)
    if failed:
        raise typer.Exit(report.ExitStatus.FAILED)
    if fail_on_anomaly and any(verdict.unlike for _, verdict in verdicts):
        raise typer.Exit(report.ExitStatus.ANOMALY)


def _tell(ranked: list[Named], weights: str, whole: str, top: int, output: Path) -> None:
    if report.as_json():
        for name, verdict in ranked:
            values = {"input": name, "error": verdict.error, "limit": verdict.limit, "unlike_training_data": verdict.unlike}
            report.answer("", values)
        return
    rows = [[name, f"{v.error:.3g}", f"{v.error / v.limit:.2f}", "unlike" if v.unlike else ""] for name, v in ranked[:top]]
    if rows:
        limit = f"{ranked[0][1].limit:.3g}, which one in a thousand {whole} like the training data exceeds"
        title = f"Mean squared reconstruction error by {weights}, of values in 0–1; the limit is {limit}"
        report.table(["file", "error", "error / limit", "training data"], rows, title=title, to_stdout=True)
    count = sum(verdict.unlike for _, verdict in ranked)
    unlike = f"{count} of {len(ranked)} unlike what {weights} was trained on"
    report.say(f"{unlike}; written: {output}" if ranked else "no picture could be judged")


def _draw(ranked: list[Named], evidence: list[Evidence], weights: str, output: Path, overwrite: bool) -> None:
    from aecli.batch import atomic_write
    from aecli.plots import anomalies_figure

    labels = [f"{Path(name).name}\n{v.error / v.limit:.2g} × limit" for name, v in ranked[: len(evidence)]]
    figure = anomalies_figure(labels, evidence, weights)
    with atomic_write(output, overwrite=overwrite) as stream:
        figure.savefig(stream, format=output.suffix[1:].lower())
