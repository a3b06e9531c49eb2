"""Showing what is deployed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cortex import tables
from cortex.completions import remember_apis
from cortex.console import Console
from cortex.endpoints import endpoint_of
from cortex.environments import Environment
from cortex.session import Session
from cortex.tables import Deployed
from cortex_core.errors import CortexError, OperatorUnreachable
from cortex_core.operator_api import ApiStatus, HistoryEntry
from cortex_core.spec.as_written import as_written
from cortex_core.spec.types import models_of

HISTORY_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The APIs of one environment, or why they cannot be said."""

    env: str
    apis: tuple[ApiStatus, ...] = ()
    error: CortexError | None = None

    def as_json(self) -> dict[str, Any]:
        """One entry of `get -o json`."""
        return {
            "env_name": self.env,
            "apis": self.apis,
            "error": None if self.error is None else self.error.message,
        }


@dataclass(frozen=True, kw_only=True)
class Details:
    """One API with its releases, newest first."""

    env: str
    api: ApiStatus
    history: tuple[HistoryEntry, ...]


def show(session: Session, *, api: str | None, env: str | None, watch: bool, verbose: bool) -> None:
    """Print what is deployed, once or again and again.

    Args:
        api: one API; None lists all.
        env: its environment; None is the default one, or all when listing.
    """

    def draw(console: Console) -> None:
        if api is None:
            _show_listings(console, listings(session, env=env), with_env=env is None, verbose=verbose)
        else:
            _show_details(console, details(session, api, env=env), with_env=env is None, verbose=verbose)

    if watch:
        title = " ".join(["cortex get", *([api] if api else []), *(["--env", env] if env else [])])
        session.console.watch(title, draw)
    else:
        draw(session.console)


def listings(session: Session, *, env: str | None) -> list[Listing]:
    """What each environment runs; without `env`, one that cannot be reached is part of the answer.

    Raises:
        CortexError: the one environment asked for, or the only one there is, cannot answer.
    """
    chosen = session.environments.all() if env is None else [session.environments.choose(env)]
    if len(chosen) == 1:
        return [_listing(session, chosen[0])]
    return [_listing_or_error(session, each) for each in chosen]


def details(session: Session, name: str, *, env: str | None) -> Details:
    """One API.

    Raises:
        NotFound: it is not deployed.
    """
    environment = session.environment(env)
    with session.operator(environment) as client:
        api = client.api(name)
        history = client.history(name) if session.console.output == "pretty" else []
    return Details(env=environment.name, api=api, history=tuple(history))


def _listing(session: Session, environment: Environment) -> Listing:
    with session.operator(environment) as client:
        apis = client.apis()
    remember_apis(session.environments.folder, environment.name, (api.spec.name for api in apis))
    return Listing(env=environment.name, apis=tuple(apis))


def _listing_or_error(session: Session, environment: Environment) -> Listing:
    try:
        return _listing(session, environment)
    except CortexError as error:
        return Listing(env=environment.name, error=error)


def _show_listings(console: Console, found: Sequence[Listing], *, with_env: bool, verbose: bool) -> None:
    if console.output == "json":
        console.result_json([each.as_json() for each in found] if with_env else found[0].apis)
        return
    deployed = [Deployed(env=listing.env, api=api) for listing in found for api in listing.apis]
    if not deployed:
        console.result("no APIs are deployed; deploy one with: cortex deploy")
    _show_tables(console, tables.apis(deployed, now=time.time(), with_env=with_env))
    if verbose:
        for each in deployed:
            _show_configuration(console, each.api)
    for listing in found:
        if listing.error is not None:
            console.warning(f"environment '{listing.env}': {listing.error.message}")
    if found and all(listing.error is not None for listing in found):
        raise OperatorUnreachable("no environment could be asked")


def _show_details(console: Console, found: Details, *, with_env: bool, verbose: bool) -> None:
    if console.output == "json":
        console.result_json([found.api])
        return
    api, now = found.api, time.time()
    _show_tables(console, tables.apis([Deployed(env=found.env, api=api)], now=now, with_env=with_env))
    if api.status.message:
        console.result(f"\nlast failure: {api.status.message}")
    console.result(f"\nendpoint: {endpoint_of(api)}")
    if api.replicas:
        console.result("")
        console.table(*tables.replicas(api.replicas, now=now))
    if api.models:
        console.result("")
        console.table(*tables.models(api.models, now=now))
        if len(api.models) > tables.MODELS_SHOWN:
            console.result(f"… and {len(api.models) - tables.MODELS_SHOWN:,} more (-o json shows all)")
    elif models_of(api.spec) is not None:
        console.result(f"\nno models are known; cortex logs {api.spec.name} may say why")
    if found.history:
        console.result("")
        console.table(*tables.history(found.history[:HISTORY_SHOWN], now=now))
    if verbose:
        _show_configuration(console, api)


def _show_tables(console: Console, shown: Any) -> None:
    for number, table in enumerate(shown):
        if number:
            console.result("")
        console.table(*table)


def _show_configuration(console: Console, api: ApiStatus) -> None:
    import yaml

    console.result(f"\nconfiguration of {api.spec.name}:\n")
    text = yaml.safe_dump(as_written(api.spec), sort_keys=False, allow_unicode=True)
    console.result("\n".join(f"  {line}" for line in text.splitlines()))
