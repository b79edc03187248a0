"""`aecli compare-pca`: autoencoders beside principal component analysis, in a table and a figure."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aecli.cli import report
from aecli.cli.options import Printing, Running
from aecli.errors import UsageError

if TYPE_CHECKING:
    from aecli.models import FeatureAutoencoder
    from aecli.pca import Comparison, Row
    from aecli.training import Request
    from aecli.training.data import FeatureData

SMALL = ("dense", "deep", "sparse", "conv", "vae")


def compare_pca(
    data: Annotated[str, typer.Option(help="mnist (comes along), fashion-mnist, cifar10, or a folder of pictures.")] = "mnist",
    data_root: Annotated[Path | None, typer.Option(help="A local copy of the data set.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")] = False,
    patch_size: Annotated[int | None, typer.Option(min=1, help="Side of the patches of a folder.")] = None,
    arch: Annotated[str, typer.Option(help=f"What is trained: {', '.join(SMALL)}.")] = "deep",
    dims: Annotated[str, typer.Option(help="Latent sizes, with commas.")] = "2,8,16,32",
    weights: Annotated[
        list[str] | None, typer.Option("--weights", "-w", help="Take trained weights instead; may be given several times.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Training time a latent size.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data a latent size; 3 if nothing is given.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The figure (.png, .svg or .pdf); trained weights go beside it.")
    ] = Path("compare-pca.png"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    running: Running = Running(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Compare autoencoders with PCA at the same latent sizes.

    [bold]Examples[/bold]

    aecli compare-pca

    aecli compare-pca --dims 30 --weights mnist-conv

    aecli compare-pca --data photos/ --patch-size 16 --dims 8,32 --minutes 5 -o photos.svg
    """
    report.configure(printing)
    if output.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{output} is no figure: pass --output NAME.png, .svg or .pdf")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists: pass --overwrite or another --output")
    if arch not in SMALL:
        raise UsageError(f"--arch {arch} has no latent size to compare: give one of {', '.join(SMALL)}")

    from aecli.pca import check_dims, compare
    from aecli.training import Request, feature_data

    request = Request(
        arch=arch,
        output=output,
        compute=running.compute(),
        data=data,
        data_root=data_root,
        download=download,
        patch_size=patch_size,
        epochs=3.0 if minutes is None and epochs is None else epochs,
        minutes=minutes,
        seed=seed,
        overwrite=overwrite,
        command=shlex.join(["aecli", *sys.argv[1:]]),
    )
    feature = feature_data(request)
    if weights:
        models, name = _load_all(weights, feature)
    else:
        sizes = _parse_dims(dims)
        check_dims(sizes, feature)
        models, name = {dim: _train_one(request, dim) for dim in sizes}, arch
    check_dims(list(models), feature)
    comparison = compare(models, feature, name)
    _write_figure(comparison, output, overwrite)
    _print(comparison, output)


def _parse_dims(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UsageError(f"--dims {text} is not a list of whole numbers: give for example 2,8,16,32") from None


def _load_all(names: list[str], data: FeatureData) -> tuple[dict[int, FeatureAutoencoder], str]:
    from aecli.models import FeatureAutoencoder
    from aecli.weights import load_weights

    models: dict[int, FeatureAutoencoder] = {}
    for name in names:
        loaded = load_weights(name)
        config = loaded.card.config
        if not isinstance(loaded.model, FeatureAutoencoder):
            raise UsageError(f"weights {name} have no latent size to compare ({loaded.card.arch}): pass a feature autoencoder's")
        if (config["channels"], config["height"], config["width"]) != data.shape:
            shape = "×".join(map(str, data.shape))
            raise UsageError(f"weights {name} do not take the pictures of {data.name} ({shape}): pass other --data")
        if config["latent_dim"] in models:
            raise UsageError(f"two weights have {config['latent_dim']} dimensions: pass one --weights for each size")
        models[config["latent_dim"]] = loaded.model
    return models, "autoencoder" if len(names) > 1 else Path(names[0]).stem


def _train_one(request: Request, dim: int) -> FeatureAutoencoder:
    from aecli.cli.train import show_progress, stop_on_interrupt
    from aecli.training import train
    from aecli.weights import load_weights

    path = request.output.with_name(f"{request.output.stem}-{request.arch}-{dim}.safetensors")
    report.say(f"training {request.arch} with {dim} dimensions → {path}")
    with show_progress() as show, stop_on_interrupt() as interrupted:
        result = train(dataclasses.replace(request, latent_dim=dim, output=path), show, interrupted)
    if not result.finished:
        raise KeyboardInterrupt
    return load_weights(path).model  # type: ignore[return-value]


def _write_figure(comparison: Comparison, output: Path, overwrite: bool) -> None:
    from aecli.batch import atomic_write
    from aecli.plots import comparison_figure

    with atomic_write(output, overwrite=overwrite) as stream:
        comparison_figure(comparison).savefig(stream, format=output.suffix[1:])


def _print(comparison: Comparison, output: Path) -> None:
    columns = ("dimensions", "PCA error", "error", "ratio", "PCA PSNR", "PSNR", "PCA k-NN", "k-NN")
    if report.as_json():
        rows = [{**dataclasses.asdict(row), "ratio": row.ratio} for row in comparison.rows]
        report.answer("", {"data": comparison.data, "arch": comparison.arch, "figure": str(output), "rows": rows})
        return
    title = f"{comparison.arch} and PCA on {comparison.data}; squared error summed over pixels, mean over test pictures"
    report.table(columns, [_cells(row) for row in comparison.rows], title=title, to_stdout=True)
    report.say(f"figure: {output}")


def _cells(row: Row) -> list[str]:
    accuracies = [f"{a:.1%}" if a is not None else "–" for a in (row.pca_accuracy, row.accuracy)]
    errors = [f"{row.pca_error:.3f}", f"{row.error:.3f}", f"{row.ratio:.3f}"]
    return [str(row.dim), *errors, f"{row.pca_psnr:.2f}", f"{row.psnr:.2f}", *accuracies]
