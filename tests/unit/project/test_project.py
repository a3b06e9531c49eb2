from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cortex_core.archive import MIB
from cortex_core.errors import InvalidProject
from cortex_core.project import Project, scan


def write(root: Path, *paths: str, content: bytes = b"x") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def sized(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def ignored(project: Project) -> dict[str, str]:
    return {each.path: each.reason for each in project.ignored}


def reasons(folder: Path) -> list[str]:
    with pytest.raises(InvalidProject) as caught:
        scan(folder, "cortex.yaml")
    first, *rest = caught.value.message.splitlines()
    assert first == f"{folder} cannot be deployed as it is:"
    assert caught.value.hint is not None
    return [line.strip() for line in rest]


def test_everything_is_shipped_but_the_api_file(tmp_path: Path) -> None:
    write(tmp_path, "cortex.yaml", "other.yaml", "handler.py", "a/b/c.txt", "a/cortex.yaml", "zoe/é.txt")
    project = scan(tmp_path, "cortex.yaml")
    assert project.files == ("a/b/c.txt", "a/cortex.yaml", "handler.py", "other.yaml", "zoe/é.txt")
    assert project.total_bytes == 5
    assert project.read("a/b/c.txt") == b"x"
    assert ignored(project) == {"cortex.yaml": "the API file"}


@pytest.mark.parametrize("name", ["api.yaml", "./api.yaml"])
def test_another_name_of_the_api_file(tmp_path: Path, name: str) -> None:
    write(tmp_path, "cortex.yaml", "api.yaml")
    assert scan(tmp_path, name).files == ("cortex.yaml",)


@pytest.mark.parametrize(
    ("path", "left_out", "reason"),
    [
        (".hidden", ".hidden", "hidden"),
        (".git/config", ".git/", "hidden"),
        ("a/.hidden", "a/.hidden", "hidden"),
        ("a/.env", "a/.env", "hidden"),
        (".env/bin/x", ".env/", "hidden"),
        ("__pycache__/a.txt", "__pycache__/", "compiled Python"),
        ("a/__pycache__/a.txt", "a/__pycache__/", "compiled Python"),
        ("a.pyc", "a.pyc", "compiled Python"),
        ("a/b.pyo", "a/b.pyo", "compiled Python"),
        ("a/b.pyd", "a/b.pyd", "compiled Python"),
        ("cortex-debug-1.json", "cortex-debug-1.json", "named cortex-debug-"),
        ("a/cortex-debug-x/y", "a/cortex-debug-x/", "named cortex-debug-"),
        ("venv/pyvenv.cfg", "venv/", "a virtual environment"),
        ("a/my env/pyvenv.cfg", "a/my env/", "a virtual environment"),
        ("web/node_modules/x/y.js", "web/node_modules/", "packages of Node.js"),
    ],
)
def test_what_is_left_out_and_why(tmp_path: Path, path: str, left_out: str, reason: str) -> None:
    write(tmp_path, path, "handler.py")
    project = scan(tmp_path, "cortex.yaml")
    assert project.files == ("handler.py",)
    assert ignored(project) == {left_out: reason}


def test_the_roots_dotenv_is_shipped(tmp_path: Path) -> None:
    write(tmp_path, ".env", "a/.env")
    assert scan(tmp_path, "cortex.yaml").files == (".env",)


@pytest.mark.parametrize(
    ("patterns", "shipped"),
    [
        ("", ["a.log", "data/deep/x.csv", "data/x.csv", "keep.log", "node_modules/m.js", "v/pyvenv.cfg"]),
        ("*.log", ["data/deep/x.csv", "data/x.csv"]),
        ("*.log\n!keep.log", ["data/deep/x.csv", "data/x.csv", "keep.log"]),
        ("/data", ["a.log", "keep.log"]),
        ("data/\n!data/x.csv", ["a.log", "keep.log"]),
        ("data/*\n!data/x.csv", ["a.log", "data/x.csv", "keep.log"]),
        ("data/**\n!data/deep/", ["a.log", "keep.log"]),
        ("**/x.csv", ["a.log", "keep.log"]),
        ("deep", ["a.log", "data/x.csv", "keep.log"]),
        ("# a comment\n\n  \n", ["a.log", "data/deep/x.csv", "data/x.csv", "keep.log"]),
        ("a.log\r\n", ["data/deep/x.csv", "data/x.csv", "keep.log"]),
        ("!node_modules/", ["a.log", "data/deep/x.csv", "data/x.csv", "keep.log", "node_modules/m.js"]),
        ("!v", ["a.log", "data/deep/x.csv", "data/x.csv", "keep.log", "v/pyvenv.cfg"]),
        ("!.hidden", ["a.log", "data/deep/x.csv", "data/x.csv", "keep.log"]),
        (".env", ["a.log", "data/deep/x.csv", "data/x.csv", "keep.log"]),
        ("*", []),
    ],
)
def test_cortexignore(tmp_path: Path, patterns: str, shipped: list[str]) -> None:
    write(tmp_path, "a.log", "keep.log", "data/x.csv", "data/deep/x.csv", ".hidden")
    write(tmp_path, "node_modules/m.js", "v/pyvenv.cfg")
    (tmp_path / ".cortexignore").write_text(patterns)
    if not patterns:
        shipped = [path for path in shipped if not path.startswith(("node_modules", "v/"))]
    assert list(scan(tmp_path, "cortex.yaml").files) == shipped


def test_dotenv_can_be_left_out_by_name(tmp_path: Path) -> None:
    write(tmp_path, ".env", "handler.py")
    (tmp_path / ".cortexignore").write_text(".env\n")
    project = scan(tmp_path, "cortex.yaml")
    assert project.files == ("handler.py",)
    assert ignored(project)[".env"] == "listed in .cortexignore"


def test_a_cortexignore_in_a_folder_means_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a/x.txt")
    (tmp_path / "a" / ".cortexignore").write_text("*")
    assert scan(tmp_path, "cortex.yaml").files == ("a/x.txt",)


@pytest.mark.parametrize("content", [b"a[\xff", b"///!\n!\n"])
def test_a_cortexignore_that_cannot_be_read_is_explained(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".cortexignore").write_bytes(content)
    with pytest.raises(InvalidProject, match=r"\.cortexignore cannot be read: "):
        scan(tmp_path, "cortex.yaml")


def test_a_link_to_a_file_of_the_project_ships_its_content(tmp_path: Path) -> None:
    write(tmp_path, "a/model.bin", content=b"weights")
    (tmp_path / "latest").symlink_to("a/model.bin")
    project = scan(tmp_path, "cortex.yaml")
    assert project.files == ("a/model.bin", "latest")
    assert project.read("latest") == b"weights"


def test_a_link_to_a_folder_of_the_project_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "a/x")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a" / "loop").symlink_to("..")
    project = scan(tmp_path, "cortex.yaml")
    assert project.files == ("a/x",)
    assert ignored(project) == {"a/loop/": "a link to a folder", "b/": "a link to a folder"}


