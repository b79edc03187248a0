"""The command line. One file a subcommand; nothing here imports torch before a command that needs it runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aecli import __version__
from aecli.cli import anomalies, compare_pca, decode, denoise, encode, models, project, report, train, traverse
from aecli.cli.options import PlainHelp, grouped
from aecli.errors import UsageError


class _Group(PlainHelp, TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with report.errors_as_sentences():
            return super().invoke(ctx)


class _Command(PlainHelp, TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        names = [name for name in args if name.startswith("-") and os.path.lexists(name)]
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if names and getattr(error, "exit_code", 0) == report.ExitStatus.USAGE:
                raise UsageError(
                    f"{names[0]} is taken for an option: write ./{names[0]}, or -- before the names of files"
                ) from error
            raise


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="[bold]Examples[/bold]\n\naecli denoise noisy.png\n\naecli encode photos/ -o small/ -r\n\n"
    "aecli decode small/ -o back/ -r",
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
    """Compress and denoise pictures with autoencoders."""


app.command(cls=_Command)(grouped(denoise.denoise))
app.command(cls=_Command)(grouped(encode.encode))
app.command(cls=_Command)(grouped(decode.decode))
app.command(cls=_Command)(grouped(train.train))
app.command("compare-pca", cls=_Command)(grouped(compare_pca.compare_pca))
app.command(cls=_Command)(grouped(anomalies.anomalies))
app.command(cls=_Command)(grouped(project.project))
app.command(cls=_Command)(grouped(traverse.traverse))
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
