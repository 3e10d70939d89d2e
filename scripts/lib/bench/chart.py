"""The results as a picture: an SVG of bars, one for each scenario's ratio.

Written by hand: the bars of a report need no library that is larger than the benchmark.
"""

from __future__ import annotations

from html import escape

from bench.model import Result

_WIDTH, _ROW, _TOP = 900, 26, 64
_LABELS, _BARS = 190, 480
_BAR_COLOR, _SPREAD_COLOR, _LINE_COLOR, _TEXT_COLOR = "#3b7dd8", "#1b3f73", "#999", "#222"


def as_svg(results: list[Result], environment: dict[str, str]) -> str:
    """A bar a scenario: the median ratio, and a line from the least to the largest."""
    longest = max((result.ratios[1] for result in results), default=1.0)
    scale = _BARS / max(longest, 1.0)
    height = _TOP + _ROW * len(results) + 20
    unity = _LABELS + scale
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(10, 20, "Ratio to what was measured beside it in the same run", weight="bold"),
        _text(10, 38, "; ".join(environment.get(name, "") for name in ("workerqueue", "cpu"))),
        _text(unity, _TOP - 8, "1", anchor="middle"),
        f'<line x1="{unity:.1f}" y1="{_TOP - 4}" x2="{unity:.1f}" y2="{height - 16}" '
        f'stroke="{_LINE_COLOR}" stroke-dasharray="3 3"/>',
    ]
    for row, result in enumerate(results):
        parts += _bar(result, _TOP + row * _ROW, scale)
    return "\n".join([*parts, "</svg>", ""])


def _bar(result: Result, top: int, scale: float) -> list[str]:
    least, most = (_LABELS + ratio * scale for ratio in result.ratios)
    middle = top + _ROW / 2
    better = " (less is better)" if result.scenario.less_is_better else ""
    note = f"{result.ratio:.2f} of {result.scenario.beside}{better}"
    return [
        _text(_LABELS - 8, middle + 4, result.scenario.name, anchor="end"),
        f'<rect x="{_LABELS}" y="{top + 4}" width="{result.ratio * scale:.1f}" '
        f'height="{_ROW - 8}" fill="{_BAR_COLOR}"><title>{escape(result.scenario.title)}</title>'
        "</rect>",
        f'<line x1="{least:.1f}" y1="{middle}" x2="{most:.1f}" y2="{middle}" '
        f'stroke="{_SPREAD_COLOR}" stroke-width="3"/>',
        _text(max(most, _LABELS + result.ratio * scale) + 6, middle + 4, note),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{_TEXT_COLOR}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