def test_links_that_lead_out_are_refused_unless_ignored(tmp_path: Path) -> None:
    root = tmp_path / "project"
    write(tmp_path, "outside/x", "project/handler.py", "project-2/x")
    (root / "data").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to("../outside/x")
    (root / "sibling").symlink_to("../project-2/x")
    (root / "gone").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    assert reasons(root) == [
        f"data: is a link to {tmp_path}/outside, which is outside the project; copy it here",
        f"file: is a link to {tmp_path}/outside/x, which is outside the project; copy it here",
        "gone: is a link to nowhere, which cannot be found",
        "loop: is a link to loop, which cannot be found",
        f"sibling: is a link to {tmp_path}/project-2/x, which is outside the project; copy it here",
    ]
    (root / ".cortexignore").write_text("data/\nfile\nsibling\ngone\nloop\n")
    assert scan(root, "cortex.yaml").files == ("handler.py",)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-pipe").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert reasons(tmp_path) == [
            "pipe: is neither a file nor a folder",
            "socket: is neither a file nor a folder",
            "to-pipe: is neither a file nor a folder",
        ]


def test_names_that_no_archive_can_hold_are_named(tmp_path: Path) -> None:
    write(tmp_path, "C:x", "back\\slash", "new\nline", "Read.me", "read.ME")
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"")
    assert reasons(tmp_path) == [
        "C:x: its name begins with a drive letter",
        "\\udcff: its name is not UTF-8",
        "back\\slash: its name has a backslash",
        "new\\nline: its name has a control character",
        "read.ME: differs from Read.me only in case or in how accents are written",
    ]


