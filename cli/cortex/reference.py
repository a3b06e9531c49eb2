"""The page of all commands, made from their own help: `python -m cortex.reference` prints docs/cli.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from cortex.main import commands

WIDTH = 100

_HEAD = """\
# The command line

`cortex`, or `cx` for short. This page is what `--help` of each command says; make it anew with
`python -m cortex.reference > docs/cli.md`.

Commands can be abbreviated to a unique prefix (`cortex dep`). Results go to stdout, everything else to stderr.
`-o json` prints results as JSON, and errors as well. Nothing is asked where there is no terminal.

## Exit codes

| code | meaning |
|---|---|
| 0 | ok |
| 1 | failed or invalid |
| 2 | wrong usage of a command |
| 3 | not found: API, release, environment |
| 4 | conflict with what is deployed, or with another installation |
| 5 | timed out |
| 6 | operator unreachable |
| 130 | interrupted |

## Environment variables

| variable | meaning |
|---|---|
| `CORTEX_HOME` | folder of the local operator: state, logs, bucket |
| `CORTEX_OPERATOR_PORT` | port of the local operator, 8889 |
| `CORTEX_GATEWAY_PORT` | port under which the APIs are reached, 8888 |
| `CORTEX_MODEL_POLL_INTERVAL` | seconds between two listings of models in S3, 10; the operator's and so its replicas' |
| `CORTEX_CLI_CONFIG_DIR` | folder of `cli.yaml`, the environments; `~/.cortex` |
| `NO_COLOR` | no colours |

## Commands
"""


def markdown() -> str:
    """The whole page."""
    group = commands()
    settings = {**group.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(group, info_name="cortex", **settings)
    return _HEAD + "".join(_sections(group, context))


def _sections(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context)
        yield f"\n### {below.command_path}\n\n```text\n{command.get_help(below)}\n```\n"
        if isinstance(command, click.Group):
            yield from _sections(command, below)


if __name__ == "__main__":
    sys.stdout.write(markdown())
