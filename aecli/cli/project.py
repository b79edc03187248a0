"""`aecli project`: a map of a set of pictures, as a figure and as a page to explore in a browser."""

from __future__ import annotations

import shlex
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aecli.cli import report
from aecli.cli.compare_pca import load_for, train_and_load
from aecli.cli.options import MOST_SEED, Printing, Running
from aecli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from aecli.models import FeatureAutoencoder
    from aecli.training import Request
    from aecli.training.arrays import Collection

STEPS = 800  # of the autoencoder that is trained where nothing is said
SIDE = 32  # whole pictures of a folder are reduced to it for the autoencoder
SLOW = 2000  # pictures of which t-SNE takes long enough to say so


def project(
    data: Annotated[
        str, typer.Argument(help="mnist (included), fashion-mnist, cifar10, a folder of pictures, or an .npz or .npy array.")
    ] = "mnist",
    data_root: Annotated[Path | None, typer.Option(help="A local copy of the data set.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Download the data set if it is not there.")] = False,
    patch_size: Annotated[int | None, typer.Option(min=1, help="Take patches of a folder's pictures, of this side.")] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, help=f"Take whole pictures of a folder, reduced to this side; {SIDE} if nothing is given.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="A trained feature autoencoder; of mnist, mnist-2d if nothing is given.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Train one, with two dimensions, for so long.")] = None,
    epochs: Annotated[
        float | None, typer.Option(help=f"Train one for so many passes over the data; {STEPS:,} steps if nothing is given.")
    ] = None,
    with_: Annotated[
        str, typer.Option("--with", metavar="METHODS", help="Maps beside it, with commas: pca, umap (if installed), tsne (slow).")
    ] = "",
    points: Annotated[int, typer.Option(min=2, help="Pictures at most, evenly chosen.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED)] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The figure's name; the page (.html) and trained weights go beside it.")
    ] = Path("map.png"),
    overwrite: Annotated[bool, typer.Option("--overwrite", "-f", help="Replace results that exist.")] = False,
    running: Running = Running(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Draw a map on which similar pictures lie close together, and a page to explore it in a browser.

    [bold]Examples[/bold]

    aecli project  # the test digits, by mnist-2d

    aecli project --with pca,tsne --points 2000

    aecli project photos/ -o photos.png  # thumbnails at their places; photos.html to explore

    aecli project vectors.npy --minutes 5
    """
    report.configure(printing)
    methods = list(dict.fromkeys(method for method in with_.split(",") if method))
    training, is_folder = minutes is not None or epochs is not None, Path(data).is_dir()
    if weights is not None and training:
        raise UsageError("--weights are trained already: leave out --minutes and --epochs")
    if minutes is not None and epochs is not None:
        raise UsageError("give one of --minutes and --epochs")
    if weights is None and data == "mnist" and not training:
        weights = "mnist-2d"
    report.refuse_nameless(output)
    page, trained = output.with_suffix(".html"), output.with_suffix(".safetensors")
    _check(output, (page,) if weights else (page, trained), overwrite)

    from aecli.batch import atomic_write
    from aecli.plots import projection_figure
    from aecli.project_page import projection_page
    from aecli.projection import Projection, check_count, check_methods, map_with
    from aecli.training import QUICK_BATCH, Request, collection

    check_methods(methods)
    request = Request(
        arch="deep",
        output=trained,
        compute=running.compute(),
        data=data,
        data_root=data_root,
        download=download,
        patch_size=patch_size,
        resize=SIDE if is_folder and not (patch_size or resize) else resize,
        latent_dim=2,
        minutes=minutes,
        epochs=epochs,
        steps=None if training else STEPS,
        batch_size=QUICK_BATCH,
        seed=seed,
        overwrite=overwrite,
        command=shlex.join(["aecli", *sys.argv[1:]]),
        resumable=False,
        keep_stopped=True,
        tell=cache(report.say),  # the data is read for every training, but told of once
    )
    chosen = collection(request, points).at_most(points)
    check_count(len(chosen.images))  # before anything is trained
    name, model = _autoencoder(request, chosen, weights)
    images = chosen.unit_images()
    if "tsne" in methods and len(images) > SLOW:
        report.say(f"t-SNE of {len(images):,} pictures takes a while; --points takes fewer")
    maps = map_with(model, name, images, methods, seed)
    classes = None if chosen.classes is None else chosen.classes.numpy()
    shown = _thumbnails(data, chosen) if is_folder and request.resize else images
    projection = Projection(chosen.name, shown, maps, classes, chosen.class_names, chosen.names, chosen.rows)
    with atomic_write(output, overwrite=overwrite) as stream:
        projection_figure(projection).savefig(stream, format=output.suffix[1:].lower())
    with atomic_write(page, overwrite=overwrite) as stream:
        stream.write(projection_page(projection).encode())
    files = [str(path) for path in ((output, page) if weights else (output, page, trained))]
    values = {"files": files, "points": len(images), "data": chosen.name, "weights": name, "maps": list(maps)}
    report.result(f"{len(images):,} pictures; written: {', '.join(files)}", values)


def _check(output: Path, others: tuple[Path, ...], overwrite: bool) -> None:
    report.check_figure(output, overwrite)
    for path in others:
        report.refuse_existing(path, overwrite)


def _autoencoder(request: Request, chosen: Collection, weights: str | None) -> tuple[str, FeatureAutoencoder]:
    """(name, model): what comes along or is asked for, or what is trained."""
    if weights is None:
        report.say(f"training deep with 2 dimensions → {request.output}")
        return "autoencoder", train_and_load(request)
    _, name, model = load_for(weights, chosen.shape, chosen.name)
    return name, model


def _thumbnails(folder: str, chosen: Collection) -> Tensor:
    """Larger than what the autoencoder takes, or nobody could tell what they show; the more there are, the smaller."""
    from aecli.project_page import thumbnail_side
    from aecli.training.arrays import thumbnails
    from aecli.training.data import as_unit

    side = max(chosen.shape[-1], thumbnail_side(len(chosen.images)))
    return as_unit(thumbnails(folder, chosen.names, side))