def test_a_file_may_have_32_mib_and_no_byte_more(tmp_path: Path) -> None:
    sized(tmp_path / "model.bin", 32 * MIB)
    assert scan(tmp_path, "cortex.yaml").total_bytes == 32 * MIB
    sized(tmp_path / "model.bin", 32 * MIB + 1)
    assert reasons(tmp_path) == ["model.bin: has 32.1 MiB, a file may have 32 MiB"]


def test_the_file_that_crosses_the_limit_of_the_project_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        sized(tmp_path / name, 11 * MIB)
    assert reasons(tmp_path) == ["c: crosses the limit of 32 MiB for the whole project (44 MiB)"]


def test_all_reasons_at_once(tmp_path: Path) -> None:
    sized(tmp_path / "big", 33 * MIB)
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert [reason.split(":")[0] for reason in reasons(tmp_path)] == ["gone", "pipe", "big"]


def test_a_wall_of_reasons_is_cut(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"link-{number}").symlink_to("nowhere")
    shown = reasons(tmp_path)
    assert len(shown) == 101
    assert shown[-1] == "… and 50 more"


def test_the_home_directory_and_the_root_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidProject, match="it is your home directory"):
        scan(tmp_path, "cortex.yaml", home=tmp_path)
    with pytest.raises(InvalidProject, match="it is the root of the file system"):
        scan(Path("/"), "cortex.yaml", home=tmp_path)
    (tmp_path / "below").mkdir()
    assert scan(tmp_path / "below", "cortex.yaml", home=tmp_path).files == ()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert reasons(tmp_path / "nowhere") == [".: cannot be read: No such file or directory"]


def test_large_files_are_warned_about_and_can_be_left_out(tmp_path: Path) -> None:
    sized(tmp_path / "ten", 10 * MIB)
    sized(tmp_path / "a" / "more", 10 * MIB + 1)
    project = scan(tmp_path, "cortex.yaml")
    assert [(each.path, each.text) for each in project.warnings] == [("a/more", "a/more is 10.1 MiB")]

    asked: list[tuple[str, int]] = []

    def keep(path: str, size: int) -> bool:
        asked.append((path, size))
        return False

    project = scan(tmp_path, "cortex.yaml", keep=keep)
    assert asked == [("a/more", 10 * MIB + 1)]
    assert project.files == ("ten",)
    assert ignored(project) == {"a/more": "left out on request"}


def test_what_is_left_out_does_not_count_for_the_limit(tmp_path: Path) -> None:
    sized(tmp_path / "a", 33 * MIB)
    sized(tmp_path / "b", 1)
    assert scan(tmp_path, "cortex.yaml", keep=lambda path, size: False).files == ("b",)


@pytest.mark.parametrize(("count", "texts"), [(999, []), (1000, ["the project has 1000 files"])])
def test_many_files_are_warned_about(tmp_path: Path, count: int, texts: list[str]) -> None:
    write(tmp_path, *(f"{number}.txt" for number in range(count)))
    assert [warning.text for warning in scan(tmp_path, "cortex.yaml").warnings] == texts
