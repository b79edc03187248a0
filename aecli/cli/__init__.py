"""The command line. One file a subcommand; nothing here imports torch before a command that needs it runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from aecli import __version__
from aecli.cli import anomalies, compare_pca, decode, denoise, encode, models, project, report, train, traverse
from aecli.cli.options import grouped


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with report.errors_as_sentences():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Examples:  aecli denoise noisy.png  ·  aecli encode photos/ -o small/ -r  ·  aecli decode small/ -o back/ -r  ·  "
    "aecli train --arch conv  ·  aecli compare-pca",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aecli {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Compress and denoise pictures with autoencoders."""


app.command()(grouped(denoise.denoise))
app.command()(grouped(encode.encode))
app.command()(grouped(decode.decode))
app.command()(grouped(train.train))
app.command("compare-pca")(grouped(compare_pca.compare_pca))
app.command()(grouped(anomalies.anomalies))
app.command()(grouped(project.project))
app.command()(grouped(traverse.traverse))
app.add_typer(models.app, name="models")


def _open_closed_streams() -> None:
    """A daemon may have closed them: the next file to be opened would get their numbers, and what is printed would go there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123


def main() -> None:
    """The program."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files need not be text
    app()
