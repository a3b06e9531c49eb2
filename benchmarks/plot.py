"""The figures as a picture: requests a second, by workload and server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rounds import Result, Row
from workloads import ideal_rate

COLOURS = {
    "ours": "#1b4f9c",
    "gateway": "#7ea6de",
    "bare": "#9a9a9a",
    "mlserver": "#c8553d",
    "mlserver-custom": "#e9a08f",
    "bentoml": "#e0a030",
    "litserve": "#6a9f58",
    "fastapi-async": "#8e6bb0",
    "fastapi-def": "#c3b0d6",
}
SHOWN = ("echo", "iris", "floats", "body", "batch-32", "grpc-10")
GAP = 1.2
"""Between two groups, in bars."""


def draw(rows: Sequence[Row], file: Path) -> None:
    """Write a PNG with a group of bars for each workload that is of interest."""
    shown = [row for name in SHOWN for row in rows if row.name == name and any(_of(row))]
    figure = Figure(figsize=(13, 6.6), dpi=130, layout="constrained")
    axes: Axes = figure.subplots()
    start, ticks = 0.0, []
    titles: dict[str, str] = {}
    for row in shown:
        results = _of(row)
        for index, result in enumerate(results):
            _bar(axes, start + index, result, labelled=result.contender not in titles)
            titles.setdefault(result.contender, result.title)
        if row.name.startswith("batch-"):
            _mark_ideal(axes, start, len(results), ideal_rate(int(row.name.removeprefix("batch-"))))
        ticks.append((start + (len(results) - 1) / 2, row.title))
        start += len(results) + GAP
    axes.set_yscale("log")
    axes.set_xticks([at for at, _ in ticks], [_wrapped(title) for _, title in ticks], fontsize=11)
    axes.set_ylabel("right answers a second (log scale)", fontsize=11)
    axes.set_xlim(-1, start - GAP)
    rates = [result.rate for row in shown for result in _of(row)]
    axes.set_ylim(min(rates, default=1) / 2, max(rates, default=1) * 4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(
        "The same handler on each server: one worker on one core, load on another; medians, whiskers are min–max",
        fontsize=12, loc="left",
    )  # fmt: skip
    figure.legend(loc="outside lower center", ncols=math.ceil(len(titles) / 2), frameon=False, fontsize=10)
    figure.savefig(file)


def _bar(axes: Axes, at: float, result: Result, *, labelled: bool) -> None:
    rates = [sample.rate for sample in result.samples]
    spread = [[result.rate - min(rates)], [max(rates) - result.rate]]
    axes.bar(
        at, result.rate, width=0.86, color=COLOURS[result.contender],
        label=_label(result) if labelled else None, yerr=spread, error_kw={"ecolor": "#333333", "elinewidth": 1},
    )  # fmt: skip
    axes.annotate(
        f"{result.rate:,.0f}", (at, max(rates)), xytext=(0, 4), textcoords="offset points",
        ha="center", va="bottom", rotation=90, fontsize=8.5,
        fontweight="bold" if result.contender == "ours" else "normal",
    )  # fmt: skip


def _mark_ideal(axes: Axes, start: float, bars: int, rate: float) -> None:
    axes.hlines(rate, start - 0.5, start + bars - 0.5, colors="#333333", linestyles="dashed", linewidth=1)
    axes.annotate(
        f"ideal {rate:,.0f}", (start + bars - 0.5, rate), xytext=(0, 3), textcoords="offset points",
        ha="right", va="bottom", fontsize=8.5,
    )  # fmt: skip


def _label(result: Result) -> str:
    return "bare granian (gRPC: grpcio)" if result.contender == "bare" else result.title


def _wrapped(title: str) -> str:
    return title.replace(", ", "\n").replace(" of up", "\nof up")


def _of(row: Row) -> list[Result]:
    order = list(COLOURS)
    return sorted(
        (result for result in row.results if result.samples and result.rate > 0),
        key=lambda result: order.index(result.contender),
    )
