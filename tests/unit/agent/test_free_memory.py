from __future__ import annotations

from pathlib import Path

import pytest

from cortex_serve.free_memory import free_memory, own_memory

GIB = 2**30
MIB = 2**20


class Kernel:
    """What the kernel would show."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.cgroups = folder / "cgroup"

    def shows(self, path: str, text: str) -> None:
        file = self.proc.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def has(self, *, total: int, available: int) -> None:
        meminfo = f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\nHugePages_Total: 0\n"
        self.shows("proc/meminfo", meminfo)

    def is_in(self, text: str) -> None:
        self.shows("proc/self/cgroup", text)

    def free(self) -> int | None:
        return free_memory(proc=self.proc, cgroups=self.cgroups)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_a_part_of_the_machine_is_left_for_others(kernel: Kernel) -> None:
    kernel.has(total=4 * GIB, available=2 * GIB)
    assert kernel.free() == 2 * GIB - 256 * MIB
    kernel.has(total=100 * GIB, available=50 * GIB)
    assert kernel.free() == 45 * GIB


def test_a_full_machine_has_nothing(kernel: Kernel) -> None:
    kernel.has(total=4 * GIB, available=100 * MIB)
    assert kernel.free() == 0


def test_the_limit_of_a_group(kernel: Kernel) -> None:
    kernel.has(total=100 * GIB, available=50 * GIB)
    kernel.is_in("0::/pods/replica\n")
    kernel.shows("cgroup/pods/replica/memory.max", f"{3 * GIB}\n")
    kernel.shows("cgroup/pods/replica/memory.current", f"{2 * GIB}\n")
    kernel.shows(
        "cgroup/pods/replica/memory.stat", f"anon {GIB}\nfile {GIB}\nactive_file {MIB}\ninactive_file {GIB}\n"
    )
    assert kernel.free() == 2 * GIB + MIB


def test_the_limit_of_a_group_around_it(kernel: Kernel) -> None:
    kernel.has(total=100 * GIB, available=50 * GIB)
    kernel.is_in("0::/pods/replica\n")
    for group, limit in (("pods/replica", "max"), ("pods", str(GIB))):
        kernel.shows(f"cgroup/{group}/memory.max", f"{limit}\n")
        kernel.shows(f"cgroup/{group}/memory.current", f"{256 * MIB}\n")
        kernel.shows(f"cgroup/{group}/memory.stat", "inactive_file 0\n")
    assert kernel.free() == 768 * MIB


def test_a_group_of_version_1_seen_from_inside_a_container(kernel: Kernel) -> None:
    kernel.has(total=100 * GIB, available=50 * GIB)
    kernel.is_in("8:cpu:/docker/123\n4:memory:/docker/123\n0::/\n")
    kernel.shows("cgroup/memory/memory.limit_in_bytes", f"{2 * GIB}\n")
    kernel.shows("cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    kernel.shows(
        "cgroup/memory/memory.stat", f"inactive_file 5\ntotal_inactive_file {MIB}\ntotal_active_file 0\n"
    )
    assert kernel.free() == GIB + MIB


def test_a_machine_with_less_than_its_group_may_take(kernel: Kernel) -> None:
    kernel.has(total=4 * GIB, available=GIB)
    kernel.is_in("0::/\n")
    kernel.shows("cgroup/memory.max", f"{3 * GIB}\n")
    kernel.shows("cgroup/memory.current", "0\n")
    kernel.shows("cgroup/memory.stat", "")
    assert kernel.free() == 768 * MIB


def test_a_kernel_that_says_nothing(kernel: Kernel) -> None:
    assert kernel.free() is None


def test_mapped_files_are_not_a_process_s_own(kernel: Kernel) -> None:
    kernel.shows(
        "proc/7/status",
        "Name:\tpython\nVmRSS:\t 9 kB\nRssAnon:\t 3 kB\nRssFile:\t 5 kB\nRssShmem:\t 1 kB\nVmSwap:\t 2 kB\n",
    )
    assert own_memory(7, proc=kernel.proc) == 6 * 1024
    assert own_memory(8, proc=kernel.proc) == 0
