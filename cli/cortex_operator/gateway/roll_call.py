"""Whether all of Envoy's threads have heard what Envoy was told last.

Envoy says that it serves a document as soon as one of its threads knows it; those that answer requests hear of it a
moment later, each in its turn before whatever happens to it next. So a thread that answers us has heard of all that
Envoy had said before we asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from cortex_operator.gateway.short_path import short_path

_HERE = b"?"
"""Envoy gives back what it is sent."""


async def call_roll(folder: Path, socket: str, *, threads: int) -> None:
    """Return when each of Envoy's threads has answered.

    Args:
        folder: where the socket lies.
        socket: its file name. Envoy shares the connections there out among its threads evenly.
        threads: Envoy's.

    Raises:
        OSError, EOFError: Envoy died or is not there.
    """
    with contextlib.ExitStack() as ending:
        asked: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        with short_path(folder) as short:
            for _ in range(threads):
                reader, writer = await asyncio.open_unix_connection(f"{short}/{socket}")
                ending.callback(writer.close)
                asked.append((reader, writer))
                writer.write(_HERE)
        # As long as none ends, no thread is given a second one.
        for reader, _ in asked:
            await reader.readexactly(len(_HERE))
        # Until Envoy has ended them, they count, and the next call might leave a thread out.
        for reader, writer in asked:
            writer.write_eof()
            await reader.read()
