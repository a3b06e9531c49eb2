"""Logs of several replicas, read as one while they are written, rotated and torn."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from cortex_operator.backends import log_reader
from cortex_operator.backends.protocol import LogLine, LogQuery

START = 1_700_000_000.0


def stamp(second: float) -> str:
    moment = datetime.fromtimestamp(START + second, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def record(second: float, message: str, level: str = "INFO", **extra: str) -> str:
    return json.dumps({"asctime": stamp(second), "levelname": level, "message": message, **extra}) + "\n"


class Writer:
    """A replica's log."""

    def __init__(self, folder: Path, replica: str) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / f"{replica}.jsonl"

    def write(self, *lines: str) -> Writer:
        with self.path.open("a") as file:
            file.write("".join(lines))
        return self

    def rotate(self, keep: int = 9) -> Writer:
        for number in range(keep, 0, -1):
            older = Path(f"{self.path}.{number}")
            if older.exists() and number == keep:
                older.unlink()
            elif older.exists():
                older.rename(f"{self.path}.{number + 1}")
        self.path.rename(f"{self.path}.1")
        return self


def messages(lines: list[LogLine]) -> list[str]:
    return [json.loads(line.text)["message"] for line in lines]


def read(folder: Path, **query: object) -> list[LogLine]:
    async def collect() -> list[LogLine]:
        return [line async for line in log_reader.read(folder, LogQuery(**query))]  # type: ignore[arg-type]

    return asyncio.run(asyncio.wait_for(collect(), 20))


def follow(
    folder: Path, act: Callable[[Callable[[int], Awaitable[list[str]]]], Awaitable[None]], **query: object
) -> None:
    """Follow a log while `act` writes; it is given a function that returns the next so many messages."""

    async def run() -> None:
        lines = log_reader.read(folder, LogQuery(follow=True, **query))  # type: ignore[arg-type]

        async def take(count: int) -> list[str]:
            return messages([await asyncio.wait_for(anext(lines), 10) for _ in range(count)])

        try:
            await act(take)
        finally:
            await lines.aclose()  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(run(), 60))


Take = Callable[[int], Awaitable[list[str]]]


def test_replicas_are_merged_by_time(tmp_path: Path) -> None:
    Writer(tmp_path, "iris-a-0").write(record(1, "a"), record(3, "c"))
    Writer(tmp_path, "iris-a-1").write(record(2, "b"), record(4, "d"))

    lines = read(tmp_path)

    assert messages(lines) == ["a", "b", "c", "d"]
    assert [line.replica for line in lines] == ["iris-a-0", "iris-a-1"] * 2


def test_rotated_files_come_first(tmp_path: Path) -> None:
    log = Writer(tmp_path, "iris-a-0")
    for second in range(5):
        log.write(record(second, str(second))).rotate()
    log.write(record(9, "9"))

    assert messages(read(tmp_path)) == ["0", "1", "2", "3", "4", "9"]


@pytest.mark.parametrize("tail", [0, 1, 2, 3, 4, 5, 6, 7, 100])
def test_tail_over_replicas_and_rotated_files(tmp_path: Path, tail: int) -> None:
    log = Writer(tmp_path, "iris-a-0").write(record(1, "1"), record(2, "2")).rotate()
    log.write(record(4, "4")).rotate().write(record(6, "6"))
    Writer(tmp_path, "iris-a-1").write(record(3, "3"), record(5, "5"))

    assert messages(read(tmp_path, tail=tail)) == [str(n) for n in range(1, 7)][max(0, 6 - tail) :]


def test_tail_of_a_long_log_with_long_lines(tmp_path: Path) -> None:
    long = "x" * 100_000
    Writer(tmp_path, "iris-a-0").write(*(record(n, f"{n} {long}") for n in range(30)))

    assert [text.split()[0] for text in messages(read(tmp_path, tail=12))] == [str(n) for n in range(18, 30)]


def test_since_and_one_replica(tmp_path: Path) -> None:
    Writer(tmp_path, "iris-a-0").write(*(record(n, f"a{n}") for n in range(4)))
    Writer(tmp_path, "iris-a-1").write(*(record(n, f"b{n}") for n in range(4)))

    assert messages(read(tmp_path, since=START + 2)) == ["a2", "b2", "a3", "b3"]
    assert messages(read(tmp_path, since=START + 2, tail=1)) == ["b3"]
    assert messages(read(tmp_path, since=START + 2, replica="iris-a-1")) == ["b2", "b3"]
    assert read(tmp_path, replica="../iris-a-1") == []


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "nothing", tail=5) == []


def test_what_is_no_json_object_is_wrapped(tmp_path: Path) -> None:
    Writer(tmp_path, "iris-a-0").write(record(1, "a"), "Segmentation fault\n", "[1]\n", "\n", record(2, "b"))
    with (tmp_path / "iris-a-0.jsonl").open("ab") as file:
        file.write(b'{"message": "\xff\xfe\n')

    lines = read(tmp_path)

    assert messages(lines) == ["a", "Segmentation fault", "[1]", "b", '{"message": "\ufffd\ufffd']
    assert json.loads(lines[1].text)["asctime"] == stamp(1)


