"""`aecli compare-pca`: autoencoders beside principal component analysis, in a table, a figure and a file of numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shlex
import signal
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aecli.cli import report
from aecli.cli.options import FIGURES, MOST_SEED, Printing, Running
from aecli.errors import UsageError

if TYPE_CHECKING:
    from aecli.models import FeatureAutoencoder
    from aecli.pca import Candidate, Comparison, Row
    from aecli.training import Request
    from aecli.training.data import FeatureData

SMALL = ("dense", "deep", "sparse", "conv", "vae")
NUMBERS = ("csv", "json")
DIMS = "2,8,16,32"


def compare_pca(
    data: Annotated[
        str, typer.Option(help="mnist (included), fashion-mnist, cifar10, a folder of pictures, or an .npz or .npy array.")
    ] = "mnist",
    data_root: Annotated[Path | None, typer.Option(help="A local copy of the data set.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Download the data set if it is not there.")] = False,
    patch_size: Annotated[int | None, typer.Option(min=1, help="Side of the patches of a folder.")] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="Take whole pictures of a folder, reduced to this side.")] = None,
    arch: Annotated[
        str | None, typer.Option(help=f"What is trained, with commas: {', '.join(SMALL)}; deep if nothing is given.")
    ] = None,
    dims: Annotated[
        str | None, typer.Option(help=f"Latent sizes, with commas; {DIMS}, or what the data have of them, if nothing is given.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option("--weights", "-w", help="Take trained weights instead; may be given several times.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time of each autoencoder.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data of each; 3 if nothing is given.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED)] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The figure's name; trained weights and all numbers (.csv, .json) go beside it.")
    ] = Path("compare-pca.png"),
    format: Annotated[str, typer.Option(help=f"Of the figure, with commas: {', '.join(FIGURES)}.")] = "png,svg",
    overwrite: Annotated[bool, typer.Option("--overwrite", "-f", help="Replace results that exist.")] = False,
    running: Running = Running(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Compare autoencoders with PCA at the same latent sizes, and at the same number of bytes.

    [bold]Examples[/bold]

    aecli compare-pca

    aecli compare-pca --weights mnist-2d --weights mnist-30d --format pdf

    aecli compare-pca --arch deep,sparse,vae --dims 2,8,32 --minutes 2

    aecli compare-pca --data photos/ --patch-size 16 --dims 8,32 -o photos.png
    """
    report.configure(printing)
    results = _results(output, format, overwrite)
    if weights and any(option is not None for option in (arch, dims, minutes, epochs)):
        raise UsageError("--weights are trained already: leave out --arch, --dims, --minutes and --epochs")
    if minutes is not None and epochs is not None:
        raise UsageError("give one of --minutes and --epochs")
    archs = _parse_archs("deep" if arch is None else arch)

    from aecli.pca import Candidate, check_dims, compare, largest_dim
    from aecli.training import QUICK_BATCH, Request, feature_data

    request = Request(
        arch=archs[0],
        output=output,
        compute=running.compute(),
        data=data,
        data_root=data_root,
        download=download,
        patch_size=patch_size,
        resize=resize,
        epochs=3.0 if minutes is None and epochs is None else epochs,
        minutes=minutes,
        batch_size=QUICK_BATCH,
        seed=seed,
        overwrite=overwrite,
        command=shlex.join(["aecli", *sys.argv[1:]]),
        resumable=False,
        tell=cache(report.say),  # the data is read for every training, but told of once
    )
    feature = feature_data(request)
    if weights:
        candidates = _load_all(weights, feature)
    else:
        sizes = _usual_dims(largest_dim(feature)) if dims is None else _parse_dims(dims)
        check_dims(sizes, feature)
        trained = {(name, dim): _weights_beside(output, name, dim) for name in archs for dim in sizes}
        for path in trained.values():  # all before the first one trains for an hour
            report.refuse_existing(path, overwrite)
        candidates = [Candidate(name, _train_one(request, name, dim, path)) for (name, dim), path in trained.items()]
    comparison = compare(candidates, feature)
    _write(comparison, results, overwrite)
    _print(comparison, results)


def _results(output: Path, format: str, overwrite: bool) -> dict[str, Path]:
    """The files to be written, by kind. Raises UsageError before any work."""
    report.refuse_nameless(output)
    formats = format.split(",")
    unknown = [f for f in formats if f not in FIGURES]
    if unknown:
        raise UsageError(f"--format {format} is not known: give some of {', '.join(FIGURES)}, with commas")
    if _is_figure(output) and output.suffix[1:].lower() not in formats:
        formats = [output.suffix[1:].lower(), *formats]
    results = {kind: _beside(output, f".{kind}") for kind in (*formats, *NUMBERS)}
    for path in results.values():
        report.refuse_existing(path, overwrite)
    return results


def _is_figure(output: Path) -> bool:
    return output.suffix[1:].lower() in FIGURES


def _beside(output: Path, ending: str) -> Path:
    """A result of the output's name, without a figure's suffix, and this ending."""
    return output.with_name((output.stem if _is_figure(output) else output.name) + ending)


def _weights_beside(output: Path, arch: str, dim: int) -> Path:
    return _beside(output, f"-{arch}-{dim}.safetensors")


