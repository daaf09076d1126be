"""Small SVG charts for the report: no script, no network, colours from the page's style sheet.

Enters: plain numbers. Leaves: SVG text, safe to put into a page (all labels are escaped).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 26, 34
LETTER = 7
"""How wide a letter of a legend is at most, on the mean."""


class Line(NamedTuple):
    """A named series of (x, y); `style` is a class of the style sheet."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values between low and high."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
    first = math.ceil(low / step) * step
    return [round(first + i * step, 10) for i in range(int((high - first) / step + 1e-9) + 1)]


def lines(series: Sequence[Line], *, x_label: str, y_label: str) -> str:
    """Lines over one another; where there are several, with a legend above them."""
    points = [p for s in series for p in s.points if all(map(math.isfinite, p))]
    if not points:
        return ""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x0, x1, y0, y1 = min(xs), max(max(xs), min(xs) + 1), min(0.0, *ys), max(ys) * 1.05 or 1.0
    parts = [_axes(x0, x1, y0, y1, x_label, y_label)]
    for item in series:
        path = " ".join(f"{_x(x, x0, x1):.1f},{_y(y, y0, y1):.1f}" for x, y in item.points if math.isfinite(y))
        parts.append(f'<polyline class="{item.style}" points="{path}"/>')
        if len(item.points) <= 40:
            parts += [f'<circle class="{item.style}" cx="{_x(x, x0, x1):.1f}" cy="{_y(y, y0, y1):.1f}" r="2.5"/>' for x, y in item.points]
    parts += _legend(series) if len(series) > 1 else []
    return _svg("".join(parts), f"{y_label} over {x_label}")


def _legend(series: Sequence[Line]) -> list[str]:
    """What each line is, in a row that ends at the right edge of the plot."""
    found, at = [], WIDTH - RIGHT
    for item in reversed(series):
        at -= 36 + LETTER * len(item.name)
        found.append(
            f'<line class="{item.style}" x1="{at}" x2="{at + 18}" y1="{TOP - 14}" y2="{TOP - 14}"/>'
            f'<text x="{at + 24}" y="{TOP - 10}">{escape(item.name)}</text>'
        )
    return found


def scatter(points: Sequence[tuple[float, float]], *, x_label: str, y_label: str) -> str:
    """Points with the line where both are equal."""
    values = [v for p in points for v in p]
    low, high = min(values), max(max(values), min(values) + 1e-6)
    dots = "".join(f'<circle class="dot" cx="{_x(x, low, high):.1f}" cy="{_y(y, low, high):.1f}" r="3"/>' for x, y in points[:2000])
    same = f'<line class="rule" x1="{_x(low, low, high)}" y1="{_y(low, low, high)}" x2="{_x(high, low, high)}" y2="{_y(high, low, high)}"/>'
    return _svg(_axes(low, high, low, high, x_label, y_label) + same + dots, f"{y_label} against {x_label}")


def reliability(bins: Sequence[tuple[float, float, int]]) -> str:
    """Accuracy against confidence: (mean confidence, accuracy, rows) for each bin that has rows."""
    total = max(1, sum(n for _, _, n in bins))
    dots = "".join(
        f'<circle class="dot strong" cx="{_x(c, 0, 1):.1f}" cy="{_y(a, 0, 1):.1f}" r="{3 + 14 * math.sqrt(n / total):.1f}">'
        f"<title>{n} rows: confidence {c:.2f}, accuracy {a:.2f}</title></circle>"
        for c, a, n in bins
    )
    same = f'<line class="rule" x1="{_x(0, 0, 1)}" y1="{_y(0, 0, 1)}" x2="{_x(1, 0, 1)}" y2="{_y(1, 0, 1)}"/>'
    return _svg(_axes(0, 1, 0, 1, "confidence", "accuracy") + same + dots, "accuracy against confidence")


def bars(bins: Sequence[tuple[float, float, int]], *, x_label: str, y_label: str, limit: float | None = None) -> str:
    """Upright bars, (from, to, how many) each, and a dashed line at the limit where it lies among them."""
    if not bins:
        return ""
    x0, x1, top = bins[0][0], bins[-1][1], max(n for _, _, n in bins) or 1
    parts = [_axes(x0, x1, 0, top, x_label, y_label)]
    for low, high, count in bins:
        left, right, y = _x(low, x0, x1), _x(high, x0, x1), _y(count, 0, top)
        parts.append(
            f'<rect class="a" x="{left + 0.5:.1f}" y="{y:.1f}" width="{max(right - left - 1, 1):.1f}" height="{HEIGHT - BOTTOM - y:.1f}">'
            f"<title>{low:g} to {high:g}: {count}</title></rect>"
        )
    if limit is not None and x0 < limit < x1:
        x = _x(limit, x0, x1)
        parts.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    return _svg("".join(parts), f"{y_label} by {x_label}")


