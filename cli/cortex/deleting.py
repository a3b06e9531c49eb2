"""Deleting an API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cortex.console import Console
from cortex_core.errors import Conflict, CortexError
from cortex_core.operator_api import Message

if TYPE_CHECKING:
    from cortex.operator_client import OperatorClient

ASK_ABOVE = 2
"""With more live replicas than this, people are asked."""


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
        return client.delete(api, keep_cache=keep_cache)
