"""How much and for how long the gateway lets anybody."""

from __future__ import annotations

MAX_BODY = 64 * 1024**2
MAX_HEADERS = 100
MAX_HEADERS_KIB = 60
MAX_HEAP = 1024**3
MAX_CONNECTIONS = 10_000
BUFFER = 256 * 1024
"""Bytes of one connection that Envoy holds in memory before it makes the sender wait."""

HEADERS_TIMEOUT = 10
BODY_TIMEOUT = 300
"""Seconds in which a whole request must have arrived."""
IDLE_TIMEOUT = 300
UPSTREAM_IDLE_TIMEOUT = 30
"""Seconds; must be shorter than the replica's, so that it is always Envoy that closes an idle connection."""

STREAMS = 1024
"""Requests at a time on one connection of HTTP/2. Clients of gRPC have one connection for all their calls, and those
beyond the limit wait in the client, unseen."""
STREAM_WINDOW = 1024**2
CONNECTION_WINDOW = 16 * 1024**2
"""Bytes of HTTP/2 that may be on their way: enough for a fast sender far away."""
PING_INTERVAL = 60
PING_TIMEOUT = 20
"""Seconds; how a client is noticed that is gone without a word, and with it the streams it left open."""

RETRIES = 36
"""With at most `RETRY_BACKOFF_MAX` between them, jittered from zero, they span about 4.5 s: a replica that is
restarted within 3 s costs waiting requests time, not an error."""
RETRY_BACKOFF = 0.025
RETRY_BACKOFF_MAX = 0.25
RETRIED_MESSAGE = 4 * 1024**2
"""Bytes of a gRPC call up to which it can be sent again elsewhere when the first replica cannot be reached."""
