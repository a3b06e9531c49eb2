"""What processes hold: descriptors, threads and memory, before and after something that must cost none of them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Held:
    """Attributes: memory: bytes that are resident."""

    name: str
    descriptors: int
    threads: int
    memory: int


class Resources:
    """Some processes that live as long as this."""

    def __init__(self, processes: Iterable[psutil.Process]) -> None:
        self._processes = {process: _name(process) for process in processes}

    def now(self) -> list[Held]:
        return [
            Held(
                name=name,
                descriptors=process.num_fds(),
                threads=process.num_threads(),
                memory=process.memory_info().rss,
            )
            for process, name in self._processes.items()
        ]

    @staticmethod
    def most(measured: Iterable[list[Held]]) -> list[Held]:
        """The most of everything that each held: what comes and goes is no growth."""
        return [
            Held(
                name=moments[0].name,
                descriptors=max(held.descriptors for held in moments),
                threads=max(held.threads for held in moments),
                memory=max(held.memory for held in moments),
            )
            for moments in zip(*measured, strict=True)
        ]

    def grown(
        self, before: list[Held], *, memory: int, descriptors: int = 0, threads: int = 0, within: float = 10
    ) -> list[str]:
        """What is still more than before by more than is allowed, after so many seconds to let go of it.

        Args:
            memory: bytes by which each may grow.
            descriptors, threads: by which each may grow.
            within: seconds.
        """
        deadline = time.monotonic() + within
        while True:
            grown = [
                f"{was.name}: {was} → {held}"
                for was, held in zip(before, self.now(), strict=True)
                if held.descriptors > was.descriptors + descriptors
                or held.threads > was.threads + threads
                or held.memory > was.memory + memory
            ]
            if not grown or time.monotonic() > deadline:
                return grown
            time.sleep(0.1)


def _name(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    roles = ("cortex_serve.worker", "cortex_serve", "cortex_operator", "envoy")
    return f"{next((role for role in roles if role in words), 'process')} {process.pid}"
