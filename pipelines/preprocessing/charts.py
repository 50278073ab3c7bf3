"""Small charts as SVG text, for the data card.

By hand, not by matplotlib as the report's: that takes 2 s of every job, half of what 2,000 frame-level videos take.
"""

import dataclasses
import html
import math
from collections.abc import Sequence

from pipelines.pages.drawing import BLUE

_WIDTH, _HEIGHT = 520, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 44


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis: its label with the unit, its range, and whether it is logarithmic."""

    label: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        if self.log:
            return (math.log10(max(value, self.low)) - math.log10(self.low)) / max(
                math.log10(self.high) - math.log10(self.low), 1e-9
            )
        return (value - self.low) / max(self.high - self.low, 1e-12)

    def ticks(self) -> list[float]:
        """Some four to seven round values in the range."""
        if self.log:
            return [
                10.0**power
                for power in range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            ]
        step = 10.0 ** math.floor(math.log10(max(self.high - self.low, 1e-12)))
        for factor in (0.2, 0.5, 1.0):
            if (self.high - self.low) / (step * factor) <= 7:
                step *= factor
                break
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "middle", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{html.escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}" if abs(value) > 1e-9 else "0"


def _frame(x: Axis, y: Axis, body: Sequence[str], description: str) -> str:
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(description, quote=True)}">']
    for tick in x.ticks():
        at = _LEFT + x.place(tick) * inner_width
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_TOP + inner_height}" class="grid"/>')
        parts.append(_text(at, _TOP + inner_height + 16, _number(tick)))
    for tick in y.ticks():
        at = _TOP + (1 - y.place(tick)) * inner_height
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        parts.append(_text(_LEFT - 6, at + 4, _number(tick), "end"))
    parts += body
    parts.append(_text(_LEFT + inner_width / 2, _HEIGHT - 8, x.label))
    middle = _TOP + inner_height / 2
    parts.append(_text(14, middle, y.label, extra=f' transform="rotate(-90 14 {middle:.1f})"'))
    return "".join([*parts, "</svg>"])


def _points(x: Axis, y: Axis, xs: Sequence[float], ys: Sequence[float]) -> str:
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return " ".join(
        f"{_LEFT + x.place(a) * inner_width:.1f},{_TOP + (1 - y.place(b)) * inner_height:.1f}"
        for a, b in zip(xs, ys, strict=True)
    )


def line_chart(x: Axis, y: Axis, xs: Sequence[float], ys: Sequence[float], description: str) -> str:
    """One line."""
    return _frame(
        x,
        y,
        [f'<polyline points="{_points(x, y, xs, ys)}" fill="none" stroke="{BLUE}" stroke-width="2"/>'],
        description,
    )


def band_chart(
    x: Axis, y: Axis, xs: Sequence[float], middle: Sequence[float], spread: Sequence[float], description: str
) -> str:
    """A line with a band of +-spread around it."""
    upper = [a + b for a, b in zip(middle, spread, strict=True)]
    lower = [a - b for a, b in zip(middle, spread, strict=True)]
    outline = _points(x, y, [*xs, *reversed(xs)], [*upper, *reversed(lower)])
    return _frame(
        x,
        y,
        [
            f'<polygon points="{outline}" fill="{BLUE}" fill-opacity="0.25"/>',
            f'<polyline points="{_points(x, y, xs, middle)}" fill="none" stroke="{BLUE}" stroke-width="1"/>',
        ],
        description,
    )


def bar_chart(
    x: Axis, y: Axis, begins: Sequence[float], ends: Sequence[float], heights: Sequence[float], description: str
) -> str:
    """Bars from begins[i] to ends[i]."""
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    body = []
    for begin, end, height in zip(begins, ends, heights, strict=True):
        left = _LEFT + x.place(begin) * inner_width
        width = max((x.place(end) - x.place(begin)) * inner_width - 1, 0.5)
        tall = y.place(height) * inner_height
        body.append(
            f'<rect x="{left:.1f}" y="{_TOP + inner_height - tall:.1f}" width="{width:.1f}" '
            f'height="{tall:.1f}" fill="{BLUE}"/>'
        )
    return _frame(x, y, body, description)
