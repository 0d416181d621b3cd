"""One call that both clients make, and how its answers are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.differential.compare import exactly

# Keys of one slot, and keys of different slots: all that the cases touch.
A, B, C, D, E = TAGGED = tuple(f"{{d}}{letter}" for letter in "abcde")
SPREAD = tuple(f"spread-{number}" for number in range(8))
NOWHERE = "{d}nowhere"

# Commands that redis-py runs at once, beside the pipeline that they are called on; slotwise queues them.
UNQUEUED = ("touch",)

Command = tuple[Any, ...]
Client = Any


@dataclass(frozen=True)
class Case:
    """A method, its arguments, and what the server holds before the call."""

    method: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    setup: tuple[Command, ...] = ()
    call: Callable[[Client], Any] | None = None
    view: Callable[[Any], Any] = exactly
    outcome: Literal["value", "error", "either"] = "value"
    on: Literal["shared", "own", "restricted"] = "shared"
    quiet: bool = False

    def given(self, *commands: Command) -> Case:
        """Commands that fill the server before each of the two calls."""
        return replace(self, setup=self.setup + commands)

    def doing(self, call: Callable[[Client], Any]) -> Case:
        """What to do with the client, where it is more than one plain call."""
        return replace(self, call=call)

    def seen_as(self, view: Callable[[Any], Any]) -> Case:
        """For values that differ between two calls by nature; see `compare`."""
        return replace(self, view=view)

    def fails(self) -> Case:
        """The oracle raises; without this mark an error means that the case is wrong."""
        return replace(self, outcome="error")

    def newer(self) -> Case:
        """Needs an option, or behaviour, that not every server line has."""
        return replace(self, outcome="either")

    def alone(self) -> Case:
        """Changes the state of a connection: made with clients that nobody uses afterwards."""
        return replace(self, on="own")

    def denied(self) -> Case:
        """Would harm the cluster: made as a user that may not, so the server's refusal is compared."""
        return replace(self, on="restricted", outcome="error")

    def when_quiet(self) -> Case:
        """Needs servers that are neither saving nor rewriting, as one of the two calls starts that."""
        return replace(self, quiet=True)

    def __call__(self, client: Client) -> Any:
        if self.call is not None:
            return self.call(client)
        return getattr(client, self.method)(*self.args, **self.kwargs)

    @property
    def command(self) -> str:
        """What is called, whatever the arguments."""
        return self.method if self.call is None else f"{self.method} {self.call.__name__}"

    @property
    def tagged(self) -> bool:
        """Whether it is a plain call about keys of the one slot, as a pipeline can carry it."""
        named = "{d}" in repr((self.args, self.kwargs))
        return named and self.call is None and self.on == "shared" and self.method not in UNQUEUED

    @property
    def spread(self) -> bool:
        return "spread-" in repr((self.args, self.kwargs, self.setup))

    def __str__(self) -> str:
        if self.call is not None:
            return f"{self.method}: {self.call.__name__}"
        arguments = [repr(value) for value in self.args]
        arguments += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"{self.method}({', '.join(arguments)})"


def case(method: str, /, *args: Any, **kwargs: Any) -> Case:
    """The call ``client.method(*args, **kwargs)``."""
    return Case(method, args, kwargs)
