"""Figures as SVG to be put into a page, several beside each other, with nothing that points out of it."""

import base64
import io
import re

import matplotlib as mpl
from matplotlib.figure import Figure

from rnnbench.analysis.plots.style import SETTINGS

MOST_BYTES = 1_500_000
"""The largest SVG; what would be larger (many thousands of points) becomes a picture."""

DOTS_PER_INCH = 180

PIXELS_PER_INCH = 130
"""Of the page, where there is room: letters of 8 points are then as large as the page's small ones."""


def inline(figure: Figure, name: str, alt: str) -> str:
    """``figure`` as an element of HTML: SVG, or a PNG in a data URI where that would be larger than `MOST_BYTES`.

    Args:
        figure: to draw; the same one gives the same text.
        name: of letters and digits, which no other figure of the page has: all ids begin with it.
        alt: what is to be seen, for who cannot see it.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**SETTINGS, "svg.fonttype": "path", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = _alone(buffer.getvalue(), name)
    width = f'width="{figure.get_figwidth() * PIXELS_PER_INCH:.0f}"'
    if len(svg) <= MOST_BYTES:
        return svg.replace("<svg ", f'<svg role="img" aria-label="{_attribute(alt)}" {width} ', 1)
    picture = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        figure.savefig(picture, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<img alt="{_attribute(alt)}" {width} src="data:image/png;base64,{data}">'


def _alone(svg: str, name: str) -> str:
    """The element of a file of SVG, scaled by the page, its ids its own.

    Without prolog, comments, metadata, namespaces (HTML knows them) and the style sheet, which would hold for the whole
    page: the page has it.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", svg, flags=re.S)
    svg = svg.replace("xlink:href=", "href=")
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', rest))
    rest = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", rest)
    rest = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", rest)
    rest = re.sub(r"\n\s*", "\n", rest)
    return f"<svg {box[0]}>{rest}".strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