def _parse_archs(text: str) -> list[str]:
    archs = list(dict.fromkeys(text.split(",")))
    unknown = [arch for arch in archs if arch not in SMALL]
    if unknown:
        raise UsageError(f"--arch {unknown[0]} has no latent size to compare: give some of {', '.join(SMALL)}")
    return archs


def _usual_dims(largest: int) -> list[int]:
    """Those of DIMS that can be had, or the largest where none can."""
    sizes = [dim for dim in _parse_dims(DIMS) if dim <= largest]
    if len(sizes) < len(_parse_dims(DIMS)):
        report.say(f"--dims {','.join(map(str, sizes or [largest]))}, as the data have no more than {largest}")
    return sizes or [largest]


def _parse_dims(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UsageError(f"--dims {text} is not a list of whole numbers: give for example 2,8,16,32") from None


def _load_all(names: list[str], data: FeatureData) -> list[Candidate]:
    """Trained weights, called by their architecture where that tells them apart at each size, else by their names, or paths."""
    from aecli.pca import PCA_NAME, Candidate

    names = list(dict.fromkeys(names))
    loaded = [load_for(name, data.shape, data.name) for name in names]
    archs, called = [arch for arch, _, _ in loaded], [name for _, name, _ in loaded]
    sized = {(arch, model.config.latent_dim) for arch, _, model in loaded}
    clear = len(set(called)) == len(called) and PCA_NAME not in called
    titles = archs if len(sized) == len(loaded) else called if clear else names
    return [Candidate(title, model) for title, (_, _, model) in zip(titles, loaded, strict=True)]


def load_for(name: str, shape: tuple[int, int, int], data: str) -> tuple[str, str, FeatureAutoencoder]:
    """(architecture, name, model) of trained weights. Raises UsageError where they do not take pictures of this shape
    (channels, height, width); errors call those `data`."""
    from aecli.models import FeatureAutoencoder
    from aecli.weights import load_weights

    loaded = load_weights(name)
    config = loaded.card.config
    if not isinstance(loaded.model, FeatureAutoencoder):
        raise UsageError(f"weights {name} have no latent size to compare ({loaded.card.arch}): pass a feature autoencoder's")
    if (config["channels"], config["height"], config["width"]) != shape:
        raise UsageError(f"weights {name} do not take the pictures of {data} ({'×'.join(map(str, shape))}): pass other --data")
    return loaded.card.arch, loaded.name, loaded.model


def _train_one(request: Request, arch: str, dim: int, path: Path) -> FeatureAutoencoder:
    report.say(f"training {arch} with {dim} dimension{'s' * (dim > 1)} → {path}")
    return train_and_load(dataclasses.replace(request, arch=arch, latent_dim=dim, output=path))


def train_and_load(request: Request) -> FeatureAutoencoder:
    """Train, with progress shown, and take the weights file that is left. Raises KeyboardInterrupt if it was stopped."""
    from aecli.cli.train import show_progress, stopping_when_told
    from aecli.training import train
    from aecli.weights import load_weights

    with show_progress() as show, stopping_when_told() as told:
        result = train(request, show, told)
    if not result.finished:
        if request.keep_stopped and result.steps:
            report.say(f"stopped after step {result.steps:,}; to draw with what was learned, pass --weights {request.output}")
        raise report.Terminated if told.signal == signal.SIGTERM else KeyboardInterrupt
    return load_weights(request.output).model  # type: ignore[return-value]


def _write(comparison: Comparison, results: dict[str, Path], overwrite: bool) -> None:
    from aecli.batch import atomic_write
    from aecli.pca import table_of
    from aecli.plots import comparison_figure

    numbers = json.dumps(_numbers(comparison), indent=1, allow_nan=False) + "\n"
    lines = table_of(comparison)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    figure = comparison_figure(comparison)
    for kind, path in results.items():
        with atomic_write(path, overwrite=overwrite) as stream:
            if kind == "csv":
                stream.write(text.getvalue().encode())
            elif kind == "json":
                stream.write(numbers.encode())
            else:
                figure.savefig(stream, format=kind)


def _numbers(comparison: Comparison) -> dict[str, Any]:
    return {
        "data": comparison.data,
        "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in comparison.rows],
        "rates": [dataclasses.asdict(rate) for rate in comparison.rates],
        "pca_errors": list(comparison.pca_errors),
    }


def _print(comparison: Comparison, results: dict[str, Path]) -> None:
    columns = ("autoencoder", "dimensions", "PCA error", "error", "ratio", "PCA PSNR", "PSNR", "PCA k-NN", "k-NN")
    if report.as_json():
        report.answer("", {**_numbers(comparison), "files": [str(path) for path in results.values()]})
        return
    title = f"Autoencoder and PCA on {comparison.data}; squared error summed over pixels, mean over test pictures"
    report.table(columns, [_cells(row) for row in comparison.rows], title=title, to_stdout=True)
    report.say("written: " + ", ".join(str(path) for path in results.values()))


def _cells(row: Row) -> list[str]:
    accuracies = [f"{a:.1%}" if a is not None else "–" for a in (row.pca_accuracy, row.accuracy)]
    size = str(row.dim) if row.active is None else f"{row.dim}, {row.active:.1f} active"
    ratio = "–" if row.ratio is None else f"{row.ratio:.3f}"
    errors = [f"{row.pca_error:.3f}", f"{row.error:.3f}", ratio]
    return [row.method, size, *errors, f"{row.pca_psnr:.2f}", f"{row.psnr:.2f}", *accuracies]
