"""The command line. One file a subcommand, imported when that is asked for; `aecli --help` imports none of them."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import typer

from aecli import __version__
from aecli.cli.help_text import Command, Group
from aecli.errors import UsageError

COMMANDS = MappingProxyType(
    {
        "denoise": "Remove noise from pictures.",
        "encode": "Compress pictures to .npz files.",
        "decode": "Restore pictures from .npz files.",
        "train": "Train an autoencoder.",
        "compare-pca": "Compare autoencoders with PCA at the same latent sizes, and at the same number of bytes.",
        "anomalies": "Find pictures that are unlike what an autoencoder was trained on: it reconstructs them badly.",
        "project": "Draw a map on which similar pictures lie close together, and a page to explore it in a browser.",
        "traverse": "Draw what lies between pictures: a lattice over the latent space, and straight lines from one to another.",
        "models": "List the included weights; `show NAME` prints their card.",
    }
)
"""What each does, as its own help begins. It is the function of that name in the file of that name, or an `app` there."""


class _Group(Group):
    def invoke(self, ctx: Any) -> Any:
        from aecli.cli import report

        with report.errors_as_sentences():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.add_command(_imported(cmd_name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            for name in COMMANDS:  # Typer looks among those that are there for one of a similar name
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def listed(self, ctx: Any) -> Mapping[str, str]:
        return COMMANDS


def _imported(name: str) -> Any:
    """The command, as Typer makes it."""
    from aecli.cli.options import grouped

    module, function = importlib.import_module(f"aecli.cli.{name.replace('-', '_')}"), name.replace("-", "_")
    if hasattr(module, "app"):
        return typer.main.get_command(module.app)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, cls=_Command)(grouped(getattr(module, function)))
    return typer.main.get_command(alone)


class _Command(Command):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        names = [name for name in args if name.startswith("-") and os.path.lexists(name)]
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            from aecli.cli.report import ExitStatus

            if names and getattr(error, "exit_code", 0) == ExitStatus.USAGE:
                raise UsageError(
                    f"{names[0]} is taken for an option: write ./{names[0]}, or -- before the names of files"
                ) from error
            raise


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aecli {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compress and denoise pictures with autoencoders.

    [bold]Examples[/bold]

    aecli denoise noisy.png

    aecli encode photos/ -o small/ -r

    aecli decode small/ -o back/ -r

    aecli train --arch conv

    aecli compare-pca
    """


def _open_closed_streams() -> None:
    """A daemon may have closed them: the next file to be opened would get their numbers, and what is printed would go there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123


def main() -> None:
    """The program.

    Importing torch makes some 180,000 objects that stay: looking through them for garbage, again and again meanwhile and once more
    at the end, takes a third of its time. So nothing is collected until `Running.compute`, and what is left at the end is let be.
    """
    gc.disable()
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files need not be text
    try:
        app()
    finally:
        gc.freeze()
