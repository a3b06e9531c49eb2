"""What the figures are judged by, and whether it holds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import swaps
from contenders import ML_SERVERS, PEERS
from load import DISTURBED
from overload import Overload
from rounds import Ratio, Row
from workloads import batch_seconds, ideal_rate

MIB = 2**20
OURS = ("ours", "gateway")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One line.

    Attributes:
        row: which row of figures it is about.
        holds: None if nothing is asked of it.
    """

    row: str
    measure: str
    wanted: str
    measured: str
    holds: bool | None

    @property
    def word(self) -> str:
        return {True: "holds", False: "FAILS", None: "–"}[self.holds]


def of(rows: Sequence[Row], overload: Overload | None, swapped: swaps.Measured | None) -> list[Verdict]:
    by_name = {row.name: row for row in rows}
    found = [verdict for row in rows for verdict in _right_answers(row)]
    found += _rates(by_name)
    found += [
        verdict for name, row in by_name.items() if name.startswith("batch-") for verdict in _batch(row)
    ]
    found += [verdict for name in ("echo", "iris") for verdict in _gateway(by_name, name)]
    found += [verdict for name, row in by_name.items() if name.startswith("grpc-") for verdict in _grpc(row)]
    titles = [row.title for row in rows]
    found.sort(key=lambda verdict: titles.index(verdict.row))
    disturbed = {row.title for row in rows if row.others_share > DISTURBED}
    found = [
        replace(each, measured=f"{each.measured}, disturbed") if each.row in disturbed else each
        for each in found
    ]
    if overload is not None:
        found += _overload(overload)
    if swapped is not None:
        found += _swaps(swapped)
    return found


def _right_answers(row: Row) -> Iterator[Verdict]:
    for result in row.results:
        if not result.samples:
            yield Verdict(
                row=row.title, measure=result.title, wanted="measured", measured="NOT MEASURED",
                holds=False if result.contender in OURS else None,
            )  # fmt: skip
        elif result.failed and result.contender in OURS:
            yield Verdict(
                row=row.title, measure=f"{result.title}: answers that were wrong or did not come", wanted="0",
                measured=f"{result.failed:,}", holds=False,
            )  # fmt: skip


def _rates(rows: Mapping[str, Row]) -> Iterator[Verdict]:
    for name, least in (("echo", 0.6), ("iris", 0.85)):
        ratio = _ratio(rows.get(name), "ours", "bare")
        if ratio is not None:
            yield _at_least(rows[name], "ours ÷ bare granian", ratio, least)
    for row in (rows[name] for name in ("echo", "iris", "floats", "body") if name in rows):
        ours, bare = row.of("ours"), row.of("bare")
        if ours is not None and bare is not None:
            yield _told(row, "p99 of ours, of bare granian", f"{ours.p99:.2f} ms, {bare.p99:.2f} ms")
    echo = rows.get("echo")
    if echo is not None:
        best = _best(echo, ML_SERVERS)
        ratio = _ratio(echo, "ours", best)
        if best is not None and ratio is not None:
            yield _at_least(echo, f"ours ÷ the best ML server ({best})", ratio, 10)
        custom = _ratio(echo, "ours", "mlserver-custom")
        if custom is not None:
            yield _told(
                echo, "ours ÷ MLServer's custom endpoint, past its inference protocol", f"{custom.median:.1f}"
            )
    for row in (rows[name] for name in ("iris", "floats", "body") if name in rows):
        best = _best(row, PEERS)
        ratio = _ratio(row, "ours", best)
        if best is not None and ratio is not None:
            yield _at_least(row, f"ours ÷ the best peer ({best})", ratio, 1)


def _batch(row: Row) -> Iterator[Verdict]:
    ours = row.of("ours")
    if ours is None:
        return
    size = int(row.name.removeprefix("batch-"))
    ideal, batch = ideal_rate(size), batch_seconds(size) * 1000
    of_ideal = ours.rate / ideal
    of_batch = ours.p99 / batch
    judged = size == 32
    yield Verdict(
        row=row.title, measure=f"ours ÷ ideal ({ideal:,.0f}/s: full batches back to back)",
        wanted="≥ 0.9" if judged else "–", measured=f"{of_ideal:.2f}", holds=of_ideal >= 0.9 if judged else None,
    )  # fmt: skip
    least = max(64 / ideal * 1000 / batch, 1)
    yield Verdict(
        row=row.title,
        measure=f"p99 ÷ time of a batch ({batch:.2f} ms); 64 clients ÷ ideal is {least:.1f}",
        wanted="≤ 2" if judged else "–", measured=f"{of_batch:.2f}", holds=of_batch <= 2 if judged else None,
    )  # fmt: skip
    best = _best(row, PEERS)
    ratio = _ratio(row, "ours", best)
    if best is not None and ratio is not None:
        yield _told(row, f"ours ÷ the best peer ({best})", f"{ratio.median:.1f}")


