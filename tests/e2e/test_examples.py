"""The examples train, deploy and answer right, as their READMEs say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from support.installation import BIN, Installation

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, folder: Path) -> Path:
    """A copy of an example, trained."""
    copy = folder / name
    shutil.copytree(
        EXAMPLES / name, copy, ignore=shutil.ignore_patterns("*.joblib", "sample.*", "__pycache__")
    )
    subprocess.run([str(BIN / "python"), "train.py"], cwd=copy, check=True, capture_output=True, timeout=300)
    return copy


def predict(cortex: Installation, *words: str, cwd: Path) -> dict[str, object]:
    return dict(json.loads(cortex.run("predict", *words, cwd=cwd).stdout))


def test_iris(cortex: Installation, tmp_path: Path) -> None:
    folder = example("iris", tmp_path)
    cortex.run("deploy", "--yes", cwd=folder, timeout=300)
    assert predict(cortex, "iris", "@sample.json", cwd=folder) == {"species": "virginica"}
    cortex.run("delete", "iris", "--force")


def test_text_classifier(cortex: Installation, tmp_path: Path) -> None:
    folder = example("text-classifier", tmp_path)
    cortex.run("deploy", "--yes", cwd=folder, timeout=300)
    assert predict(cortex, "news", "@sample.json", cwd=folder)["topic"] == "trade"
    story = "soviet wheat and corn imports rose to record tonnes of grain this season"
    assert (
        predict(cortex, "news", story, "--header", "content-type: text/plain", cwd=folder)["topic"] == "grain"
    )
    assert "grain" in cortex.run("predict", "news", "--method", "GET").stdout
    cortex.run("delete", "news", "--force")


def test_image_classifier(cortex: Installation, tmp_path: Path) -> None:
    folder = example("image-classifier", tmp_path)
    cortex.run("deploy", "--yes", cwd=folder, timeout=300)
    assert predict(cortex, "digits", "@sample.png", cwd=folder)["digit"] == 9
    with (folder / "sample.png").open("rb") as picture:
        upload = httpx.post(cortex.url("digits"), files={"image": picture})
    assert upload.json()["digit"] == 9
    not_a_picture = cortex.run("predict", "digits", "hello", cwd=folder, expect=1)
    assert "not a picture" in not_a_picture.stdout + not_a_picture.stderr
    cortex.run("delete", "digits", "--force")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/cortex.yaml")))
def test_the_readme_of_an_example_uses_its_own_api(name: str) -> None:
    readme = (EXAMPLES / name / "README.md").read_text()
    api = re.search(r"name: (\S+)", (EXAMPLES / name / "cortex.yaml").read_text())
    assert api is not None
    assert f"cortex predict {api[1]} " in readme
    assert f"cortex delete {api[1]}" in readme


def test_demo_leaves_nothing_running() -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("CORTEX_")}
    demo = subprocess.run(
        [str(EXAMPLES / "demo.sh")], env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert '"species"' in demo.stdout
    assert '"model"' in demo.stdout
    assert demo.stdout.rstrip().endswith("Nothing is left running.")
