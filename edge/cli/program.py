"""What both programs are made of: options before the command, and commands that are imported when used."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

from edge.cli.guard import DEBUG
from edge.errors import UserError
from edge.machine.early import ending_quietly
from edge.version import __version__

# click's class, or that of the copy inside typer, whichever this version of typer uses.
UsageError: Any = typer.BadParameter.__base__
NO_ARGUMENTS = "NoArgsIsHelpError"  # its subclass for a call without arguments: the help is its message


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


class Program(TyperGroup):
    """A group of commands that raises UserError for a wrong use of them."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Runs the command that is asked for, and exits with its code, as TyperGroup.main does."""
        if not more.get("standalone_mode", True):
            return super().main(*args, **more)
        try:
            code = super().main(*args, **more | {"standalone_mode": False})
        except UsageError as error:
            if type(error).__name__ == NO_ARGUMENTS:
                error.show()
                raise SystemExit(error.exit_code) from None
            raise UserError(usage(error)) from error
        raise SystemExit(code)


def usage(error: Any) -> str:
    """What is wrong with a command line, and the call that shows how it is right."""
    message = re.sub(r"\.? +Did you mean (.+)\?$", r" (did you mean \1?)", error.format_message())
    call = f"'{error.ctx.command_path} --help'" if error.ctx else "--help"
    return f"{message[:1].lower()}{message[1:].rstrip('.')}: see {call}"


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

    class Group(Program):
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
