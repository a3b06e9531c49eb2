"""Where memory groups can be made, told from files like those of the kernel."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cortex_operator.backends.memory_groups import MemoryGroup, MemoryGroups


class Kernel:
    """A folder that looks like /proc, with mounts below it."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.mount = root / "cgroup"
        self.mount.mkdir()
        (self.proc / "self").mkdir(parents=True)

    def mounted(self, kind: str, options: str, *, root: str = "/") -> None:
        line = f"30 20 0:1 {root} {self.mount} rw,relatime shared:1 - {kind} none {options}\n"
        (self.proc / "self" / "mountinfo").write_text(line)

    def placed(self, text: str, pid: str = "self") -> None:
        (self.proc / pid).mkdir(exist_ok=True)
        (self.proc / pid / "cgroup").write_text(text)


def test_without_control_groups_there_is_no_place(tmp_path: Path) -> None:
    assert MemoryGroups.detect("home", proc=tmp_path) is None


def test_a_place_whose_groups_have_no_limit_is_none(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.mounted("cgroup2", "rw")
    kernel.placed("0::/user.slice\n")
    (kernel.mount / "user.slice").mkdir()

    assert MemoryGroups.detect("home", proc=kernel.proc) is None
    assert list((kernel.mount / "user.slice").iterdir()) == []


def test_the_group_of_a_process_in_version_1(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.mounted("cgroup", "rw,memory")
    kernel.placed("4:memory:/a/cortex-home-iris-0\n3:cpu:/b\n", pid="7")
    folder = kernel.mount / "a" / "cortex-home-iris-0"
    folder.mkdir(parents=True)
    (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (folder / "memory.limit_in_bytes").write_text("1000\n")
    (folder / "memory.max_usage_in_bytes").write_text("999\n")

    group = MemoryGroup.of(7, proc=kernel.proc)

    assert group is not None
    assert (group.path, group.kills(), group.limit(), group.peak()) == (folder, 2, 1000, 999)


def test_the_group_of_a_process_in_version_2_of_a_container(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.mounted("cgroup2", "rw", root="/docker/ab")
    kernel.placed("0::/docker/ab/cortex-home-iris-0\n", pid="7")
    folder = kernel.mount / "cortex-home-iris-0"
    folder.mkdir()
    (folder / "memory.events").write_text("low 0\noom 3\noom_kill 1\n")
    (folder / "memory.max").write_text("max\n")

    group = MemoryGroup.of(7, proc=kernel.proc)

    assert group is not None
    assert (group.path, group.kills(), group.limit(), group.peak()) == (folder, 1, None, None)


def test_a_process_elsewhere_is_in_no_group_of_ours(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.mounted("cgroup2", "rw")
    kernel.placed("0::/user.slice\n", pid="7")

    assert MemoryGroup.of(7, proc=kernel.proc) is None
    assert MemoryGroup.of(8, proc=kernel.proc) is None


def test_removing_what_is_gone_is_quiet(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.mounted("cgroup2", "rw")
    kernel.placed("0::/cortex-home-iris-0\n", pid="7")
    group = MemoryGroup.of(7, proc=kernel.proc)
    assert group is not None

    asyncio.run(group.remove())