def intervals(rows: Sequence[tuple[str, float, float, float, bool]], *, low: float, high: float) -> str:
    """One row each: (name, value, low, high, whether to stress it), as a dot on its interval."""
    line, left = 30, 250
    height = line * len(rows) + 30

    def x(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low or 1) * (WIDTH - left - 70)

    parts = []
    for tick in ticks(low, high):
        parts.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 24}"/>'
            f'<text class="tick" text-anchor="middle" x="{x(tick):.1f}" y="{height - 8}">{tick:g}</text>'
        )
    for number, (name, value, bottom, top, strong) in enumerate(rows):
        y, style = 20 + line * number, "strong" if strong else "weak"
        parts.append(
            f'<text class="{style}" text-anchor="end" x="{left - 14}" y="{y + 4}">{escape(name)}</text>'
            f'<line class="whisker {style}" x1="{x(bottom):.1f}" x2="{x(top):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot {style}" cx="{x(value):.1f}" cy="{y}" r="5"/>'
            f'<text class="{style}" x="{WIDTH - 58}" y="{y + 4}">{value:.3f}</text>'
        )
    return _svg("".join(parts), "scores with their intervals", height=height)


class Mark(NamedTuple):
    """A named point with its interval in either direction, where it has one; the strong one is stressed."""

    name: str
    x: tuple[float, float | None, float | None]
    y: tuple[float, float | None, float | None]
    strong: bool


def marks(points: Sequence[Mark], *, x_label: str, y_label: str, alike: bool) -> str:
    """Named points, each with its intervals as whiskers; where the axes are `alike` in unit, y spans half of what x does at least."""
    xs, ys = [v for p in points for v in p.x if v is not None], [v for p in points for v in p.y if v is not None]
    wide = max(max(xs) - min(xs), 1e-6)
    spare = max(0.0, wide / 2 - (max(ys) - min(ys))) / 2 if alike else 0.0
    low, high = min(ys) - spare, max(ys) + spare
    edge = 0.08 * max(high - low, 1e-6)
    x0, x1, y0, y1 = min(xs) - 0.06 * wide, max(xs) + 0.16 * wide, low - edge, high + edge
    parts = [_axes(x0, x1, y0, y1, x_label, y_label)]
    for p in points:
        style, x, y = "strong" if p.strong else "weak", _x(p.x[0], x0, x1), _y(p.y[0], y0, y1)
        left, right = (x if v is None else _x(v, x0, x1) for v in p.x[1:])
        low, high = (y if v is None else _y(v, y0, y1) for v in p.y[1:])
        parts.append(
            f'<line class="whisker {style}" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<line class="whisker {style}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
            f'<text class="{style}" x="{x + 8:.1f}" y="{y - 7:.1f}">{escape(p.name)}</text>'
        )
    return _svg("".join(parts), f"{y_label} against {x_label}")


def _x(value: float, low: float, high: float) -> float:
    return LEFT + (value - low) / (high - low or 1) * (WIDTH - LEFT - RIGHT)


def _y(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / (high - low or 1) * (HEIGHT - TOP - BOTTOM)


def _axes(x0: float, x1: float, y0: float, y1: float, x_label: str, y_label: str) -> str:
    parts = []
    for tick in ticks(y0, y1):
        y = _y(tick, y0, y1)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{y + 4:.1f}">{tick:g}</text>'
        )
    for tick in ticks(x0, x1, 8):
        parts.append(f'<text class="tick" text-anchor="middle" x="{_x(tick, x0, x1):.1f}" y="{HEIGHT - BOTTOM + 15}">{tick:g}</text>')
    parts.append(
        f'<text class="tick" text-anchor="end" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}">{escape(x_label)}</text>'
        f'<text class="tick" x="4" y="{TOP - 14}">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _svg(inside: str, title: str, *, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{inside}</svg>'
