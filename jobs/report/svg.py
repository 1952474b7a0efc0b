"""Drawings as SVG text: shapes with classes that the page's style sheet colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

Point = tuple[float, float]


class Drawing:
    """One drawing. Jinja writes it unescaped; all text in it is escaped here."""

    def __init__(self, width: float, height: float, label: str, *, fixed: bool = True) -> None:
        self.width = width
        self.height = height
        self._fixed = fixed
        self._label = label
        self._parts: list[str] = []

    def line(self, a: Point, b: Point, css: str) -> None:
        """A straight line."""
        ends = f'x1="{_at(a[0])}" y1="{_at(a[1])}" x2="{_at(b[0])}" y2="{_at(b[1])}"'
        self._parts.append(f'<line {ends} class="{css}"/>')

    def rect(
        self, at: Point, width: float, height: float, css: str, title: str = "", radius: float = 0
    ) -> None:
        """A rectangle; nothing if it has no area."""
        if width <= 0 or height <= 0:
            return
        box = f'x="{_at(at[0])}" y="{_at(at[1])}" width="{_at(width)}" height="{_at(height)}"'
        corner = f' rx="{_at(radius)}"' if radius else ""
        self._parts.append(f'<rect {box}{corner} class="{css}">{_title(title)}</rect>')

    def circle(self, at: Point, radius: float, css: str, title: str = "") -> None:
        """A disc."""
        where = f'cx="{_at(at[0])}" cy="{_at(at[1])}" r="{_at(radius)}"'
        self._parts.append(f'<circle {where} class="{css}">{_title(title)}</circle>')

    def path(self, points: Iterable[Point], css: str) -> None:
        """A line through points; those that are not finite leave a gap."""
        words, drawing = [], False
        for x, y in points:
            if not (math.isfinite(x) and math.isfinite(y)):
                drawing = False
                continue
            words.append(f"{'L' if drawing else 'M'}{_at(x)} {_at(y)}")
            drawing = True
        if words:
            self._parts.append(f'<path d="{" ".join(words)}" class="{css}"/>')

    def link(self, a: Point, b: Point, css: str) -> None:
        """A curve from left to right."""
        middle = (a[0] + b[0]) / 2
        bends = f"{_at(middle)} {_at(a[1])} {_at(middle)} {_at(b[1])}"
        curve = f"M{_at(a[0])} {_at(a[1])} C{bends} {_at(b[0])} {_at(b[1])}"
        self._parts.append(f'<path d="{curve}" class="{css}"/>')

    def text(
        self, at: Point, text: str, css: str = "", anchor: str = "start", title: str = ""
    ) -> None:
        """Text with its base line at a point."""
        words = f'x="{_at(at[0])}" y="{_at(at[1])}" text-anchor="{anchor}" class="{css}"'
        self._parts.append(f"<text {words}>{escape(text)}{_title(title)}</text>")

    def __html__(self) -> str:
        box = f'viewBox="0 0 {_at(self.width)} {_at(self.height)}"'
        size = f' width="{_at(self.width)}" height="{_at(self.height)}"' if self._fixed else ""
        label = escape(self._label, quote=True)
        return f'<svg {box}{size} role="img" aria-label="{label}">{"".join(self._parts)}</svg>'


class Scale:
    """Values to positions."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low = low
        self.high = high if high > low else low + 1.0
        self._start = start
        self._end = end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self._start + share * (self._end - self._start)

    def clipped(self, value: float) -> float:
        """Position of a value, or of the nearest end."""
        return self(min(max(value, self.low), self.high))

    def ticks(self, number: int) -> list[float]:
        """About so many round values within."""
        step = nice_step((self.high - self.low) / max(number, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def nice_step(rough: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))


def span(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    """The range of the finite values with a margin."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    room = (high - low or abs(high) or 1.0) * margin
    return low - room, high + room


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
