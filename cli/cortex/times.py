"""Times as people read them."""

from __future__ import annotations

from datetime import datetime


def age(seconds: float) -> str:
    """How long ago, in its two largest units: `45s`, `3m20s`, `5h10m`, `4d2h`."""
    whole = max(0, int(seconds))
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days}d{hours_left}h"
    if hours:
        return f"{hours}h{minutes_left}m"
    if minutes:
        return f"{minutes}m{seconds_left}s"
    return f"{seconds_left}s"


def latency(milliseconds: float | None) -> str:
    """About how long: whole ms below one second, else s with one decimal; `-` when unknown."""
    if milliseconds is None:
        return "-"
    if milliseconds < 1:
        return "<1 ms"
    if round(milliseconds) < 1000:
        return f"~{milliseconds:.0f} ms"
    return f"~{milliseconds / 1000:.1f} s"


def time_of_day(moment: str) -> str:
    """A moment like `2026-03-01T14:05:09.123Z` on this machine's clock: `15:05:09.123`."""
    try:
        parsed = datetime.fromisoformat(moment.replace("Z", "+00:00"))  # "Z" is read from Python 3.11 on
    except ValueError:
        return moment
    return parsed.astimezone().isoformat(timespec="milliseconds")[11:23]


def local_time(seconds_since_epoch: float) -> str:
    """A moment on this machine's clock, e.g. `2026-03-01 14:05:09`."""
    return datetime.fromtimestamp(seconds_since_epoch).astimezone().strftime("%Y-%m-%d %H:%M:%S")
