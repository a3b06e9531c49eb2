"""Showing the log of an API."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cortex.console import Console
from cortex.times import time_of_day
from cortex_core.errors import NotFound
from cortex_core.operator_api import LogRecord

if TYPE_CHECKING:
    from cortex.operator_client import OperatorClient

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which lines; see `OperatorClient.logs`."""

    tail: int | None = None
    since: float | None = None
    replica: str | None = None
    follow: bool = False


def seconds_ago(duration: str | None, *, clock: Callable[[], float] = time.time) -> float | None:
    """The moment a duration like `90s`, `10m` or `1h30m` ago, in seconds since the epoch.

    Raises:
        ValueError: it is not a duration.
    """
    if duration is None:
        return None
    parts = _DURATION.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise ValueError(f"--since: '{duration}' is not a duration; write it like 30s, 10m, 2h or 1h30m")
    return clock() - sum(float(number) * _SECONDS[unit] for number, unit in parts)


def show(client: OperatorClient, api: str, query: Query, *, console: Console) -> None:
    """Print an API's log.

    Raises:
        NotFound: the API is not deployed, or never had such a replica.
    """
    replicas = [each.id for each in client.api(api).replicas]
    if query.replica is not None and query.replica not in replicas:
        _check_past_replica(client, api, query.replica, replicas)
    prefixed = len(replicas) > 1 and query.replica is None
    first: str | None = None
    records = client.logs(api, tail=query.tail, since=query.since, replica=query.replica, follow=query.follow)
    for record in records:
        if console.output == "json":
            console.result(record.line)
            continue
        first = first or record.replica
        prefixed = prefixed or record.replica != first
        console.result(readable(record, prefixed=prefixed))
    if first is None and console.output == "pretty" and not query.follow:
        console.note(f"nothing was logged by {api}" + (" in that time" if query.since else ""))


def _check_past_replica(client: OperatorClient, api: str, replica: str, present: Sequence[str]) -> None:
    """Raise `NotFound` unless something is kept of a replica that is gone."""
    if next(iter(client.logs(api, tail=1, replica=replica)), None) is None:
        raise NotFound(
            f"{api} has no replica '{replica}', and no log of one",
            hint=f"there is: {', '.join(present) or 'none'}",
        )


def readable(record: LogRecord, *, prefixed: bool) -> str:
    """Time of day, message and exception text, each line with the replica in front if asked for."""
    lines = _text(record.line).splitlines() or [""]
    prefix = f"{record.replica} | " if prefixed else ""
    return "\n".join(prefix + line for line in lines)


def _text(line: str) -> str:
    """What people read of a line: what is not a JSON object is shown as it is."""
    fields = _decoded(line)
    if fields is None or "message" not in fields:
        return line
    parts = (fields["message"], fields.get("exc_info"))
    text = "\n".join(str(part) for part in parts if part)
    moment = fields.get("asctime")
    return f"{time_of_day(moment)} {text}" if isinstance(moment, str) else text


def _decoded(line: str) -> dict[str, Any] | None:
    import msgspec

    try:
        fields = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return None
    return fields if isinstance(fields, dict) else None
