"""The figures as text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from load import DISTURBED
from rounds import Result, Row
from verdicts import Verdict

HEADS = (
    "server", "requests/s", "min–max", "p50 ms", "p99 ms", "CPU µs", "÷ bare", "min–max", "ours ÷ it", "load", "not right",
)  # fmt: skip


def text(row: Row) -> str:
    """One row's table, and what could not be measured."""
    lines = [row.title, *_aligned([HEADS, *map(_cells, _measured(row), [row] * len(row.results))])]
    lines += [
        f"! {result.title} NOT MEASURED: {result.problem}" for result in row.results if not result.samples
    ]
    lines += [f"! {result.title}: {result.problem}" for result in _measured(row) if result.problem]
    lines += [f"! {line}" for line in _disturbed(row)]
    return "\n".join(lines) + "\n"


def verdicts_text(verdicts: Sequence[Verdict]) -> str:
    cells = [(each.row, each.measure, each.wanted, each.measured, each.word) for each in verdicts]
    return "\n".join(_aligned([("row", "judged by", "wanted", "measured", ""), *cells], left=5)) + "\n"


def markdown(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> str:
    lines = ["| row | judged by | wanted | measured | |", "|---|---|---|---|---|"]
    lines += [
        f"| {each.row} | {each.measure} | {each.wanted} | {each.measured} | {each.word} |"
        for each in verdicts
    ]
    for row in rows:
        lines += [
            "", f"**{row.title}**", "",
            "| " + " | ".join(HEADS) + " |",
            "|---" + "|---:" * (len(HEADS) - 1) + "|",
        ]  # fmt: skip
        lines += [f"| {' | '.join(_cells(result, row))} |" for result in _measured(row)]
        lines += [
            f"\n{result.title} was not measured: {result.problem}"
            for result in row.results
            if not result.samples
        ]
        lines += [f"\n*{line[0].upper()}{line[1:]}.*" for line in _disturbed(row)]
    return "\n".join(lines) + "\n"


def _disturbed(row: Row) -> list[str]:
    if row.others_share <= DISTURBED:
        return []
    return [
        f"other processes took up to {row.others_share:.0%} of a core meanwhile, so do not trust these figures"
    ]


def _measured(row: Row) -> list[Result]:
    return [result for result in row.results if result.samples]


def _cells(result: Result, row: Row) -> tuple[str, ...]:
    bare, ours = row.of("bare"), row.of("ours")
    of_bare = result.ratio(bare) if bare is not None else None
    of_it = ours.ratio(result) if ours is not None else None
    rates = [sample.rate for sample in result.samples]
    return (
        result.title,
        f"{result.rate:,.0f}",
        f"{min(rates):,.0f}–{max(rates):,.0f}",
        f"{result.p50:.2f}",
        f"{result.p99:.2f}",
        f"{result.server_us:,.0f}",
        f"{of_bare.median:.3f}" if of_bare else "–",
        f"{of_bare.least:.3f}–{of_bare.most:.3f}" if of_bare else "–",
        f"{of_it.median:.2f}" if of_it else "–",
        f"{max(sample.load_share for sample in result.samples):.0%}",
        f"{result.failed:,}",
    )


def _aligned(cells: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Columns of equal width, the first `left` of them to the left."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
