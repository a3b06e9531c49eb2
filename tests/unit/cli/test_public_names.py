"""What `import cortex` offers."""

from __future__ import annotations

import inspect

import cortex
from cortex.python_client import Client
from cortex_core.errors import CortexError

NAMES = {
    "Client", "Conflict", "CortexError", "DeployFailed", "InvalidConfig", "InvalidKindForMethod",
    "InvalidProject", "NotFound", "OperatorUnreachable", "TimedOut", "__version__", "client", "env_delete",
    "env_list", "new_client",
}  # fmt: skip
METHODS = {
    "delete", "deploy", "deploy_async_api", "deploy_batch_api", "deploy_realtime_api", "deploy_task_api",
    "deploy_traffic_splitter", "env_name", "get_api", "list_apis", "patch", "refresh", "stream_api_logs",
}  # fmt: skip


def test_names() -> None:
    assert set(cortex.__all__) == NAMES
    assert set(dir(cortex)) == NAMES
    for name in NAMES:
        assert getattr(cortex, name) is getattr(cortex, name)


def test_errors_are_one_tree() -> None:
    errors = [value for name in NAMES if inspect.isclass(value := getattr(cortex, name)) and name != "Client"]
    assert all(issubclass(error, CortexError) for error in errors)


def test_methods_of_the_client() -> None:
    public = {name for name in vars(Client) if not name.startswith("_")}
    assert public == METHODS
    assert all(inspect.getdoc(getattr(Client, name)) for name in METHODS - {"env_name"})
