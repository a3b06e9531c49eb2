"""How much and for how long the gateway lets anybody."""

from __future__ import annotations

MAX_BODY = 64 * 1024**2
MAX_HEADERS = 100
MAX_HEADERS_KIB = 60
MAX_HEAP = 1024**3
MAX_CONNECTIONS = 10_000
CLIENT_BUFFER = 96 * 1024
REPLICA_BUFFER = CLIENT_BUFFER // 2
"""Bytes of one connection to a client, and to a replica, that Envoy holds in memory before it makes the sender wait.

A client that reads slowly costs about as much as both. Less than half here, or less of both, and large answers take more
of Envoy's time: it stops and starts reading them again and again.
"""

HEADERS_TIMEOUT = 10
BODY_TIMEOUT = 300
"""Seconds in which a whole request must have arrived."""
STALL_TIMEOUT = 60.0
"""Seconds for which a client may take nothing of what there is for it. The system sees that a client reads only when it
has read a good part of its receive buffer, so this also ends who reads less than about 1 KiB a second."""
IDLE_TIMEOUT = 300
UPSTREAM_IDLE_TIMEOUT = 30
"""Seconds; must be shorter than the replica's, so that it is always Envoy that closes an idle connection."""

CONNECT_TIMEOUT = 0.1
"""Seconds. A worker that may hang, or is not ready, has those who connect ignored, so that they soon try elsewhere."""

STREAMS = 1024
"""Requests at a time on one connection of HTTP/2. Clients of gRPC have one connection for all their calls, and those
beyond the limit wait in the client, unseen."""
STREAM_WINDOW = 1024**2
CONNECTION_WINDOW = 16 * 1024**2
"""Bytes of HTTP/2 that may be on their way: enough for a fast sender far away."""
PING_INTERVAL = 60
PING_TIMEOUT = 20
"""Seconds; how a client is noticed that is gone without a word, and with it the streams it left open."""

SHARED_CALLS = 1024
"""Calls of health and reflection at a time, of one API."""

RETRIES = 36
"""With at most `RETRY_BACKOFF_MAX` between them, jittered from zero, they span about 4.5 s, and where connections are
ignored about 8 s: a replica that is restarted within 3 s costs waiting requests time, not an error."""
RETRY_BACKOFF = 0.025
RETRY_BACKOFF_MAX = 0.25
RETRIED_MESSAGE = 4 * 1024**2
"""Bytes of a gRPC call up to which it can be sent again elsewhere when the first replica cannot be reached."""
