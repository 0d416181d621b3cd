"""The root of the command line: lists the commands, imports the one that is asked for."""

import importlib
import importlib.metadata
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from slotwise.cli import COMMANDS
from slotwise.cli._output import complain


class LazyCommand(TyperCommand):
    """Stands for a command in the help page, and imports it once it is to run."""

    def __init__(self, name: str, module: str, help: str) -> None:
        super().__init__(name, help=help)
        self._module = module

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        # The context that comes back belongs to the real command, which is what then runs.
        app: typer.Typer = importlib.import_module(self._module).app
        return typer.main.get_command(app).make_context(*args, **kwargs)


class RootGroup(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (module, help) in COMMANDS.items():
            self.add_command(LazyCommand(name, module, help))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)


app = typer.Typer(
    cls=RootGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Older versions of Typer show them by default, and a URL with a password is one.
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"slotwise {importlib.metadata.version('slotwise')}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """A fast, cluster-aware Redis and Valkey client, and tools for clusters."""


def run() -> None:
    """Run the command line; what a user can do something about is told in one line."""
    try:
        app(prog_name="slotwise")
    except Exception as error:
        from redis.exceptions import RedisClusterException, RedisError  # not needed by --help

        from slotwise.local.errors import LocalError

        if not isinstance(error, (LocalError, RedisError, RedisClusterException, OSError)):
            raise
        complain(str(error))
        sys.exit(1)
