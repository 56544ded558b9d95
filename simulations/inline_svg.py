"""A matplotlib figure as SVG within a page: in the page's colours and font, without links and clashing ids."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from tacit.simulations.drawing import COLOURS

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

_BY_LIGHT = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}
_PREAMBLE = re.compile(
    r"^.*?<svg\b[^>]*>\s*(<metadata>.*?</metadata>)?\s*<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL
)
_TAG = re.compile(r"<[^>]+>")
_COLOUR = re.compile(r'(?<=[:=][ "])#[0-9a-f]{6}\b')
_FONT = re.compile(r"font-family: [^;\"]*;? ?")
_REFERENCE = re.compile(r'(?:href="#|url\(#)([^")]+)')
_ID = re.compile(r' id="([^"]*)"')
_NO_ROTATION = re.compile(r' transform="rotate\(-?0 [^)]*\)"')


def inline_svg(figure: Figure, name: str, alternative: str) -> Markup:
    """Return a figure, drawn and saved while `drawing.drawing` is in force, as an element of an HTML page.

    Args:
        figure: uses the light colours of the palette; the page's style gives `--ink` and the others for light and dark.
        name: begins every identifier, so that no two plots on a page share one.
        alternative: what one sees, for those who do not.
    """
    from markupsafe import Markup, escape

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = buffer.getvalue()
    width, height = (72 * inches for inches in figure.get_size_inches())
    body = _PREAMBLE.sub("", drawn, count=1)
    wanted = set(_REFERENCE.findall("".join(_TAG.findall(body))))

    def own(match: re.Match[str]) -> str:
        tag = _ID.sub(lambda found: f' id="{name}-{found[1]}"' if found[1] in wanted else "", match[0])
        tag = (
            tag.replace("xlink:href=", "href=").replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
        )
        tag = _COLOUR.sub(lambda found: _BY_LIGHT.get(found[0], found[0]), tag)
        return " ".join(_NO_ROTATION.sub("", _FONT.sub("", tag)).split())

    # Only tags are touched: a client may be called anything, its name is text between them.
    body = re.sub(r">\s+<", "><", _TAG.sub(own, body))
    start = f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alternative)}">'
    return Markup(start + body.strip())  # noqa: S704 - matplotlib escapes the text that it writes
