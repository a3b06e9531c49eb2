"""A body that may be given up while a thread reads it."""

from __future__ import annotations

from threading import Event, Thread

from cortex_core.storage.s3_download import Source

WITHIN = 5.0


class Body:
    """Gives a byte once it is told to; notes when it was closed."""

    def __init__(self) -> None:
        self.being_read, self.more, self.closed = Event(), Event(), Event()

    def read(self, size: int) -> bytes:
        self.being_read.set()
        assert self.more.wait(WITHIN)
        assert not self.closed.is_set()
        return b"x" * size

    def close(self) -> None:
        self.closed.set()


def test_given_up_between_two_reads_it_is_closed_at_once() -> None:
    body = Body()
    body.more.set()
    source = Source(body)

    assert source.read(1) == b"x"
    assert not body.closed.is_set()
    source.give_up()
    assert body.closed.is_set()


def test_given_up_while_it_is_read_it_is_closed_when_that_ends() -> None:
    body = Body()
    source = Source(body)
    reader = Thread(target=source.read, args=(1,))
    reader.start()
    assert body.being_read.wait(WITHIN)

    source.give_up()
    assert not body.closed.is_set()
    body.more.set()
    assert body.closed.wait(WITHIN)
    reader.join(WITHIN)
