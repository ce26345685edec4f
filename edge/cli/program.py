"""What both programs are made of: options before the command, and commands that are imported when used."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

from edge.cli.guard import DEBUG
from edge.machine.early import ending_quietly
from edge.version import __version__


def show_version(value: bool) -> None:
    if value:
        print(f"edgetrace {__version__}")
        raise typer.Exit


def set_debug(value: bool) -> None:
    if value:
        os.environ[DEBUG] = "1"  # also for processes that a command starts


Version = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug", callback=set_debug, is_eager=True, help=f"Show tracebacks of errors ({DEBUG}=1)."
    ),
]


class Command(NamedTuple):
    """A command: `name` is its function, or its group of commands, in `module`."""

    name: str
    module: str
    help: str
    example: str

    def load(self) -> Callable[..., Any] | typer.Typer:
        """Imports the module; the function or the group."""
        with ending_quietly():
            module = importlib.import_module(self.module)
        found: Callable[..., Any] | typer.Typer = getattr(module, self.name)
        return found

    def add_to(self, app: typer.Typer, loaded: Callable[..., Any] | typer.Typer) -> None:
        """Registers the command, under its name, help and example."""
        epilog = f"Example: {self.example}"
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=self.name, help=self.help, epilog=epilog)
        else:
            app.command(self.name, help=self.help, epilog=epilog)(loaded)


def app_of(table: tuple[Command, ...], top: Callable[..., None], *, lazy: bool = True) -> typer.Typer:
    """An app of these commands; `top` has its own options and its help.

    Without `lazy` every module is imported now, for those who look at the options of all commands.
    """
    commands = {command.name: command for command in table}

    class Group(TyperGroup):
        """Lists commands from the table, and loads the one that is called or completed."""

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, listed, rest = super().resolve_command(ctx, args)
            return name, listed and loaded_command(commands[listed.name or ""], top), rest

    app = empty_app(top, Group if lazy else TyperGroup)
    for command in table:
        command.add_to(app, listed if lazy else command.load())
    return app


def loaded_command(command: Command, top: Callable[..., None]) -> Any:
    """The command as its library calls it."""
    app = empty_app(top, TyperGroup)
    command.add_to(app, command.load())
    return cast(TyperGroup, get_command(app)).commands[command.name]


def empty_app(top: Callable[..., None], group: type[TyperGroup]) -> typer.Typer:
    """An app without commands, whose errors are left to the guard."""
    app = typer.Typer(cls=group, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(top)
    return app


def listed() -> None:
    """Stands for a command that is only listed."""