def _gateway(rows: Mapping[str, Row], name: str) -> Iterator[Verdict]:
    one, many = rows.get(f"{name}-1"), rows.get(name)
    direct, through = (one.of("ours"), one.of("gateway")) if one is not None else (None, None)
    if one is not None and direct is not None and through is not None:
        yield _told(
            one, "the gateway's extra time, p50", f"+{(through.p50 - direct.p50) * 1000:.0f} µs on {direct.p50 * 1000:.0f} µs"
        )  # fmt: skip
    direct, through = (many.of("ours"), many.of("gateway")) if many is not None else (None, None)
    if many is not None and direct is not None and through is not None:
        yield _told(
            many,
            "the gateway's extra CPU time a request (it shares the replica's core)",
            f"+{through.server_us - direct.server_us:.0f} µs on {direct.server_us:.0f} µs",
        )


def _grpc(row: Row) -> Iterator[Verdict]:
    ratio = _ratio(row, "ours", "bare")
    if ratio is not None:
        yield _told(row, "ours ÷ grpcio's own server", _range(ratio))


def _overload(overload: Overload) -> Iterator[Verdict]:
    result = overload.result
    row = f"5 × overload, {overload.seconds:.0f} s"
    grown = (overload.rss_after - overload.rss_before) / MIB

    def line(measure: str, wanted: str, measured: str, holds: bool | None) -> Verdict:
        return Verdict(row=row, measure=measure, wanted=wanted, measured=measured, holds=holds)

    yield line("goodput ÷ capacity", "≥ 0.9", f"{result.goodput:.3f}", result.goodput >= 0.9)
    yield line("rejects, p99", "≤ 50 ms", f"{result.rejected_p99 * 1000:.0f} ms", result.rejected_p99 <= 0.05)
    yield line(
        "rejects that are not 503 with Retry-After", "0", f"{len(result.impolite)}", not result.impolite
    )
    yield line("requests without an answer", "0", f"{len(result.failed)}", not result.failed)
    yield line("recovery", "≤ 2 s", f"{result.recovery * 1000:.0f} ms", result.recovery <= 2)
    yield line(
        "memory of all processes", "flat (≤ 16 MiB more)",
        f"{overload.rss_before / MIB:.0f} → {overload.rss_after / MIB:.0f} MiB", grown <= 16,
    )  # fmt: skip
    yield line(
        f"accepted, p99 (service and queue: {overload.bound * 1000:.0f} ms)", "–",
        f"{result.accepted_p99 * 1000:.0f} ms", None,
    )  # fmt: skip
    yield line("/readyz meanwhile, p99", "–", f"{result.readiness_p99 * 1000:.0f} ms", None)
    yield line("the load itself was late by, p99", "–", f"{result.lateness_p99 * 1000:.1f} ms", None)


def _swaps(measured: swaps.Measured) -> Iterator[Verdict]:
    swapping, quiet = measured.latencies()
    row = f"{len(measured.published.at)} hot swaps"
    more = (swaps.p99(swapping) - swaps.p99(quiet)) * 1000
    failed = len(measured.problems)
    yield Verdict(
        row=row, measure=f"failed, of {measured.report.answers:,} requests", wanted="0",
        measured=str(failed), holds=failed == 0,
    )  # fmt: skip
    yield Verdict(
        row=row, measure="p99 with swaps − p99 without", wanted="≤ 10 ms",
        measured=f"{more:+.1f} ms ({swaps.milliseconds(swaps.p99(swapping))}, {swaps.milliseconds(swaps.p99(quiet))})",
        holds=more <= 10,
    )  # fmt: skip
    yield Verdict(
        row=row, measure="p50 with swaps, without", wanted="–",
        measured=f"{swaps.milliseconds(statistics.median(swapping))}, {swaps.milliseconds(statistics.median(quiet))}",
        holds=None,
    )  # fmt: skip


def _at_least(row: Row, measure: str, ratio: Ratio, least: float) -> Verdict:
    return Verdict(
        row=row.title, measure=measure, wanted=f"≥ {least:g}", measured=_range(ratio), holds=ratio.median >= least
    )  # fmt: skip


def _told(row: Row, measure: str, measured: str) -> Verdict:
    return Verdict(row=row.title, measure=measure, wanted="–", measured=measured, holds=None)


def _range(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.least:.2f}–{ratio.most:.2f})"


def _ratio(row: Row | None, one: str, other: str | None) -> Ratio | None:
    if row is None or other is None:
        return None
    mine, theirs = row.of(one), row.of(other)
    return mine.ratio(theirs) if mine is not None and theirs is not None else None


def _best(row: Row, names: Sequence[str]) -> str | None:
    measured = [result for name in names if (result := row.of(name)) is not None]
    return max(measured, key=lambda result: result.rate).contender if measured else None
