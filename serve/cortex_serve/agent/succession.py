"""Who serves for a model, and who comes next: one model's state machine. Pure.

                       a better one is there
        ┌──▶ resting ───────────────────────▶ fetching ──────▶ trying ──────▶ unloading ──────▶ loading ──┐
        │   (`serving`;                     `next` comes     a throw-away    resource only:    every worker │
        │    or nothing                     to this machine  process loads   cell 0; workers   loads it;    │
        │    that could)                        │            it                drop the old    it is        │
        │                                       │              │                  │            resident     │
        │                                       └──────────────┴──────────────────┴───────────────┤         │
        │                `next` fails, or is not worth finishing: choose again                    │         │
        ├◀────────────────────────────────────────────────────────────────────────────────────────┘         │
        │                       all required workers hold it: the cell is switched                          │
        └◀──────────────────────────────────────────────────────────────────────────────────────────────────┘

The state follows from facts: which is `next`, whether its files are here, its trial over, the old one unloaded. So
nothing can be out of step, and an event is answered by `advance` and, when the snapshot is out, `switch`.

- What is chosen is the highest that does not fail, and never lower than what serves, unless that is gone upstream or
  cannot be loaded.
- What is on its way is finished although something better has come, as long as its version is upstream: else a model
  that is published faster than it loads would never get anywhere. Then the best is next; those between are skipped.
- Under `resource`, `previous` is what served before it was unloaded, and serves again if `next` fails.
- With caches nothing is loaded ahead of requests, unless a worker holds what serves: without fetching, trying and
  loading, the cell is simply switched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cortex_core.models.tree import Model
from cortex_core.spec.types import Struct
from cortex_serve.agent.editions import Edition
from cortex_serve.snapshot import ServedModel

UNLOAD_WITHIN = 30.0
"""Seconds that workers have to drop a version before the next one is loaded all the same."""

Step: TypeAlias = Literal["resting", "fetching", "trying", "unloading", "loading"]


class Rules(Struct):
    """What is the same for all models of an API.

    Attributes:
        unload_first: the old version leaves memory before the new one is loaded.
        on_demand: there are caches.
        trials: whether a version is tried in a process of its own, once workers serve.
    """

    unload_first: bool
    on_demand: bool
    trials: bool


@dataclass(kw_only=True, slots=True)
class Workers:
    """Who has to hold a version before it can serve.

    Attributes:
        number: how many there are to be.
        started: those that run.
        ready: those that answer requests.
        have_begun: everything served once. From then on, a worker that starts does not hold up the others.
    """

    number: int
    started: set[int] = field(default_factory=set)
    ready: set[int] = field(default_factory=set)
    have_begun: bool = False

    def all_hold(self, edition: Edition) -> bool:
        if not self.have_begun and len(self.started) < self.number:
            return False
        required = self.ready if self.have_begun and self.ready else self.started
        return bool(required) and required <= edition.held


@dataclass(kw_only=True, eq=False, slots=True)
class Succession:
    """One model.

    Attributes:
        upstream: what is there, by value.
        serving: what the cell says, or would say if it could be loaded.
        next: what is on its way there.
        previous: what served until it was unloaded for `next`.
        unload_until: when workers have had long enough to drop `previous`; None: they have dropped it.
        no_room: there is no place on disk for `next` beside what is in use: switch without loading it.
        cell_says: what was last written to the cell.
        editions: everything that is upstream, serves, or is on its way.
    """

    name: str
    cell: int
    rules: Rules
    model: Model | None = None
    upstream: Sequence[Edition] = ()
    serving: Edition | None = None
    next: Edition | None = None
    previous: Edition | None = None
    unload_until: float | None = None
    no_room: bool = False
    cell_says: int = 0
    editions: tuple[Edition, ...] = ()

    @property
    def step(self) -> Step:
        if self.next is None:
            return "resting"
        if self.next.directory is None:
            return "fetching"
        if self.next.trial != "over":
            return "trying"
        if self.unload_until is not None:
            return "unloading"
        return "loading"

    @property
    def is_busy(self) -> bool:
        return self.next is not None

    def leave(self) -> None:
        """The model is gone upstream."""
        self.model, self.upstream = None, ()
        self.serving = self.next = self.previous = None
        self.unload_until = None

    def advance(self, now: float, workers: Workers) -> Edition | None:
        """Go as far as is possible without anything else happening.

        Returns:
            What is to be tried.
        """
        self._give_up_what_is_lost(now)
        self._choose(now)
        to_try = self._try(workers)
        self._unload(now)
        self.editions = tuple(self._kept()) + tuple(
            each for each in self.upstream if each not in self._kept()
        )
        return to_try

    def can_switch(self, workers: Workers) -> bool:
        if self.next is None:
            return False
        return self._is_cold or (self.step == "loading" and workers.all_hold(self.next))

    def switch(self) -> Edition | None:
        """`next` serves from here on.

        Returns:
            What served until now.
        """
        before = self.serving or self.previous
        self.serving = self.next
        self.next = self.previous = self.unload_until = None
        self.no_room = False
        return before

    def served(self, now: float) -> ServedModel:
        """What the workers are told."""
        loading = self.step == "loading" and not self._is_cold
        residents = [self.next] if loading else []
        if not self.rules.on_demand:
            residents.append(self.serving)
        target = self.next if loading or self.serving is None else self.serving
        if self.unload_until is not None:
            target = None
        return ServedModel(
            name=self.name,
            cell=self.cell,
            target=target.serial if target is not None else 0,
            versions=tuple(
                edition.servable(resident=edition in residents, now=now) for edition in self._listed()
            ),
        )

    def is_upstream(self, edition: Edition) -> bool:
        """Whether its version is there, with this content or another one."""
        return any(each.name == edition.name for each in self.upstream)

    def _give_up_what_is_lost(self, now: float) -> None:
        if self.serving is not None and self.serving.is_lost(now):
            self.serving = None
        if self.previous is not None and self.previous.is_lost(now):
            self.previous = self.unload_until = None

    def _choose(self, now: float) -> None:
        goal = self._goal(now)
        if self.next is not None and not self._is_worth_finishing(self.next, goal, now):
            self.next = None
            self.no_room = False
        if self.next is None and goal is not self.serving:
            self.next = goal
        if self.next is self.previous:
            self.unload_until = None

    def _goal(self, now: float) -> Edition | None:
        """What should serve: see above."""
        base = self.serving or self.previous
        lowest = base.value if base is not None and self.is_upstream(base) else -1
        for edition in reversed(self.upstream):
            if edition.value < lowest:
                break
            if edition is base or not edition.fails(now):
                if self.previous is not None and edition.directory is None:
                    continue  # nothing serves at this moment: that is no time to fetch
                return base if base is not None and self._is_premature(edition, base, now) else edition
        return base

    def _is_premature(self, edition: Edition, base: Edition, now: float) -> bool:
        """Whether it would mean to go back from what serves, which is gone upstream, while its successor only
        cannot be had at this moment."""
        return edition.value < base.value and any(
            newer.value > base.value and newer.fails(now) and not newer.is_hopeless for newer in self.upstream
        )

    def _is_worth_finishing(self, edition: Edition, goal: Edition | None, now: float) -> bool:
        if edition is goal:
            return True
        if edition.fails(now) or goal is None or goal is self.serving:
            return False
        if edition.directory is None:
            return edition in self.upstream
        return self.is_upstream(edition) or edition is self.previous

    def _try(self, workers: Workers) -> Edition | None:
        edition = self.next
        if edition is None or edition.directory is None or edition.trial is not None or self._is_cold:
            return None
        if self.rules.trials and workers.have_begun and workers.ready and not edition.was_held:
            edition.trial = "running"
            return edition
        edition.trial = "over"
        return None

    def _unload(self, now: float) -> None:
        if not self.rules.unload_first or self.step not in ("unloading", "loading") or self._is_cold:
            return
        if self.serving is not None:
            self.previous, self.serving = self.serving, None
            self.unload_until = now + UNLOAD_WITHIN
        is_dropped = self.previous is None or not self.previous.in_memory
        if self.unload_until is not None and (is_dropped or now >= self.unload_until):
            self.unload_until = None

    @property
    def _is_cold(self) -> bool:
        """Whether the cell can be switched to what no worker holds: it is loaded when it is asked for."""
        if not self.rules.on_demand or self.previous is not None:
            return False
        return self.no_room or self.serving is None or not self.serving.in_memory

    def _kept(self) -> list[Edition]:
        return list(
            dict.fromkeys(each for each in (self.serving, self.previous, self.next) if each is not None)
        )

    def _listed(self) -> list[Edition]:
        """By value, the newer content last; under the values of what is kept, nothing else."""
        kept = self._kept()
        taken = {each.value for each in kept}
        others = [each for each in self.upstream if each.value not in taken]
        return sorted(kept + others, key=lambda each: (each.value, each.serial))
