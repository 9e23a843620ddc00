"""Small charts as SVG, for a page that loads nothing: lines, and what every thread did when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from markupsafe import Markup, escape

from bigmm.columns import Array

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 860.0, 240.0, 76.0, 150.0, 10.0, 34.0
_COLOURS = ("#1f5f8b", "#c4572b", "#3d8b54", "#7a4f9a", "#a08000", "#4a4a4a")
_LANE = 12.0
#: Lanes of a timeline, lines of a chart: beyond these nobody sees anything.
MOST_LANES, MOST_LINES = 128, 12

#: Start, stop, and whether the chunk was skipped.
Span: TypeAlias = tuple[float, float, bool]


def lines(series: Mapping[str, tuple[Array, Array]], x_label: str, y_label: str, *, log: bool = False) -> Markup:
    """A chart of lines with their names at the right; with `log` y has powers of ten, and what is not positive is left out."""
    shown = dict(list(series.items())[:MOST_LINES])
    if log:
        shown = {name: (x[y > 0], np.log10(y[y > 0])) for name, (x, y) in shown.items()}
    xs, ys = (np.concatenate([pair[axis] for pair in shown.values()] or [np.zeros(0)]) for axis in (0, 1))
    if not len(xs):
        return Markup("<p>Nothing to draw.</p>")
    x_range, y_range = _range(xs), _range(ys if log else np.append(ys, 0.0))
    parts = [_grid(x_range, y_range, log), _labels(x_label, y_label)]
    for number, (name, (x, y)) in enumerate(shown.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{_x(a, x_range):.1f},{_y(b, y_range):.1f}" for a, b in zip(x, y, strict=True))
        parts.append(Markup('<polyline fill="none" stroke="{}" stroke-width="1.6" points="{}"/>').format(colour, points))
        at = _TOP + 12 + 16 * number
        text = '<text x="{:.0f}" y="{:.0f}" fill="{}">{}</text>'
        parts.append(Markup(text).format(_WIDTH - _RIGHT + 8, at, colour, name if len(name) < 24 else name[:22] + "…"))
    return _svg(parts, _HEIGHT)


def timeline(lanes: Mapping[str, Sequence[Span]], x_label: str) -> Markup:
    """A lane for every thread, a bar for every chunk; bars too narrow to be told apart run together."""
    shown = dict(list(lanes.items())[:MOST_LANES])
    stops = [stop for spans in shown.values() for _, stop, _ in spans]
    if not stops:
        return Markup("<p>Nothing to draw.</p>")
    x_range, height = (0.0, max(*stops, 1e-9)), _TOP + _LANE * len(shown)
    parts = [_x_ticks(x_range, height), _x_label(x_label, height + _BOTTOM)]
    for number, (name, spans) in enumerate(shown.items()):
        y = _TOP + _LANE * number
        text = '<text x="{:.0f}" y="{:.1f}" font-size="9">{}</text>'
        parts.append(Markup(text).format(_WIDTH - _RIGHT + 8, y + 9, name if len(name) < 28 else "…" + name[-26:]))
        for skipped, colour in ((False, _COLOURS[0]), (True, _COLOURS[1])):
            bars = _bars([(start, stop) for start, stop, lost in spans if lost == skipped], x_range, y)
            parts.append(Markup('<path fill="{}" d="{}"/>').format(colour, bars) if bars else Markup(""))
    return _svg(parts, height + _BOTTOM)


def _bars(spans: list[tuple[float, float]], x_range: tuple[float, float], y: float) -> str:
    """Rectangles as one path."""
    merged: list[list[float]] = []
    for start, stop in sorted((_x(start, x_range), _x(stop, x_range)) for start, stop in spans):
        if merged and stop - start < 1.0 and start - merged[-1][1] < 0.3:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    return "".join(f"M{a:.1f} {y:.1f}h{max(b - a - 0.5, 0.4):.1f}v{_LANE - 2:.1f}H{a:.1f}z" for a, b in merged)


def _svg(parts: Sequence[Markup], height: float) -> Markup:
    head = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" font-family="sans-serif" font-size="11">')
    return head.format(_WIDTH, height) + Markup("").join(parts) + Markup("</svg>")


def _range(values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _x(value: float, limits: tuple[float, float]) -> float:
    return _LEFT + (value - limits[0]) / (limits[1] - limits[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, limits: tuple[float, float]) -> float:
    return _HEIGHT - _BOTTOM - (value - limits[0]) / (limits[1] - limits[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(limits: tuple[float, float], whole: bool = False) -> list[float]:
    """About five round numbers."""
    raw = (limits[1] - limits[0]) / 5
    unit = 10.0 ** np.floor(np.log10(raw))
    step = float(next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw))
    step = max(step, 1.0) if whole else step
    return [float(tick) + 0.0 for tick in np.arange(np.ceil(limits[0] / step) * step, limits[1] + step / 1e6, step)]


def _grid(x_range: tuple[float, float], y_range: tuple[float, float], log: bool) -> Markup:
    parts = [_x_ticks(x_range, _HEIGHT - _BOTTOM)]
    for tick in _ticks(y_range, whole=log):
        line = '<path d="M{:.1f} {:.1f}H{:.1f}" stroke="#ddd"/><text x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>'
        label = f"1e{tick:.0f}" if log else f"{tick:.6g}"
        parts.append(Markup(line).format(_LEFT, _y(tick, y_range), _WIDTH - _RIGHT, _LEFT - 6, _y(tick, y_range) + 4, label))
    return Markup("").join(parts)


def _x_ticks(limits: tuple[float, float], bottom: float) -> Markup:
    line = '<path d="M{:.1f} {:.1f}V{:.1f}" stroke="#ddd"/><text x="{:.1f}" y="{:.1f}" text-anchor="middle">{:.6g}</text>'
    ticks = ((_x(tick, limits), tick) for tick in _ticks(limits))
    return Markup("").join(Markup(line).format(at, _TOP, bottom, at, bottom + 14, tick) for at, tick in ticks)


def _labels(x_label: str, y_label: str) -> Markup:
    text = '<text transform="translate(12 {:.0f}) rotate(-90)" text-anchor="middle">{}</text>'
    return _x_label(x_label, _HEIGHT) + Markup(text).format((_HEIGHT - _BOTTOM) / 2, escape(y_label))


def _x_label(text: str, bottom: float) -> Markup:
    return Markup('<text x="{:.0f}" y="{:.0f}" text-anchor="middle">{}</text>').format((_WIDTH + _LEFT - _RIGHT) / 2, bottom - 4, text)
