"""An application made from a release: `config`, and what start-up refuses."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.serve_project import release_of

from cortex_core.release import Release
from cortex_serve.application import Application, HandlerFailed, create_application, load_handler


class Silence:
    logger = logging.getLogger("silence")
    request_id: ContextVar[str] = ContextVar("request_id", default="")

    def access(self, *noted: Any) -> None: ...


@pytest.fixture(autouse=True)
def same_process_afterwards() -> Iterator[None]:
    folder, path, modules = Path.cwd(), list(sys.path), set(sys.modules)
    yield
    os.chdir(folder)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def changed(release: Release, **handler: Any) -> Release:
    spec = release.spec
    return msgspec.structs.replace(
        release,
        spec=msgspec.structs.replace(spec, handler=msgspec.structs.replace(spec.handler, **handler)),  # type: ignore[union-attr]  # a RealtimeAPI
    )


def test_all_problems_of_the_signatures_at_once(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("class Handler:\n    def handle_post(self, paylaod): pass\n")

    with pytest.raises(HandlerFailed) as failed:
        load_handler(release_of(tmp_path), tmp_path, log=Silence())

    assert failed.value.message == (
        "handler.py: Handler: the method '__init__' is missing; define `def __init__(self, config)`\n"
        "handler.py: Handler.handle_post: the argument 'paylaod' is not supported; did you mean 'payload'? "
        "It may take: self, payload, query_params, headers; it is defined as `handle_post(self, paylaod)`"
    )


def test_config_is_a_copy(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text(
        "class Handler:\n"
        "    def __init__(self, config): config['nested']['a'] = 2\n"
        "    def handle_get(self): pass\n"
    )
    release = changed(release_of(tmp_path), config={"nested": {"a": 1}})

    cls = load_handler(release, tmp_path, log=Silence())
    create_application(release, cls, log=Silence()).close()

    assert release.spec.handler.config == {"nested": {"a": 1}}  # type: ignore[union-attr]  # a RealtimeAPI


@pytest.mark.parametrize(
    ("source", "is_async"),
    [
        ("def handle_get(self): pass", False),
        ("async def handle_get(self): pass", True),
        ("def handle_get(self): yield", True),
        ("async def handle_get(self): yield", True),
        ("async def helper(self): pass\n    def handle_get(self): pass", False),
    ],
)
def test_which_carrier_serves(source: str, is_async: bool) -> None:
    namespace: dict[str, Any] = {}
    exec(f"class Handler:\n    {source}\n", namespace)

    application = Application(namespace["Handler"](), threads=1, log=Silence())

    assert application.is_async is is_async
    if is_async:
        with pytest.raises(RuntimeError, match=r"^this handler is asynchronous: serve `asgi`$"):
            _ = application.wsgi
    application.close()
