"""The examples of the user's own description of models run as written, with a bucket of ours in place of theirs.

A model is `model.pkl` and `data.txt`; what it predicts tells which files it came from.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.buckets import client, environ, new_bucket
from support.installation import Installation, wait_for
from support.s3_server import running_s3

LOAD_FROM_DISK = """
import pickle
from pathlib import Path


class Model:
    def __init__(self, content, data):
        self.content, self.data = content, data

    def predict(self, payload):
        return {"model": self.content, "data": self.data, "payload": payload}


def load_from_disk(path):
    return Model(pickle.loads(Path(path, "model.pkl").read_bytes()), Path(path, "data.txt").read_text())


"""

HANDLER = """\
class Handler:
    def __init__(self, config, model_client):
        self.client = model_client

    def load_model(self, model_path):
        # model_path is a path to your model's directory on disk
        return load_from_disk(model_path)

"""

ONE_MODEL = """\
    def handle_post(self, payload):
      model = self.client.get_model()
      return model.predict(payload)
"""

BY_NAME = """\
    def handle_post(self, payload, query_params):
      model = self.client.get_model(query_params["model"])
      return model.predict(payload)
"""

BY_NAME_AND_VERSION = """\
    def handle_post(self, payload, query_params):
      model = self.client.get_model(query_params["model"], query_params["version"])
      return model.predict(payload)
"""

PATH = """\
# cortex.yaml

- name: iris-classifier
  kind: RealtimeAPI
  handler:
    path: handler.py
    type: python
    multi_model_reloading:
      path: s3://my-bucket/models/text-generator/
"""

PATHS = """\
# cortex.yaml

- name: iris-classifier
  kind: RealtimeAPI
  handler:
    path: handler.py
    type: python
    multi_model_reloading:
      paths:
        - name: iris-classifier
          path: s3://my-bucket/models/text-generator/
        # ...
"""

DIR = """\
# cortex.yaml

- name: iris-classifier
  kind: RealtimeAPI
  handler:
    path: handler.py
    type: python
    multi_model_reloading:
      dir: s3://my-bucket/models/
"""

UNVERSIONED = ("models/text-generator",)
VERSIONED = ("models/text-generator/1523423423", "models/text-generator/2434389194")
TWO_MODELS = (
    "models/text-generator",
    "models/sentiment-analyzer/24753823",
    "models/sentiment-analyzer/26234288",
)


@dataclass(kw_only=True)
class Place:
    """An installation whose S3 is ours, and a bucket."""

    cortex: Installation
    port: int
    bucket: str
    folder: Path

    def put(self, *directories: str, content: str | None = None) -> None:
        """Put a model into each directory; it says which directory it is from, or `content`."""
        for directory in directories:
            said = content or directory.removeprefix("models/")
            for name, data in (("model.pkl", pickle.dumps(said)), ("data.txt", said.encode())):
                client(self.port).put_object(Bucket=self.bucket, Key=f"{directory}/{name}", Body=data)

    def remove(self, directory: str) -> None:
        for name in ("model.pkl", "data.txt"):
            client(self.port).delete_object(Bucket=self.bucket, Key=f"{directory}/{name}")

    def deploy(self, config: str, handler: str) -> None:
        (self.folder / "handler.py").write_text(LOAD_FROM_DISK + HANDLER + handler)
        (self.folder / "cortex.yaml").write_text(config.replace("my-bucket", self.bucket))
        self.cortex.run("deploy", "--yes", cwd=self.folder)

    def ask(self, **query: str) -> httpx.Response:
        return httpx.post(self.cortex.url("iris-classifier"), json={"text": "hello"}, params=query)

    def answer(self, **query: str) -> Any:
        """What the model says that answered; its files agree."""
        response = self.ask(**query)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["payload"] == {"text": "hello"}
        assert answer["data"] == answer["model"]
        return answer["model"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, int]]:
    with running_s3() as port:
        variables = {**environ(port), "CORTEX_MODEL_POLL_INTERVAL": "1"}
        cortex = Installation(tmp_path_factory.mktemp("cortex"), variables)
        yield cortex, port
        cortex.down()


@pytest.fixture
def place(installed: tuple[Installation, int], project: Path) -> Place:
    cortex, port = installed
    return Place(cortex=cortex, port=port, bucket=new_bucket(port), folder=project)


def test_the_model_of_a_path(place: Place) -> None:
    place.put(*UNVERSIONED)
    place.deploy(PATH, ONE_MODEL)
    assert place.answer() == "text-generator"
    assert place.ask().headers["x-cortex-model"] == "iris-classifier:1"


def test_the_highest_version_of_a_path(place: Place) -> None:
    place.put(*VERSIONED)
    place.deploy(PATH, ONE_MODEL)
    assert place.answer() == "text-generator/2434389194"
    assert place.ask().headers["x-cortex-model"] == "iris-classifier:2434389194"


def test_models_by_paths(place: Place) -> None:
    place.put(*VERSIONED)
    place.deploy(PATHS, BY_NAME)
    assert place.answer(model="iris-classifier") == "text-generator/2434389194"
    unknown = place.ask(model="other")
    assert 400 <= unknown.status_code < 500
    assert "other" in unknown.text
    assert "iris-classifier" in unknown.text


def test_models_of_a_directory_by_name_and_version(place: Place) -> None:
    place.put(*TWO_MODELS)
    place.deploy(DIR, BY_NAME_AND_VERSION)
    expected = {
        ("text-generator", "latest"): "text-generator",
        ("text-generator", "1"): "text-generator",
        ("sentiment-analyzer", "latest"): "sentiment-analyzer/26234288",
        ("sentiment-analyzer", "24753823"): "sentiment-analyzer/24753823",
        ("sentiment-analyzer", "26234288"): "sentiment-analyzer/26234288",
    }
    for (model, version), said in expected.items():
        assert place.answer(model=model, version=version) == said
    for model, version in (("sentiment-analyzer", "3"), ("nothing", "latest"), ("text-generator", "x")):
        assert 400 <= place.ask(model=model, version=version).status_code < 500
    models = {
        (row["name"], row["version"], row["state"]) for row in place.cortex.api("iris-classifier")["models"]
    }
    assert {("text-generator", "1", "live"), ("sentiment-analyzer", "26234288", "live")} <= models


def test_the_four_events_that_update_models(place: Place) -> None:
    place.put(*TWO_MODELS)
    place.deploy(DIR, BY_NAME)
    assert place.answer(model="sentiment-analyzer") == "sentiment-analyzer/26234288"

    place.put("models/sentiment-analyzer/26234289", "models/summarizer")
    soon(lambda: place.answer(model="sentiment-analyzer") == "sentiment-analyzer/26234289", "a new version")
    soon(lambda: place.ask(model="summarizer").status_code == 200, "a new model")

    place.remove("models/summarizer")
    place.remove("models/sentiment-analyzer/26234289")
    soon(lambda: 400 <= place.ask(model="summarizer").status_code < 500, "the removal of a model")
    soon(lambda: place.answer(model="sentiment-analyzer") == "sentiment-analyzer/26234288", "of a version")

    place.put("models/text-generator/7", content="versioned")
    place.remove("models/text-generator")
    soon(lambda: place.answer(model="text-generator") == "versioned", "another structure")

    place.put("models/text-generator/7", content="in place!")
    soon(lambda: place.answer(model="text-generator") == "in place!", "a file updated in place")


def soon(condition: Callable[[], bool], what: str) -> None:
    wait_for(condition, within=15, what=what)
