"""`aecli project`: a map of a set of pictures, to look at and to explore in a browser."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aecli.cli import report
from aecli.cli.compare_pca import load_for, train_and_load
from aecli.cli.options import Printing, Running
from aecli.errors import UsageError

if TYPE_CHECKING:
    from aecli.models import FeatureAutoencoder
    from aecli.training import Request
    from aecli.training.arrays import Collection

STEPS = 800  # of the autoencoder that is trained where none is given
SIDE = 32  # whole pictures of a folder are reduced to it


def project(
    data: Annotated[
        str, typer.Argument(help="mnist (comes along), fashion-mnist, cifar10, a folder of pictures, or an .npz or .npy array.")
    ] = "mnist",
    data_root: Annotated[Path | None, typer.Option(help="A local copy of the data set.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")] = False,
    resize: Annotated[int, typer.Option(min=4, help="A folder's pictures are reduced to this side.")] = SIDE,
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="A trained feature autoencoder; otherwise mnist-2d, or one is trained.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Train an autoencoder of two dimensions for so long.")] = None,
    with_: Annotated[str, typer.Option("--with", help="Maps beside it, with commas: pca, tsne, umap (if installed).")] = "",
    points: Annotated[int, typer.Option(min=3, help="Pictures at most, evenly chosen.")] = 5000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="The map; the same name with .html is the page.")] = Path(
        "map.png"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
    running: Running = Running(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Draw a map on which alike pictures lie close together, and a page to explore it in a browser.

    [bold]Examples[/bold]

    aecli project                                             [dim]the test digits, by mnist-2d[/dim]

    aecli project photos/ --with pca,tsne -o photos.png

    aecli project vectors.npy --minutes 5
    """
    report.configure(printing)
    page = output.with_suffix(".html")
    for path in (output, page):
        report.check_figure(path, overwrite, also=("html",) if path is page else ())
    methods = [method for method in with_.split(",") if method]
    if weights and minutes:
        raise UsageError("give --weights or --minutes, not both")

    from aecli.batch import atomic_write
    from aecli.plots import projection_figure, projection_page
    from aecli.projection import Projection, check_methods, map_with
    from aecli.training import Request, collection

    check_methods(methods)
    request = Request(
        arch="deep",
        output=output.with_suffix(".safetensors"),
        compute=running.compute(),
        data=data,
        data_root=data_root,
        download=download,
        resize=resize if Path(data).is_dir() else None,
        latent_dim=2,
        minutes=minutes,
        steps=None if minutes else STEPS,
        seed=seed,
        overwrite=overwrite,
        command=shlex.join(["aecli", *sys.argv[1:]]),
    )
    found = collection(request)
    name, model = _autoencoder(request, found, weights)
    chosen = found.at_most(points)
    maps = map_with(model, name, chosen.unit_images(), methods, seed)
    classes = None if chosen.classes is None else chosen.classes.numpy()
    projection = Projection(found.name, chosen.unit_images(), maps, classes, chosen.class_names, chosen.names)
    with atomic_write(output, overwrite=overwrite) as stream:
        projection_figure(projection).savefig(stream, format=output.suffix[1:].lower())
    with atomic_write(page, overwrite=overwrite) as stream:
        stream.write(projection_page(projection).encode())
    report.result(f"written: {output}, {page}", {"files": [str(output), str(page)], "points": len(chosen.images), "weights": name})


def _autoencoder(request: Request, found: Collection, weights: str | None) -> tuple[str, FeatureAutoencoder]:
    """What is asked for, what comes along for the data, or what can be trained on it."""
    if weights is None and request.data == "mnist" and request.minutes is None:
        weights = "mnist-2d"
    if weights is not None:
        _, name, model = load_for(weights, found.shape, found.name)
        return name, model
    report.say(f"training deep with 2 dimensions → {request.output}")
    return "autoencoder", train_and_load(request)
