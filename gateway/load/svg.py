"""Small line plots as inline SVG. No script, no font, no file beside the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
WIDTH, HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 16, 34, 40
_COLOURS = ("c0", "c1", "c2", "c3")  # classes: what colour they are, the page says, for light and for dark
_DOTS = 15  # a series of so few points shows each of them
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: Sequence[Point]


def plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    limit: float | None = None,
    knee: float | None = None,
) -> str:
    """One plot; `limit` draws a dashed line at that height, `knee` one at that place. "" where there is nothing."""
    series = [each for each in series if each.points]
    points = [point for each in series for point in each.points]
    if not points:
        return ""
    right = max(x for x, _ in points) or 1.0
    top = 1.08 * max([y for _, y in points] + ([limit] if limit is not None else [])) or 1.0
    wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> str:
        return f"{_LEFT + wide * x / right:.1f},{_TOP + high * (1 - y / top):.1f}"

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text x="{_LEFT}" y="18" class="t">{escape(title)}</text>',
    ]
    for y in ticks(top):
        begin, end = place(0, y), place(right, y)
        at = float(begin.split(",")[1])
        parts.append(f'<polyline points="{begin} {end}" class="g"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" class="y">{y:g}</text>')
    for x in ticks(right):
        at = float(place(x, 0).split(",")[0])
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 22}" class="x">{x:g}</text>')
    parts.append(f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 6}" class="y">{escape(x_label)}</text>')
    parts.append(f'<text x="4" y="{_TOP - 6}" class="l">{escape(y_label)}</text>')
    if limit is not None:
        parts.append(f'<polyline points="{place(0, limit)} {place(right, limit)}" class="limit"/>')
    if knee is not None and knee <= right:
        parts.append(f'<polyline points="{place(knee, 0)} {place(knee, top)}" class="knee"/>')
        at, side = float(place(knee, 0).split(",")[0]), "y" if knee > 0.85 * right else "l"
        parts.append(
            f'<text x="{at + (-5 if side == "y" else 5):.1f}" y="{_TOP + 10}" class="{side}">knee {knee:g}</text>'
        )
    for number, each in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(place(x, y) for x, y in each.points)
        parts.append(f'<polyline points="{path}" class="{colour}"/>')
        if len(each.points) <= _DOTS:
            for point in each.points:
                across, down = place(*point).split(",")
                parts.append(f'<circle cx="{across}" cy="{down}" r="3" class="{colour} f"/>')
        if len(series) > 1:
            key_x = WIDTH - _RIGHT - 100 * (len(series) - number)
            parts.append(f'<text x="{key_x + 16}" y="18" class="l">{escape(each.name)}</text>')
            parts.append(f'<rect x="{key_x}" y="9" width="10" height="10" class="{colour} f"/>')
    return "".join([*parts, "</svg>"])


def ticks(top: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to `top`."""
    rough = top / count
    power = 1.0
    while power * 10 <= rough:
        power *= 10
    while power > rough:
        power /= 10
    step = next(power * each for each in _STEPS if power * each >= rough)
    return [round(step * n, 9) for n in range(int(top / step) + 1)]
