"""Faults of all kinds, drawn by a seed, for each request that goes through a `fault_proxy`."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter, deque

from support.fault_proxy import Fault

LYING_IN_A_ROW = 2
"""Listings; a third one without a version would mean that it is gone."""

_OF_ALL = (*("throttled", "failed", "reset", "cut", "dripping") * 4, "hung")
_OF_LISTINGS = (*_OF_ALL, *("stale", "lacking") * 8)
"""What hangs is weighed less: it stops all else until the client's patience ends."""

_LISTING = re.compile(r"^GET /[^ /]+\?list-type=2")
_KEY_COUNT = re.compile(rb"<KeyCount>\d+</KeyCount>")
_OBJECT = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)


class Storm:
    """While it rages, `part` of the requests meet a fault; a listing may also be an old one or lack objects.

    No more than `LYING_IN_A_ROW` listings lie, and no two in a row are old ones: what is listed twice is there.

    Attributes:
        met: how many requests met which fault.
    """

    def __init__(self, *, seed: int, part: float = 0.4) -> None:
        self.met: Counter[str] = Counter()
        self._part = part
        self._random = random.Random(seed)
        self._rages = True
        self._old: deque[bytes] = deque(maxlen=20)
        self._lies = 0
        self._lock = threading.Lock()

    def end(self) -> None:
        self._rages = False

    def choose(self, head: str) -> Fault:
        """For `FaultProxy.choose`."""
        with self._lock:
            is_listing = _LISTING.match(head) is not None
            if not self._rages or not head.startswith("GET"):
                return Fault()
            name = "none"
            if self._random.random() < self._part:
                name = self._random.choice(_OF_LISTINGS if is_listing else _OF_ALL)
            if (name == "stale" and self._lies) or (name == "lacking" and self._lies == LYING_IN_A_ROW):
                name = "none"
            if name != "none":
                self.met[name] += 1
            return self._fault(name, is_listing)

    def _fault(self, name: str, is_listing: bool) -> Fault:
        if name == "throttled":
            return Fault(answer=(503, "SlowDown"))
        if name == "failed":
            return Fault(answer=(500, "InternalError"))
        if name == "reset":
            return Fault(reset=True)
        if name == "hung":
            return Fault(hang=True)
        if name == "cut":
            return Fault(cut=self._random.randrange(1000))
        if name == "dripping":
            return Fault(drip=0.00005)
        if name == "lacking":
            return Fault(rewrite=self._lacking)
        if name == "stale":
            return Fault(rewrite=self._stale)
        return Fault(rewrite=self._remembered) if is_listing else Fault()

    def _remembered(self, body: bytes) -> bytes:
        self._lies = 0
        self._old.append(body)
        return body

    def _stale(self, body: bytes) -> bytes:
        self._lies += 1
        return self._random.choice(self._old) if self._old else body

    def _lacking(self, body: bytes) -> bytes:
        """The listing without some of its objects, or without its end."""
        self._lies += 1
        objects = _OBJECT.findall(body)
        if self._random.random() < 0.5:
            lost = objects[self._random.randrange(len(objects) + 1) :]
        else:
            lost = [each for each in objects if self._random.random() < 0.3]
        for each in lost:
            body = body.replace(each, b"")
        return _KEY_COUNT.sub(b"<KeyCount>%d</KeyCount>" % (len(objects) - len(lost)), body)
