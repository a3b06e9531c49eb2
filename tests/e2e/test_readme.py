"""The README's commands and code do what it says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import yaml
from support.installation import BIN, Installation

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The README's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command of the README, without comments."""
    return [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]


def test_every_command_does_what_it_says(cortex: Installation, tmp_path: Path) -> None:
    """As written, in order; `make install` has happened, or this test would not run."""
    folder = tmp_path / "iris"
    shutil.copytree(ROOT / "examples" / "iris", folder)
    assert commands()[:2] == [
        "make install && source .venv/bin/activate",
        "cd examples/iris && python train.py",
    ]
    subprocess.run([str(BIN / "python"), "train.py"], cwd=folder, check=True, timeout=60, capture_output=True)
    typed = [command for command in commands()[2:] if command]
    assert all(command.startswith("cortex ") for command in typed), typed
    output = {
        command: cortex.run(*shlex.split(command)[1:], cwd=folder, timeout=300).stdout for command in typed
    }
    prediction = next(text for command, text in output.items() if command.startswith("cortex predict"))
    assert prediction.strip().replace(" ", "") == '{"species":"versicolor"}'


def test_the_code_shown_is_that_of_the_example() -> None:
    (handler,) = blocks("python")
    example = (ROOT / "examples" / "iris" / "handler.py").read_text()
    without_docstring = re.sub(r'\n +""".*?"""', "", example)
    assert handler.removeprefix("# handler.py\n") == without_docstring
    (config,) = blocks("yaml")
    assert yaml.safe_load(config) == yaml.safe_load((ROOT / "examples" / "iris" / "cortex.yaml").read_text())


def test_the_mistake_shown_is_shown_so(cortex: Installation, project: Path) -> None:
    (block,) = re.findall(r"^  ```text\n(.*?)^  ```", README, re.MULTILINE | re.DOTALL)
    shown = "".join(line[2:] for line in block.splitlines(keepends=True))
    shutil.copy(ROOT / "examples" / "iris" / "handler.py", project)
    text = (ROOT / "examples" / "iris" / "cortex.yaml").read_text()
    text = text.replace("    config:\n", "    proceses_per_replica: 2\n    config:\n")
    (project / "cortex.yaml").write_text(text)
    refused = cortex.run("validate", cwd=project, expect=1)
    assert shown in refused.stdout + refused.stderr


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
