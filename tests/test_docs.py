"""What the documentation says is so: its examples run, its links lead somewhere, its commands exist."""

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from slotwise.cli import COMMANDS
from slotwise.local import LocalCluster, ServerBinary
from slotwise.testing.chaos import can_be_proxied

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PRINTED = re.compile(r"print\(.*\)  # (.*)$", re.MULTILINE)


def blocks(page: Path, *languages: str) -> Iterator[tuple[int, str]]:
    """The code blocks of a page: the line where each begins, and its text."""
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        if match[1] in languages:
            yield text[: match.start(2)].count("\n") + 1, match[2]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def _fresh_cluster(cluster: LocalCluster, server: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys of other tests; examples that start servers start those that this run is about."""
    for node in cluster.primaries:
        node.call("FLUSHALL")
    monkeypatch.setenv("SLOTWISE_SERVER", shlex.join(server.command))


@pytest.mark.usefixtures("_fresh_cluster")
@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=name_of)
def test_examples(page: Path, cluster: LocalCluster, server: ServerBinary) -> None:
    """The python blocks of a page run in order, as one program, against localhost:6379.

    ``print(...)  # text`` must print that text, unless it begins with "e.g.". Each such line prints once, except in
    loops, whose comments all begin with "e.g.".
    """
    if "tls=True" in page.read_text() and not server.has_tls:
        pytest.skip(f"{server.name} {server.version} was built without TLS")
    node = cluster.nodes[0]
    namespace: dict[str, object] = {"__name__": "example"}
    for line, source in blocks(page, "python"):
        exact = [text for text in _PRINTED.findall(source) if not text.startswith("e.g.")]
        source = source.replace("localhost", node.host).replace("6379", str(node.port))
        # The empty lines make a traceback show the page's own.
        code = compile("\n" * (line - 1) + source, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, namespace)
        printed = output.getvalue().splitlines()
        assert [text for text in printed if text in exact] == exact, f"{page.name}:{line} printed {printed}"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any("def test_" in source for _, source in blocks(page, "python"))],
    ids=name_of,
)
def test_examples_of_tests(page: Path, pytester: pytest.Pytester, server: ServerBinary) -> None:
    """The tests that a page shows pass in a run of pytest with the plugin, each with the imports above it."""
    shown = [source for _, source in blocks(page, "python")]
    imports = re.findall(r"^(?:import|from) .*$", "".join(shown), re.MULTILINE)
    tests = "\n".join(source for source in shown if "def test_" in source)
    pytester.makepyfile("\n".join([*imports, tests]))
    # Before Redis 7 there are no faults of the network.
    left_out = 0 if can_be_proxied(server) else tests.count("def test_one_node_cut_off")
    run = pytester.runpytest_subprocess(
        *("-p", "no:asyncio", "-p", "no:cacheprovider", f"--slotwise-server={shlex.join(server.command)}"),
        *(("-k", "not test_one_node_cut_off") if left_out else ()),
    )
    run.assert_outcomes(passed=tests.count("def test_") - left_out, deselected=left_out)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), f"{target} does not exist"
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE) if anchor else []
        anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
        assert not anchor or anchor in anchors, f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands(page: Path) -> None:
    """Every `slotwise COMMAND` that is named exists, with every option that is shown with it."""
    typer = importlib.import_module("typer")
    text = page.read_text()
    shown = re.findall(r"`(?:[\w./]*/)?slotwise ([a-z][^`]*)`", text)
    for _, source in blocks(page, "sh", "console"):
        shown += re.findall(r"(?<![\w-])slotwise ([a-z][^\n#&|]*)", source)
    for line in shown:
        name, *words = shlex.split(line)
        assert name in COMMANDS, f"slotwise {line}"
        command = typer.main.get_command(importlib.import_module(COMMANDS[name][0]).app)
        if words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= known | {"--help"}, f"slotwise {line}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_variables(page: Path) -> None:
    """Every variable of ours that is named is read somewhere."""
    read_by = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "setup.py"]
    sources = "".join(path.read_text() for path in read_by)
    assert [name for name in set(re.findall(r"SLOTWISE_\w+", page.read_text())) if name not in sources] == []
