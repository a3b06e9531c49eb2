"""Deleting an API."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError  # noqa: A004  # Python 3.10 has two
from typing import TYPE_CHECKING

from cortex.console import Console
from cortex_core.errors import Conflict, CortexError
from cortex_core.operator_api import Message

if TYPE_CHECKING:
    from cortex.operator_client import OperatorClient

ASK_ABOVE = 2
"""With more live replicas than this, people are asked."""
_ASK_EVERY = 1.0
"""Seconds between two looks at what a deletion waits for."""


def delete(client: OperatorClient, api: str, *, force: bool, keep_cache: bool, console: Console) -> Message:
    """Stop an API and remove it; returns when it is gone.

    Args:
        force: do not ask.
        keep_cache: keep what is stored of it.

    Raises:
        NotFound: it is not deployed.
        Conflict: it needs a yes and nobody can be asked, or a traffic splitter uses it.
        CortexError: the answer was no.
    """
    counts = client.api(api).status.replica_counts
    live = counts.updated.ready + counts.stale.ready
    if live > ASK_ABOVE and not force:
        if not console.can_ask:
            raise Conflict(
                f"{api} has {live} live replicas", hint=f"to delete it: cortex delete {api} --force"
            )
        if not console.confirm(f"{api} has {live} live replicas; delete it?"):
            raise CortexError("nothing was deleted")
    with console.progress() as progress:
        progress.show(f"deleting {api}")
        deletion = _begun(lambda: client.delete(api, keep_cache=keep_cache))
        while True:
            try:
                return deletion.result(timeout=_ASK_EVERY)
            except TimeoutError:
                if deletion.done():  # just now
                    return deletion.result()
                progress.show(f"deleting {api}{_in_flight(client, api)}")


def _begun(call: Callable[[], Message]) -> Future[Message]:
    """The call in a thread that nobody waits for when the person interrupts."""
    future: Future[Message] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _in_flight(client: OperatorClient, api: str) -> str:
    """What its replicas still do, as far as it can be said."""
    try:
        count = sum(replica.in_flight for replica in client.api(api).replicas)
    except CortexError:  # it is gone, or the operator is busy
        count = 0
    return f", waiting for {count} request{'' if count == 1 else 's'} in flight" if count else ""
