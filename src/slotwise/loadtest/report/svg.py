"""Figures of matplotlib as SVG that lives inside an HTML page.

Colours are the page's: `Color` stands for a property of its style sheet while matplotlib draws, so that one drawing is
readable in light and dark. Text stays text, in the page's font. Ids are the figure's own, however many a page holds.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Width of all figures. Units are the SVG's own, about the page's pixels at their smallest.
WIDTH = 480
FONT_SIZE = 12

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


class MissingPlotsError(ImportError):
    """What draws the plots is not installed. Tells what to do."""

    def __init__(self, library: str) -> None:
        super().__init__(f"the plots need {library}: pip install 'slotwise[load-test]'", name=library)


def check_plots() -> None:
    """Raises `MissingPlotsError` where plots could not be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingPlotsError("matplotlib") from error


class Color(str, Enum):
    """What matplotlib draws with. The values only stand in for the page's properties of the same names."""

    INK = "#000101"
    SOFT = "#000102"
    LINE = "#000103"
    PAPER = "#000104"
    FAULT = "#000105"
    OTHER = "#000106"
    SERIES_1 = "#000111"
    SERIES_2 = "#000112"
    SERIES_3 = "#000113"
    SERIES_4 = "#000114"
    SERIES_5 = "#000115"
    SERIES_6 = "#000116"

    @property
    def css(self) -> str:
        return f"var(--{self.name.lower().replace('_', '-')})"


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Within it matplotlib makes and draws figures in its own plain style, whatever this machine's files say.

    `name` makes what it draws repeatable. matplotlib's settings are the process's: not for two threads at once.
    """
    try:
        import matplotlib.style
    except ImportError as error:
        raise MissingPlotsError("matplotlib") from error
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": FONT_SIZE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.edgecolor": Color.LINE.value,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": Color.LINE.value,
        "grid.linewidth": 0.75,
        "text.color": Color.INK.value,
        "text.parse_math": False,
        "xtick.color": Color.LINE.value,
        "ytick.color": Color.LINE.value,
        "xtick.labelcolor": Color.SOFT.value,
        "ytick.labelcolor": Color.SOFT.value,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "xtick.minor.size": 0,
        "lines.solid_capstyle": "round",
        "lines.linewidth": 1.6,
    }
    with matplotlib.style.context(["default", settings]):
        yield


def figure(height: float) -> Figure:
    """An empty one, `WIDTH` by so many units."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH / 72, height / 72), facecolor="none")


def inline(figure: Figure, name: str, label: str) -> str:
    """The figure as an ``svg`` element. `name` begins all its ids; `label` says to who cannot see it what it shows."""
    written = io.BytesIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    root = ET.fromstring(written.getvalue())
    # Links to vocabularies; and a style that would be the whole page's.
    for kind in ("metadata", "defs"):
        for element in root.findall(f"{{{_SVG}}}{kind}"):
            if kind == "metadata" or element.find(f"{{{_SVG}}}style") is not None:
                root.remove(element)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for attribute, value in list(element.attrib.items()):
            if attribute == f"{{{_XLINK}}}href":
                del element.attrib[attribute]
                element.set("href", f"#{name}-{value[1:]}")
            elif attribute == "id":
                element.set("id", f"{name}-{value}")
            else:
                element.set(attribute, _in_the_page(value, name))
    for attribute in ("width", "height"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("xmlns", _SVG)
    return ET.tostring(root, encoding="unicode")


def _in_the_page(value: str, name: str) -> str:
    value = value.replace("url(#", f"url(#{name}-")
    value = re.sub(r" ?font-family: [^;]*;?", "", value)
    return re.sub(r"#0001[01]\d", lambda found: Color(found[0]).css, value)
