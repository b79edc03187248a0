"""`aecli models`: the weights that come along, and their cards."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from aecli.cli import report
from aecli.cli.help_text import Command, Group
from aecli.cli.options import Printing, grouped

app = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    help="List the weights that come along; `show NAME` prints a card.",
)


@app.callback()
def models(ctx: typer.Context) -> None:
    """List the weights that come along: what each is for, its scores, its size. `models show NAME` prints a card."""
    if ctx.invoked_subcommand:
        return
    from aecli.weights import read_card, shipped_weights

    rows = []
    for path in shipped_weights():
        card = read_card(path)
        scores = ", ".join(f"{name} {value:.4g}" for name, value in list(card.scores.items())[:3])
        purpose = f"{card.task} ({card.noise})" if card.noise else card.task
        rows.append((path.stem, card.arch, purpose, card.training_data, scores, f"{path.stat().st_size / 1e6:.1f} MB"))
    report.table(("name", "arch", "for", "trained on", "scores", "size"), rows, to_stdout=True)


@grouped
def _show(
    name: Annotated[str, typer.Argument(help="Shipped weights by name, or a file.")],
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
