"""`aecli models`: the weights that come along, and their cards."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from aecli.cli import report
from aecli.cli.help_text import Command, Group
from aecli.cli.options import Printing, grouped

if TYPE_CHECKING:
    from aecli.weights import Card

app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    help="List the included weights; `show NAME` prints their card.",
)


@app.callback()
@grouped
def models(ctx: typer.Context, printing: Printing = Printing()) -> None:  # noqa: B008
    """List the included weights: what each is for, and its size. `models show NAME` prints a card.

    [bold]Examples[/bold]

    aecli models

    aecli models show photo-codec
    """
    report.configure(printing)
    if ctx.invoked_subcommand:
        return
    from aecli.weights import read_card, shipped_weights

    rows = []
    for path in shipped_weights():
        card, size = read_card(path), path.stat().st_size
        if report.as_json():
            report.answer("", {"name": path.stem, "bytes": size, **dataclasses.asdict(card)})
        rows.append((path.stem, card.arch, _use(card), f"{size / 1e6:.1f} MB"))
    if not report.as_json():
        report.table(("name", "arch", "use", "size"), rows, to_stdout=True)


def _use(card: Card) -> str:
    code = f", {card.config['latent_dim']} numbers" if "latent_dim" in card.config else ""
    return {"denoise": "denoise", "compress": "encode"}.get(card.task, f"encode, compare-pca{code}")


@grouped
def _show(
    name: Annotated[str, typer.Argument(help="The name of included weights, or a file.")],
    printing: Printing = Printing(),  # noqa: B008
) -> None:
    """Print the card of a model."""
    report.configure(printing)
    from aecli.weights import find_weights, read_card

    path = find_weights(name)
    card = dataclasses.asdict(read_card(path))
    lines = [f"{key.replace('_', ' '):>16}  {_text(value)}" for key, value in card.items() if value not in ("", {})]
    report.answer("\n".join([path.stem, *lines]), {"name": path.stem, **card})


app.command("show", cls=Command)(_show)


def _text(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
