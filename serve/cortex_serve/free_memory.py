"""How much memory this process and its children may still take: of the machine, and of its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

RESERVE = 256 * 2**20
_RESERVED_PART = 0.05


def free_memory(*, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can be taken now.

    Of the machine, `RESERVE` or a twentieth are left for others; of a control group with a limit, all of it can be
    had: there the kernel ends whoever takes more, and nobody else suffers. Memory that only caches files counts
    as free.

    Args:
        proc, cgroups: where the kernel shows processes and control groups, of version 1 or 2.

    Returns:
        None where the kernel does not say.
    """
    rests = [rest for group in _groups(proc, cgroups) if (rest := _rest_of_group(group)) is not None]
    with suppress(OSError, KeyError):
        machine = _numbers(proc / "meminfo", unit=1024)
        rests.append(machine["MemAvailable"] - max(RESERVE, int(machine["MemTotal"] * _RESERVED_PART)))
    return max(min(rests), 0) if rests else None


def own_memory(pid: int, *, proc: Path = Path("/proc")) -> int:
    """Bytes of a process that are not mapped from files; of what it shares with its parent, all of it.

    Returns:
        0 when it is gone.
    """
    with suppress(OSError):
        status = _numbers(proc / str(pid) / "status", unit=1024)
        return status.get("RssAnon", 0) + status.get("RssShmem", 0) + status.get("VmSwap", 0)
    return 0


def _groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """The memory control groups this process is in, the innermost first.

    In a container the path may be one of the host: then the container's own group is the outermost there is.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root = cgroups
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
        else:
            continue
        group = root / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _rest_of_group(group: Path) -> int | None:
    for limit, usage, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        with suppress(OSError, ValueError):  # not there, or the word "max": no limit
            most = int((group / limit).read_text())
            used = int((group / usage).read_text())
            held = _numbers(group / "memory.stat")
            return most - used + sum(held.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
    return None


def _numbers(file: Path, *, unit: int = 1) -> dict[str, int]:
    """The lines of a file that are a name and a number, perhaps with the unit kB behind it."""
    numbers = {}
    for line in file.read_text().splitlines():
        words = line.replace(":", " ", 1).split()
        if len(words) >= 2 and words[1].isdigit():
            numbers[words[0]] = int(words[1]) * (unit if words[2:] == ["kB"] else 1)
    return numbers
