"""HTTP/2 frames by hand, right and wrong, as a hostile gRPC client would send them."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4

MAX_FRAME = 16384


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def block(fields: Mapping[str, str]) -> bytes:
    """Header fields, each a literal without indexing; names and values below 127 bytes."""
    return b"".join(
        b"\0%c%s%c%s" % (len(name), name.encode(), len(value), value.encode())
        for name, value in fields.items()
    )


def call(path: str, stream: int = 1, content_type: str = "application/grpc", **more: str) -> bytes:
    """The frame that begins an RPC."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "x",
        "content-type": content_type,
        "te": "trailers",
        **more,
    }
    return frame(HEADERS, block(fields), flags=END_HEADERS, stream=stream)


def message(payload: bytes, *, declared: int | None = None, compressed: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return struct.pack(">BI", compressed, len(payload) if declared is None else declared) + payload


def request(path: str, body: bytes, stream: int = 1, **fields: str) -> bytes:
    """A whole RPC: preface, headers, one DATA frame (or several) with this body."""
    pieces = [body[start : start + MAX_FRAME] for start in range(0, len(body), MAX_FRAME)] or [b""]
    frames = [frame(DATA, piece, stream=stream) for piece in pieces[:-1]]
    frames.append(frame(DATA, pieces[-1], flags=END_STREAM, stream=stream))
    return PREFACE + frame(SETTINGS) + call(path, stream, **fields) + b"".join(frames)


def nested(field: int, depth: int) -> bytes:
    """A protobuf message in a message in a message…"""
    data = b""
    for _ in range(depth):
        length, size = len(data), b""
        while length > 0x7F:
            size += bytes([length & 0x7F | 0x80])
            length >>= 7
        data = bytes([field << 3 | 2]) + size + bytes([length]) + data
    return data


def garbage(seed: int, frames: int = 200) -> bytes:
    """Frames of random kinds, flags, streams and contents."""
    draw = random.Random(seed)
    return b"".join(
        frame(
            draw.randrange(12),
            draw.randbytes(draw.choice((0, 1, 4, 5, 6, 8, 9, 100, 1000))),
            flags=draw.randrange(256),
            stream=draw.choice((0, 1, 1, 2, 3, 5, 2**31 - 1)),
        )
        for _ in range(frames)
    )