def test_a_torn_last_line_is_not_shown(tmp_path: Path) -> None:
    Writer(tmp_path, "iris-a-0").write(record(1, "a"), record(2, "b")[:10])

    assert messages(read(tmp_path)) == ["a"]


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    Writer(tmp_path, "iris-a-0").write("x" * (log_reader.LINE_LIMIT + 10_000_000), "\n", record(1, "b"))

    texts = messages(read(tmp_path))

    assert texts[-1] == "b"
    assert sum(map(len, texts[:-1])) == log_reader.LINE_LIMIT + 10_000_000
    assert max(map(len, texts)) < log_reader.LINE_LIMIT + 1_000_000


def test_follow_starts_with_the_tail_and_goes_on(tmp_path: Path) -> None:
    log = Writer(tmp_path, "iris-a-0").write(record(1, "a"), record(2, "b"))

    async def act(take: Take) -> None:
        assert await take(1) == ["b"]
        log.write(record(3, "c"))
        assert await take(1) == ["c"]
        log.write(record(4, "d")[:5])
        log.write(record(4, "d")[5:], record(5, "e"))
        assert await take(2) == ["d", "e"]

    follow(tmp_path, act, tail=1)


def test_follow_over_rotation(tmp_path: Path) -> None:
    log = Writer(tmp_path, "iris-a-0").write(record(0, "0"))

    async def act(take: Take) -> None:
        assert await take(1) == ["0"]
        log.write(record(1, "1")).rotate().write(record(2, "2")).rotate().write(record(3, "3"))
        assert await take(3) == ["1", "2", "3"]
        log.rotate().write(record(4, "4"))
        assert await take(1) == ["4"]

    follow(tmp_path, act)


def test_follow_when_more_was_rotated_away_than_is_kept(tmp_path: Path) -> None:
    log = Writer(tmp_path, "iris-a-0").write(record(0, "0"))

    async def act(take: Take) -> None:
        assert await take(1) == ["0"]
        for second in range(1, 6):
            log.rotate(keep=2).write(record(second, str(second)))
        assert await take(3) == ["3", "4", "5"]

    follow(tmp_path, act)


def test_follow_picks_up_new_replicas_and_new_folders(tmp_path: Path) -> None:
    folder = tmp_path / "iris"

    async def act(take: Take) -> None:
        Writer(folder, "iris-a-0").write(record(1, "a"))
        assert await take(1) == ["a"]
        Writer(folder, "iris-b-0").write(record(2, "b"))
        assert await take(1) == ["b"]

    async def later(take: Take) -> None:
        await asyncio.gather(act(take))

    follow(folder, later)


def test_follow_survives_truncation(tmp_path: Path) -> None:
    log = Writer(tmp_path, "iris-a-0").write(record(1, "a"), record(2, "b"))

    async def act(take: Take) -> None:
        assert await take(2) == ["a", "b"]
        os.truncate(log.path, 0)
        log.write(record(3, "c"))
        assert await take(1) == ["c"]

    follow(tmp_path, act)


def test_nothing_is_lost_in_a_flood_with_rotation(tmp_path: Path) -> None:
    log = Writer(tmp_path, "iris-a-0").write(record(0, "0"))

    async def flood(take: Take) -> None:
        seen = await take(1)
        for round_ in range(20):
            log.write(*(record(n, str(n)) for n in range(1 + round_ * 200, 201 + round_ * 200))).rotate(
                keep=50
            )
            log.write("")
            seen += await take(200 if round_ % 3 == 0 else 100)
        seen += await take(4001 - len(seen))
        assert seen == [str(n) for n in range(4001)]

    follow(tmp_path, flood)


def test_the_last_error_on_one_line(tmp_path: Path) -> None:
    Writer(tmp_path, "iris-a-0").write(
        record(1, "old", "ERROR"),
        record(5, "the handler failed", "ERROR", exc_info="Traceback:\n  File x\nValueError: bad weights"),
        record(6, "worker 1 died", "ERROR"),
        record(7, "bye"),
    )

    assert (
        log_reader.last_error(tmp_path, "iris-a-0", START + 2)
        == "the handler failed: ValueError: bad weights"
    )
    assert log_reader.last_error(tmp_path, "iris-a-0", START + 6) == "worker 1 died"
    assert log_reader.last_error(tmp_path, "iris-a-0", START + 7) is None
    assert log_reader.last_error(tmp_path, "iris-a-1", START) is None


def test_pruning_keeps_the_newest_of_the_gone_and_all_that_live(tmp_path: Path) -> None:
    for number in range(6):
        log = Writer(tmp_path, f"iris-{number}-0").write(record(1, "a")).rotate().write(record(2, "b"))
        os.utime(log.path, (START + number, START + number))

    log_reader.prune(tmp_path, {"iris-0-0"}, keep=2)

    left = {path.name.partition(".")[0] for path in tmp_path.iterdir()}
    assert left == {"iris-0-0", "iris-4-0", "iris-5-0"}
    assert len(list(tmp_path.iterdir())) == 6
