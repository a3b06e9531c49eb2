"""The code in docs/ does what the page says: it is deployed, asked, and the answers are those that are shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support.installation import BIN, Installation, wait_for

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ("batching.md", "grpc.md", "handlers.md", "models.md", "projects.md", "python-client.md")
GATEWAY = "http://127.0.0.1:8888"


class Block(NamedTuple):
    language: str
    text: str

    @property
    def title(self) -> str:
        """What its first line calls it."""
        return self.text.splitlines()[0].removeprefix("# ")


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[Block]:
    """The code blocks of a page, in order."""
    return [
        Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL)
    ]


def api(name: str) -> str:
    return f"- name: {name}\n  kind: RealtimeAPI\n  handler: {{type: python, path: {name}.py}}\n"


def output_of(cortex: Installation, command: str) -> str:
    """What a command prints, run as a person does; a log takes a moment to have what was printed."""
    if command.startswith("cortex logs "):
        return str(wait_for(lambda: bash(cortex, command).stdout, within=10, what=command))
    done = bash(cortex, command)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def bash(cortex: Installation, command: str, *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace(GATEWAY, cortex.gateway_url)],
        env={**cortex.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


HANDLERS = blocks("handlers.md")
SAMPLES = [
    (handler.title, commands.text, output.text)
    for handler, commands, output in zip(HANDLERS[::3], HANDLERS[1::3], HANDLERS[2::3], strict=True)
]


def test_every_handler_is_followed_by_commands_and_their_output() -> None:
    assert [block.language for block in HANDLERS] == ["python", "bash", "text"] * len(SAMPLES)
    assert len(SAMPLES) >= 5


@pytest.fixture(scope="module")
def handlers(cortex: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """All handlers of the page, live."""
    folder = tmp_path_factory.mktemp("handlers")
    for handler in HANDLERS[::3]:
        (folder / f"{handler.title}.py").write_text(handler.text)
    (folder / "cortex.yaml").write_text("".join(api(name) for name, _, _ in SAMPLES))
    cortex.run("deploy", "--yes", cwd=folder)
    return cortex


@pytest.mark.parametrize(("name", "commands", "output"), SAMPLES, ids=[name for name, _, _ in SAMPLES])
def test_handler(handlers: Installation, name: str, commands: str, output: str) -> None:
    assert name in commands
    printed = [output_of(handlers, command).rstrip("\n") for command in commands.splitlines()]
    assert "\n".join(printed) + "\n" == output


def test_project(cortex: Installation, project: Path) -> None:
    files = [block for block in blocks("projects.md") if re.fullmatch(r"[\w./]+", block.title)]
    for block in files:
        file = project / block.title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text.partition("\n")[2])
    (project / "left-out.csv").write_text("1,2\n")
    assert len(files) == len(blocks("projects.md"))
    cortex.run("deploy", "--yes", cwd=project)
    answer = cortex.run("predict", "lines", "--method", "GET").stdout.strip()
    assert f"`{answer}`" in page("projects.md")
    plan = cortex.run("validate", "larger.yaml", cwd=project)
    assert "valid" in plan.stdout


def test_models(cortex: Installation, tmp_path: Path) -> None:
    folder = tmp_path / "scale"
    folder.mkdir()
    shown = blocks("models.md")
    expected = {
        number for number, block in enumerate(shown) if block.language == "text" and "." not in block.title
    }
    for number, block in enumerate(shown):
        if re.fullmatch(r"[\w./]+", block.title) and "." in block.title:
            (folder / block.title).write_text(block.text.partition("\n")[2])
        elif block.language == "bash" and number + 1 in expected:
            wait_until_printed(cortex, block.text.splitlines(), shown[number + 1].text, cwd=folder)
            expected.discard(number + 1)
        elif block.language == "bash":
            done = bash(cortex, f"set -e\n{block.text}", cwd=folder)
            assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
    assert not expected
    (folder / "models-of-customers" / "ada").mkdir(parents=True)
    (folder / "models-of-customers" / "ada" / "model.json").write_text("{}")
    cortex.run("validate", "settings.yaml", cwd=folder)


def test_grpc(cortex: Installation, tmp_path: Path) -> None:
    folder, printed = tmp_path / "words", ""
    folder.mkdir()
    for block in blocks("grpc.md"):
        name = re.fullmatch(r"(?:#|//) (\w+\.\w+)", block.text.splitlines()[0])
        if name is not None:
            gateway = cortex.gateway_url.removeprefix("http://")
            text = block.text.partition("\n")[2].replace("127.0.0.1:8888", gateway)
            (folder / name[1]).write_text(text)
        elif block.language == "bash":
            done = bash(cortex, f"set -e\n{block.text}", cwd=folder)
            assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
            printed = done.stdout
        elif block.language == "text":
            assert printed == block.text
            printed = ""
    cortex.run("delete", "my-words", "--force")


def test_batching(cortex: Installation, tmp_path: Path) -> None:
    folder = tmp_path / "weighted"
    folder.mkdir()
    *files, commands, output, others, metrics, counted = blocks("batching.md")
    for file in (*files, others):
        (folder / file.title).write_text(file.text.partition("\n")[2])
    assert [file.title for file in files] == ["handler.py", "cortex.yaml"]
    done = bash(cortex, f"set -e\n{commands.text}", cwd=folder)
    assert done.stdout.endswith(output.text), done.stderr
    cortex.run("validate", "others.yaml", cwd=folder)
    wait_for(lambda: bash(cortex, metrics.text).stdout == counted.text, within=20, what=counted.text)
    cortex.run("delete", "weighted", "--force")


def wait_until_printed(cortex: Installation, commands: list[str], expected: str, *, cwd: Path) -> None:
    """Run commands again and again until they print what is expected, a line each."""

    def printed() -> bool:
        lines = [bash(cortex, command, cwd=cwd).stdout.rstrip("\n") for command in commands]
        return "".join(f"{line}\n" for line in lines) == expected

    wait_for(printed, within=20, what=expected)


def test_python_client(cortex: Installation, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("\n\n".join(block.text for block in blocks("python-client.md")))
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        env=dict(cortex.environ),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    endpoint, names, status, missing, wrong = done.stdout.splitlines()
    assert endpoint == cortex.url("double")
    assert {"'double'", "'triple'"} <= set(re.findall(r"'\w+'", names))
    assert status == "status_live"
    assert missing == "there is no API 'triple'"
    assert wrong == "['triple.replicas']"


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page(name)):
        assert target.startswith("http") or (DOCS / target).exists(), target
