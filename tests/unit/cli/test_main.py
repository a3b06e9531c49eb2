"""Exit codes, abbreviations, suggestions, and what help says."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
import pytest

from cortex.console import Console
from cortex.main import COMMANDS, EXIT_CODES, commands, exit_code, run
from cortex.session import Session
from cortex_core import errors
from cortex_core.errors import CortexError


class Streams:
    """A session whose output can be read."""

    def __init__(self, folder: Path) -> None:
        self.stdout, self.stderr = io.StringIO(), io.StringIO()
        environ = {"CORTEX_HOME": str(folder / "home"), "CORTEX_CLI_CONFIG_DIR": str(folder / "config")}
        console = Console(stdin=io.StringIO(), stdout=self.stdout, stderr=self.stderr, environ=environ)
        self.session = Session(environ=environ, console=console)

    def run(self, *words: str) -> int:
        return run(words, self.session)


@pytest.fixture
def streams(tmp_path: Path) -> Streams:
    return Streams(tmp_path)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CortexError, 1), (errors.InvalidProject, 1), (errors.DeployFailed, 1), (errors.UnsafeArchive, 1),
        (errors.NotFound, 3), (errors.Conflict, 4), (errors.TimedOut, 5), (errors.OperatorUnreachable, 6),
    ],
)  # fmt: skip
def test_exit_code_of_each_error(error: type[CortexError], code: int) -> None:
    assert exit_code(error("x")) == code


def test_no_exit_code_is_used_for_something_else() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert not {0, 1, 2, 130} & set(EXIT_CODES.values())


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help(streams: Streams, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert streams.run(*words) == 0
    shown = streams.stdout.getvalue() + capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert f"\n  {name:<10}  {summary}\n" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("deplyo",), "there is no command 'deplyo'; did you mean 'deploy'?"),
        (("xyzzy",), "there is no command 'xyzzy'"),
        (("d",), "'d' may mean deploy or delete or doctor"),
        (("env", "conf1gure"), "there is no command 'conf1gure'; did you mean 'configure'?"),
        (("get", "--wach"), "No such option '--wach'. Did you mean '--watch'?"),
        (("logs",), "Missing argument 'API'."),
        (
            ("get", "-o", "yaml"),
            "Invalid value for '-o' / '--output': 'yaml' is not one of 'pretty', 'json'.",
        ),
    ],
)
def test_wrong_usage_is_exit_code_2(streams: Streams, words: tuple[str, ...], message: str) -> None:
    assert streams.run(*words) == 2
    first, second = streams.stderr.getvalue().splitlines()
    assert first == f"error: {message}"
    assert second.startswith("hint: see: cortex")
    assert streams.stdout.getvalue() == ""


@pytest.mark.parametrize("prefix", ["va", "vali", "validate"])
def test_unique_prefix(streams: Streams, prefix: str, tmp_path: Path) -> None:
    assert streams.run(prefix, str(tmp_path / "none.yaml")) == 1
    assert "no such file" in streams.stderr.getvalue()


def test_abbreviated_command_of_a_group(streams: Streams) -> None:
    assert streams.run("env", "li", "-o", "json") == 0
    assert json.loads(streams.stdout.getvalue())[0]["name"] == "local"


def test_defect_is_reported_without_a_traceback(tmp_path: Path) -> None:
    class Broken(Streams):
        """A terminal that cannot be written to."""

    streams = Broken(tmp_path)
    streams.stdout.close()
    assert streams.run("version") == 1
    shown = streams.stderr.getvalue()
    assert shown.startswith(
        "error: this is a defect of cortex, not yours\nhint: please report it with this file: "
    )
    report = Path(shown.split("file: ")[1].strip()).read_text()
    assert "Traceback" in report


@pytest.mark.parametrize("words", [("-o", "json"), ("-ojson",), ("--output=json",), ("--output", "json")])
def test_wrong_usage_as_json(streams: Streams, words: tuple[str, ...]) -> None:
    assert streams.run("get", "--wach", *words) == 2
    error = json.loads(streams.stdout.getvalue())["error"]
    assert error["message"] == "No such option '--wach'. Did you mean '--watch'?"
    assert error["exit_code"] == 2


def test_wrong_duration_is_wrong_usage(streams: Streams) -> None:
    assert streams.run("logs", "hello", "--since", "5x") == 2
    assert streams.stderr.getvalue().startswith("error: --since: '5x' is not a duration; write it like 30s")


@pytest.mark.parametrize("words", [("get",), ("local", "status"), ("local", "up"), ("deploy", "FILE")])
def test_a_home_that_cannot_be_used_is_no_defect(tmp_path: Path, words: tuple[str, ...]) -> None:
    streams = Streams(tmp_path)
    (tmp_path / "home").touch()
    (tmp_path / "handler.py").write_text(
        "class Handler:\n    def __init__(self, config): ...\n    def handle_get(self): ...\n"
    )
    (tmp_path / "cortex.yaml").write_text(
        "- {name: a, kind: RealtimeAPI, handler: {type: python, path: handler.py}}\n"
    )
    assert streams.run(*(word.replace("FILE", str(tmp_path)) for word in words)) == 1
    *_, first, second = streams.stderr.getvalue().splitlines()
    assert first.startswith(f"error: {tmp_path / 'home'}")
    assert second == "hint: choose another folder with CORTEX_HOME"


def test_environments_that_cannot_be_changed(tmp_path: Path) -> None:
    streams = Streams(tmp_path)
    (tmp_path / "config").touch()
    assert streams.run("env", "default", "local") == 1
    assert "cli.yaml cannot be read: Not a directory" in streams.stderr.getvalue()
    assert "CORTEX_CLI_CONFIG_DIR" in streams.stderr.getvalue()


@pytest.mark.parametrize("words", [("rename", "local", "x"), ("delete", "local"), ("configure", "local")])
def test_the_built_in_environment_is_a_conflict(streams: Streams, words: tuple[str, ...]) -> None:
    assert streams.run("env", *words) == 4


def test_default_environment_as_json(streams: Streams) -> None:
    assert streams.run("env", "default", "-o", "json") == 0
    assert json.loads(streams.stdout.getvalue()) == {"default": "local"}


def test_init_says_a_command_that_can_be_typed(streams: Streams, tmp_path: Path) -> None:
    assert streams.run("init", str(tmp_path / "my app")) == 0
    assert f"cortex deploy '{tmp_path}/my app/cortex.yaml'" in streams.stderr.getvalue()


def test_a_port_that_is_none(tmp_path: Path) -> None:
    streams = Streams(tmp_path)
    session = Session(environ={"CORTEX_OPERATOR_PORT": "x"}, console=streams.session.console)
    assert run(["local", "status"], session) == 1
    assert "CORTEX_OPERATOR_PORT must be 1 to 65535, not 'x'" in streams.stderr.getvalue()


def every_command() -> list[tuple[str, click.Command]]:
    group = commands()
    context = click.Context(group, info_name="cortex")
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {below}", each) for below, each in command.commands.items()]
    return found


@pytest.mark.parametrize(("name", "command"), every_command())
def test_every_command_and_option_is_explained(name: str, command: click.Command) -> None:
    assert command.help, name
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{name} {parameter.name}"
            assert parameter.help.endswith("."), f"{name} {parameter.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_own_name(name: str) -> None:
    command = dict(every_command())[name]
    assert command.name == name
