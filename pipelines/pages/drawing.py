"""The one look of all figures, and drawing them to bytes.

Colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE, ORANGE, BLACK, GREY = (
    "#0072B2",
    "#D55E00",
    "#007A5A",
    "#A8548A",
    "#C98A00",
    "#1B1F24",
    "#8A9199",
)
# Matplotlib settings for all figures; text stays text in SVG.
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans", "sans-serif"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": BLACK,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E7EB",
    "grid.linewidth": 0.7,
    "xtick.color": "#3D444D",
    "ytick.color": "#3D444D",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}
# Pixels per inch of the PNGs: a figure 4.8 inches wide gives 1,056 pixels, twice what a page shows.
_PNG_DPI = 220


def new_axes(ax: "Axes | None") -> "Axes":
    """`ax`, or the axes of a figure of its own."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(4.8, 3.6), layout="constrained").subplots()


def draw_svg(plot: Callable[..., Any], data: Any, size: tuple[float, float]) -> bytes:
    """Draws `plot(data, ax=...)` on a figure of `size` inches, as SVG; the same data gives the same bytes."""
    return _drawn(plot, data, size)[1]


def draw(plot: Callable[..., Any], data: Any, size: tuple[float, float]) -> tuple[bytes, bytes]:
    """`draw_svg`, and the same figure as PNG."""
    import matplotlib

    figure, svg = _drawn(plot, data, size)
    png = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.set_layout_engine("none")  # the layout is computed; computing it again costs a third of the time
        figure.savefig(png, format="png", metadata={"Software": None}, dpi=_PNG_DPI)
    return svg, png.getvalue()


def _drawn(plot: Callable[..., Any], data: Any, size: tuple[float, float]) -> "tuple[Figure, bytes]":
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        plot(data, ax=figure.subplots())
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, dpi=_PNG_DPI)
    return figure, svg.getvalue()
