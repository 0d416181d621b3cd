"""The `slotwise` command.

A command is one line of COMMANDS and one module beside this one, whose `app` is a
``typer.Typer(add_completion=False)``. The module is imported when its command runs, so that
``slotwise --help`` stays quick.

Exit codes: 0 done; 1 failed, with one line on standard error; 2 wrong usage. A command's own
codes are in its help. A module raises LocalError, redis.RedisError, RedisClusterException or OSError
for what a user can do something about; `main` turns those into the one line.
"""

import sys

#: Command -> (module, what --help says about it), in the order of the help page.
COMMANDS = {
    "demo": ("slotwise.cli.demo", "Show the client at work on real data, beside redis-py."),
    "local": ("slotwise.cli.local", "Start, show and end a cluster on this machine."),
    "status": ("slotwise.cli.status", "Show the nodes and the health of any cluster."),
    "load-test": (
        "slotwise.cli.load_test",
        "Show what a cluster takes, how fast it answers, what a fault costs.",
    ),
    "audit": ("slotwise.cli.audit", "Compare every key on its primary and on its replicas."),
    "compare": ("slotwise.cli.compare", "Compare two clusters, and merge them."),
}


#: Libraries of the extras: what they are for and the extra, by the name under which they are imported.
_LIBRARIES = {
    "typer": ("the command line", "cli"),
    "rich": ("the command line", "cli"),
    "hdrh": ("load-test", "load-test"),
}


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        from slotwise.cli._app import run

        run()
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _LIBRARIES:
            raise
        what, extra = _LIBRARIES[library]
        sys.exit(f"slotwise: {what} needs {library}: pip install 'slotwise[{extra}]'")
