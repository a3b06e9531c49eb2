"""The examples train, deploy and answer right, as their READMEs say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from support.installation import BIN, Installation, wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, folder: Path) -> Path:
    """A copy of an example, trained."""
    copy = folder / name
    made = shutil.ignore_patterns("*.joblib", "sample.*", "models", ".training", "__pycache__")
    shutil.copytree(EXAMPLES / name, copy, ignore=made)
    train(copy)
    return copy


def train(folder: Path) -> None:
    subprocess.run(
        [str(BIN / "python"), "train.py"], cwd=folder, check=True, capture_output=True, timeout=300
    )


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


def test_live_reloading(cortex: Installation, tmp_path: Path) -> None:
    folder = example("live-reloading", tmp_path)
    cortex.run("deploy", "--yes", cwd=folder, timeout=300)
    sample = json.loads((folder / "sample.json").read_text())
    assert predict(cortex, "diabetes", "@sample.json", cwd=folder)["learned_from"] == 60

    answers: list[tuple[str, int]] = []
    with httpx.Client(timeout=20) as client:
        training = threading.Thread(target=train, args=(folder,))
        training.start()
        deadline = time.monotonic() + 60
        while not answers or answers[-1] != ("diabetes:2", 120):
            assert time.monotonic() < deadline, set(answers)
            answer = client.post(cortex.url("diabetes"), json=sample)
            assert answer.status_code == 200, answer.text
            answers.append((answer.headers["x-cortex-model"], answer.json()["learned_from"]))
        training.join()
    assert set(answers) == {("diabetes:1", 60), ("diabetes:2", 120)}
    assert answers == sorted(answers)

    models = {row["version"]: row["state"] for row in cortex.api("diabetes")["models"]}
    assert models["2"] == "live"
    cortex.run("delete", "diabetes", "--force")


def test_multi_model(cortex: Installation, tmp_path: Path) -> None:
    folder = example("multi-model", tmp_path)
    cortex.run("deploy", "--yes", cwd=folder, timeout=300)
    by_name = ("digit-pairs", "@sample.json", "--query")
    assert predict(cortex, *by_name, "model=3-or-8", cwd=folder)["digit"] == 3
    sample = json.loads((folder / "sample.json").read_text())

    def used(name: str) -> str:
        answer = httpx.post(cortex.url("digit-pairs"), json=sample, params={"model": name}, timeout=20)
        return str(answer.headers.get("x-cortex-model"))

    names = sorted(path.name for path in (folder / "models").iterdir())
    assert len(names) == 45
    with httpx.Client(timeout=20) as client:
        for name in names:
            answer = client.post(cortex.url("digit-pairs"), json=sample, params={"model": name})
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-cortex-model"] == f"{name}:1"
            assert str(answer.json()["digit"]) in name
            assert "3" not in name or answer.json()["digit"] == 3
        unknown = client.post(cortex.url("digit-pairs"), json=sample, params={"model": "3-or-x"})
    assert 400 <= unknown.status_code < 500
    assert "3-or-x" in unknown.text

    (home,) = cortex.home.glob("**/models/versions")
    assert 0 < len(list(home.glob("*/*"))) <= 20
    models = cortex.api("digit-pairs")["models"]
    assert {row["name"] for row in models} == set(names)
    assert 0 < sum(row["loaded_at"] is not None for row in models) <= 5

    train(folder)
    wait_for(lambda: used("3-or-8") == "3-or-8:2", within=30, what="the next version of a model")
    cortex.run("delete", "digit-pairs", "--force")


def test_similar_digits(cortex: Installation, tmp_path: Path) -> None:
    folder = example("similar-digits", tmp_path)
    cortex.run("deploy", "--yes", cwd=folder, timeout=300)
    gateway = cortex.gateway_url.removeprefix("http://")
    client = [str(BIN / "python"), "client.py", gateway]
    said = subprocess.run(client, cwd=folder, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "a three is a 3, " in said
    assert "as they come: 0 1 2 3 4 5 6 7" in said
    assert "refused: INVALID_ARGUMENT: an image has 64 pixels, this one has 3" in said
    cortex.run("delete", "similar-digits", "--force")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/cortex.yaml")))
def test_the_readme_of_an_example_uses_its_own_api(name: str) -> None:
    readme = (EXAMPLES / name / "README.md").read_text()
    config = (EXAMPLES / name / "cortex.yaml").read_text()
    api = re.search(r"name: (\S+)", config)
    assert api is not None
    asks = "python client.py" if "protobuf_path" in config else f"cortex predict {api[1]} "
    assert asks in readme
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
