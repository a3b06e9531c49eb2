from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cortex.environments import Environment, Environments, configuration_folder
from cortex_core.errors import Conflict, CortexError, NotFound

PROD = Environment(name="prod", operator_endpoint="https://x", token="t")


@pytest.fixture
def environments(tmp_path: Path) -> Environments:
    return Environments(tmp_path / "config", local_endpoint="http://127.0.0.1:1")


def test_local_always_exists_and_is_the_default(environments: Environments) -> None:
    assert [each.name for each in environments.all()] == ["local"]
    assert environments.choose(None).operator_endpoint == "http://127.0.0.1:1"
    assert not environments.folder.exists()


def test_configured_ones_are_kept_for_their_owner_only(environments: Environments) -> None:
    environments.configure(PROD)
    environments.configure(Environment(name="dev", operator_endpoint="https://y"))
    assert [each.name for each in environments.all()] == ["local", "dev", "prod"]
    assert environments.choose("prod") == PROD
    assert stat.S_IMODE((environments.folder / "cli.yaml").stat().st_mode) == 0o600
    assert stat.S_IMODE(environments.folder.stat().st_mode) == 0o700


def test_configuring_again_changes(environments: Environments) -> None:
    environments.configure(PROD)
    changed = Environment(name="prod", operator_endpoint="https://z", token="u")
    environments.configure(changed)
    assert environments.all()[1:] == [changed]


def test_default_follows_a_rename_and_falls_back_when_deleted(environments: Environments) -> None:
    environments.configure(PROD)
    environments.make_default("prod")
    environments.rename("prod", "live")
    assert environments.default == "live"
    environments.delete("live")
    assert environments.default == "local"


def test_refusals(environments: Environments) -> None:
    environments.configure(PROD)
    environments.configure(Environment(name="dev", operator_endpoint="https://y"))
    with pytest.raises(Conflict, match="there is an environment named 'dev' already"):
        environments.rename("prod", "dev")
    with pytest.raises(NotFound, match=r"no environment named 'x' \(there is: local, dev, prod\)"):
        environments.rename("x", "y")
    with pytest.raises(NotFound):
        environments.delete("x")
    with pytest.raises(NotFound):
        environments.make_default("x")
    with pytest.raises(Conflict, match="built in"):
        environments.delete("local")
    with pytest.raises(Conflict, match="built in"):
        environments.rename("local", "x")
    with pytest.raises(Conflict, match="built in"):
        environments.configure(Environment(name="local", operator_endpoint="https://y"))


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 64, "../x"])
def test_names_that_cannot_be(environments: Environments, name: str) -> None:
    with pytest.raises(CortexError, match="cannot be an environment's name"):
        environments.configure(Environment(name=name, operator_endpoint="https://y"))


@pytest.mark.parametrize(
    "text", ["- a", "environments: [{name: a}]", "environments: 3", "a: [", "environments: [1]"]
)
def test_a_damaged_file_says_what_to_do(environments: Environments, text: str) -> None:
    environments.folder.mkdir()
    (environments.folder / "cli.yaml").write_text(text)
    with pytest.raises(CortexError, match="not a list of environments"):
        environments.all()


def test_folder(tmp_path: Path) -> None:
    assert configuration_folder({"CORTEX_CLI_CONFIG_DIR": str(tmp_path)}) == tmp_path
    assert configuration_folder({}) == Path.home() / ".cortex"
