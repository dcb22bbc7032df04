"""A section's figure as a file and as a data URI: SVG where it is small, PNG where it holds pixels or many points."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hil.report.section import Figure
from hil.report.style import RC

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["PNG_DPI", "Picture", "file_name", "render"]

PNG_DPI = 150
_SVG_VERTICES = 4000
"""A drawing with more corners than that becomes a PNG."""


@dataclass(frozen=True)
class Picture:
    """A figure as the report holds it."""

    caption: str
    uri: str
    """data:, whole."""
    width_px: int
    """On a screen, where there is room."""
    wide: bool
    """Takes the whole width of the page."""


def file_name(name: str, taken: set[str]) -> str:
    """A name that every file system takes and that is not in ``taken``, to which it is added."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "figure"
    number, found = 1, plain
    while found.lower() in taken:
        number += 1
        found = f"{plain}-{number}"
    taken.add(found.lower())
    return found


def render(figure: Figure, folder: Path, stem: str) -> Picture:
    """Draw a figure, keep it in ``folder`` as STEM.svg or STEM.png, and give it as the report embeds it."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(RC):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        FigureCanvasAgg(canvas)
        figure.draw(canvas)
        kind = "png" if _heavy(canvas) else "svg"
        buffer = io.BytesIO()
        # Cut to what is drawn: nothing is clipped, whatever the layout made of it.
        # Neither the date nor the program: the same data give the same bytes.
        if kind == "png":
            canvas.savefig(
                buffer, format="png", dpi=PNG_DPI, bbox_inches="tight", pad_inches=0.06, metadata={"Software": None}
            )
        else:
            canvas.savefig(
                buffer, format="svg", bbox_inches="tight", pad_inches=0.06, metadata={"Date": None, "Creator": None}
            )
    data = buffer.getvalue()
    (folder / f"{stem}.{kind}").write_bytes(data)
    mime = "image/png" if kind == "png" else "image/svg+xml"
    uri = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    return Picture(figure.caption, uri, round(96 * figure.size[0]), figure.size[0] > 5.5)


def _heavy(canvas: Canvas) -> bool:
    corners = 0
    for axes in canvas.axes:
        # A colour bar's own picture is small and stretched: no reason by itself.
        if axes.images:
            return True
        corners += sum(np.size(line.get_xdata()) for line in axes.lines)
        corners += sum(np.shape(path.vertices)[0] for group in axes.collections for path in group.get_paths())
    return corners > _SVG_VERTICES
