"""Writes docs/commands.md from the command lines themselves: `python -m tools.commands`."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

import edge.cli.app
import export.app
from edge.cli.program import app_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
APPS = {
    "edge": app_of(edge.cli.app.COMMANDS, edge.cli.app.top, lazy=False),
    "edge-export": app_of(export.app.COMMANDS, export.app.top, lazy=False),
}
KINDS = {int: "whole number", float: "number", str: "text", Path: "path"}
HEAD = """# Every command and option

Made by `make docs-commands` from the commands themselves; a test holds this page to them.
Every command has `--help`, too. Before the command stand `--version`, and `--debug` for the traceback of an
error (or EDGE_DEBUG=1 in the environment).
"""


class Parameter(NamedTuple):
    """An argument, or an option with its names.

    `kind` is the type of a value, "" for a switch; `default` is "" where there is none.
    """

    names: tuple[str, ...]
    option: bool
    kind: str
    many: bool
    required: bool
    default: str
    help: str


class Command(NamedTuple):
    """A command by its whole name, such as `edge run`."""

    name: str
    help: str
    example: str
    parameters: tuple[Parameter, ...]

    @property
    def options(self) -> dict[str, Parameter]:
        return {
            name: parameter for parameter in self.parameters if parameter.option for name in parameter.names
        }


def walk(app: typer.Typer, name: str) -> Iterator[Command]:
    """The commands of an app and of the groups below it."""
    for info in app.registered_commands:
        callback = info.callback
        assert callback is not None
        word = info.name or callback.__name__.replace("_", "-")
        text = textwrap.fill(inspect.cleandoc(info.help or callback.__doc__ or "").split("\n\n")[0], 100)
        yield Command(
            f"{name} {word}",
            text,
            (info.epilog or "").removeprefix("Example: "),
            tuple(parameters(callback)),
        )
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from walk(group.typer_instance, f"{name} {group.name or group.typer_instance.info.name}")


def parameters(callback: Callable[..., Any]) -> Iterator[Parameter]:
    """Visible parameters of a command; raises TypeError for one without a help text."""
    hints = get_type_hints(callback, include_extras=True)
    for name, argument in inspect.signature(callback).parameters.items():
        kind, *metadata = get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
        info = next((m for m in metadata if isinstance(m, (ArgumentInfo, OptionInfo))), None)
        if info is None:
            problem = "has no typer.Argument or typer.Option, and so no help"
            raise TypeError(f"{callback.__name__}: {name} {problem}")
        if info.hidden:
            continue
        option = isinstance(info, OptionInfo)
        # In an annotation typer.Option's first name arrives as its default.
        if option:
            given = tuple(n for n in (info.default, *(info.param_decls or ())) if isinstance(n, str))
            names = given or (f"--{name.replace('_', '-')}",)
        else:
            names = (info.metavar or name.upper(),)
        required = argument.default is inspect.Parameter.empty
        base, many = value_type(kind)
        type_name = "" if base is bool else KINDS.get(base, "text")
        yield Parameter(
            names,
            option,
            type_name,
            many,
            required,
            default_text(argument.default),
            " ".join((info.help or "").split()),
        )


def value_type(kind: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there may be several: `list[str] | None` is (str, True)."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    if not parts:
        return kind, False
    return (parts[0], True) if getattr(kind, "__origin__", None) is list else value_type(parts[0])


def default_text(value: object) -> str:
    """A default as the page prints it, "" for none."""
    if value is None or value is False or value in ("", inspect.Parameter.empty):
        return ""
    if isinstance(value, Path) and value.is_absolute():
        return f"the embedded {value.name}"
    return f"`{value}`"


def every_command() -> dict[str, Command]:
    """All commands by their whole names, such as `edge run`."""
    return {command.name: command for name, app in APPS.items() for command in walk(app, name)}


def cell(text: str) -> str:
    """The text, escaped for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def row(parameter: Parameter) -> str:
    """One line of a command's table."""
    again = " May be given again." if parameter.many and "again" not in parameter.help else ""
    kind = f" {parameter.kind}" if parameter.option and parameter.kind else ""
    names = f"`{', '.join(parameter.names)}`{kind}"
    default = "required" if parameter.required else parameter.default
    return f"| {names} | {cell(parameter.help)}{again} | {default} |"


def section(command: Command) -> str:
    """Heading, help, example and table of one command."""
    table = "\n".join(["| | what | default |", "|---|---|---|", *map(row, command.parameters)])
    return "\n\n".join([f"## {command.name}", cell(command.help), f"Example: `{command.example}`", table])


def page() -> str:
    """The whole page in Markdown."""
    commands = every_command()
    index = "\n".join(f"- [`{name}`](#{name.replace(' ', '-')})" for name in commands)
    return "\n\n".join([HEAD.rstrip(), index, *map(section, commands.values())]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
