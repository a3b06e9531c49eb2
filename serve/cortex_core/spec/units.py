"""Durations in Go's notation and quantities in Kubernetes'.

Nothing here may import YAML or a validator: workers load this module.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal

_NANOSECONDS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3,
    "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"[+-]?(?:{_PART.pattern})+")
_QUANTITY = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(?:([eE][+-]?[0-9]{1,2})|([numkMGTPE]|[KMGTPE]i)?)")
_FACTORS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    **{suffix: Decimal(1000) ** (power + 1) for power, suffix in enumerate("kMGTPE")},
    **{f"{suffix}i": Decimal(1024) ** (power + 1) for power, suffix in enumerate("KMGTPE")},
}  # fmt: skip
_EXACT = Context(prec=100)


def parse_duration(text: str) -> int:
    """Read `10s`, `1m30s`, `0.2s` or `200ms`.

    Returns:
        Nanoseconds; parts of a nanosecond are dropped.

    Raises:
        ValueError: not a duration; a bare number has no unit and is none.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"not a duration: {text!r}")
    total = sum(
        (
            _EXACT.multiply(Decimal(number), Decimal(_NANOSECONDS[unit]))
            for number, unit in _PART.findall(text)
        ),
        Decimal(0),
    )
    return -int(total) if text.startswith("-") else int(total)


def duration_text(nanoseconds: int) -> str:
    """As people write it: `1m30s`, `200ms`.

    Args:
        nanoseconds: at least 0.
    """
    text = ""
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, nanoseconds = divmod(nanoseconds, _NANOSECONDS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_quantity(text: str) -> Decimal:
    """Read `1`, `0.5`, `200m`, `500Mi` or `2G`.

    Returns:
        The amount in the base unit: cores or bytes.

    Raises:
        ValueError: not a quantity.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"not a quantity: {text!r}")
    number, exponent, suffix = match.groups()
    return _EXACT.multiply(_EXACT.create_decimal(number + (exponent or "")), _FACTORS[suffix or ""])


def normalized_quantity(text: str) -> str:
    """The same text for equal amounts: `1` and `1000m` are both `1`.

    Raises:
        ValueError: not a quantity.
    """
    return format(parse_quantity(text).normalize(_EXACT), "f")
