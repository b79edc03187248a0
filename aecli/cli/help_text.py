"""What `--help` prints, without rich: importing that to draw the boxes of Typer's own takes longer than all the rest of it."""

from __future__ import annotations

import inspect
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose options stand under the headings that they name as `rich_help_panel`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write(self, ctx, formatter)


class Group(TyperGroup):
    """A command with commands of its own."""

    def listed(self, ctx: Any) -> Mapping[str, str]:
        """What each of the commands does, by its name."""
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        return {name: command.get_short_help_str(limit=200) for name, command in found.items() if command is not None}

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write(self, ctx, formatter, self.listed(ctx))


def _write(command: Any, ctx: Any, formatter: Any, commands: Mapping[str, str] | None = None) -> None:
    command.format_usage(ctx, formatter)
    text, _, examples = inspect.cleandoc(command.help or "").partition("[bold]Examples[/bold]")
    formatter.write("\n")
    formatter.write_text(text.strip())
    if examples:
        with formatter.section(_bold("Examples")):
            _write_examples(examples, formatter)
    panels: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            usual = "Arguments" if param.param_type_name == "argument" else "Options"
            panels[getattr(param, "rich_help_panel", None) or usual].append(record)
    panels["Commands"] += (commands or {}).items()
    for heading, rows in panels.items():
        if rows:
            with formatter.section(_bold(heading)):
                formatter.write_dl(rows)
    if command.epilog:
        formatter.write("\n")
        formatter.write_text(command.epilog)


def _write_examples(text: str, formatter: Any) -> None:
    """Each on a line of its own, to be copied; [dim]what it does[/dim] is a comment of the shell."""
    lines = [re.sub(r" *\[dim\](.*)\[/dim\]", r"  # \1", line) for line in text.splitlines() if line.strip()]
    halves = [line.strip().partition("  # ") for line in lines]
    width = max(len(code.rstrip()) for code, comment, _ in halves) if any(comment for _, comment, _ in halves) else 0
    for code, comment, rest in halves:
        indent = " " * formatter.current_indent
        formatter.write(f"{indent}{code.rstrip():<{width}}{comment}{rest}".rstrip() + "\n")


def _bold(text: str) -> str:
    return text if os.environ.get("NO_COLOR") else typer.style(text, bold=True)
