"""`aecli traverse`: pictures of a latent space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aecli.cli import report
from aecli.cli.compare_pca import load_for
from aecli.cli.options import Printing, Running
from aecli.errors import AecliError

PICTURES = 5000  # whose codes say where the latent space is inhabited


def traverse(
    weights: Annotated[str, typer.Option("--weights", "-w", help="A feature autoencoder: shipped, or a file.")] = "mnist-2d",
    data: Annotated[str, typer.Option(help="Pictures like those it learned from: a data set, folder or array.")] = "mnist",
    data_root: Annotated[Path | None, typer.Option(help="A local copy of the data set.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if it is not there.")] = False,
    patch_size: Annotated[int | None, typer.Option(min=1, help="Side of the patches of a folder.")] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="Take whole pictures of a folder, reduced to this side.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture.")] = Path("traversal.png"),
    overwrite: Annotated[bool, typer.Option("--overwrite", "-f", help="Replace it if it exists.")] = False,
    running: Running = Running(),  # noqa: B008
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Draw what lies between pictures: a lattice over the latent space, and straight lines from one to another.

    [bold]Examples[/bold]

    aecli traverse  # the latent square of mnist-2d

    aecli train --arch vae --latent-dim 8 -o vae.safetensors

    aecli traverse --weights vae.safetensors -o vae.svg
    """
    report.configure(printing)
    report.check_figure(output, overwrite)

    from aecli.batch import atomic_write
    from aecli.plots import traversal_figure
    from aecli.training import Request, feature_data
    from aecli.training.data import evenly
    from aecli.traversal import interpolate
    from aecli.traversal import traverse as walk

    compute = running.compute()
    request = Request(
        "dense", output, compute, data=data, data_root=data_root, download=download, patch_size=patch_size, resize=resize
    )
    pictures = feature_data(request)
    _, name, model = load_for(weights, pictures.shape, pictures.name)
    test = pictures.test[evenly(len(pictures.test), PICTURES)]
    if len(test) < 2:
        raise AecliError(f"{pictures.name}: one held-out picture is no line to walk along, so add pictures")
    walks = walk(model, test), interpolate(model, test)
    if not all(part.pictures.isfinite().all() for part in walks):
        raise AecliError(f"{name} gives numbers that are not finite: train it again")
    figure = traversal_figure(*walks, name)
    with atomic_write(output, overwrite=overwrite) as stream:
        figure.savefig(stream, format=output.suffix[1:].lower())
    report.result(f"written: {output}", {"files": [str(output)], "weights": name, "latent_dim": model.config.latent_dim})
