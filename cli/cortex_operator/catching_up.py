"""Whether new replicas serve older versions of models than those they replace, to which a deploy would take clients back.

Versions come out while replicas start. Those that serve follow them; a new replica got ready with what was there when it
began, and follows too, a moment later. What comes out in the very moment of the switch can still be live in one and not
yet in the other: each swaps by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cortex_core.models.versions import order
from cortex_core.operator_api import ModelStatus
from cortex_operator.model_reports import Report


def behind(serving: Sequence[Report], starting: Sequence[Report]) -> list[str]:
    """Names of models of which a starting replica still serves an older version than one that serves, sorted."""
    newest: dict[str, ModelStatus] = {}
    for row in (row for report in serving for row in report if row.state == "live"):
        known = newest.get(row.name)
        if known is None or order(row.version) > order(known.version):
            newest[row.name] = row
    return sorted({name for report in starting for name in _older(report, newest)})


def _older(report: Report, newest: Mapping[str, ModelStatus]) -> list[str]:
    rows = {(row.name, row.version): row for row in report}
    return [
        row.name
        for row in report
        if row.state == "live"
        and (wanted := newest.get(row.name)) is not None
        and order(row.version) < order(wanted.version)
        and _comes(row, wanted, rows.get((wanted.name, wanted.version)))
    ]


def _comes(live: ModelStatus, wanted: ModelStatus, own: ModelStatus | None) -> bool:
    """Whether a replica is going to serve what another one does, instead of what it serves now.

    Args:
        live: what it serves now.
        wanted: what the other one serves.
        own: that version, in the replica itself; None if it knows of none.
    """
    if own is not None:
        return own.state != "failed"
    if live.checked_at is None or wanted.loaded_at is None:
        return True
    return live.checked_at < wanted.loaded_at  # it has looked since, and it was not there any more
