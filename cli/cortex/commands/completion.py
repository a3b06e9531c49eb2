"""`cortex completion`."""

from __future__ import annotations

import click

from cortex import completions
from cortex.session import Session


@click.command(name="completion")
@click.argument("shell", type=click.Choice(completions.SHELLS))
@click.pass_obj
def command(session: Session, shell: str) -> None:
    """Print the script that completes `cortex` and `cx` in SHELL. Installs nothing.

    \b
    To use it, add to your shell's start file:
      bash, ~/.bashrc:                    eval "$(cortex completion bash)"
      zsh,  ~/.zshrc:                     eval "$(cortex completion zsh)"
      fish, ~/.config/fish/config.fish:   cortex completion fish | source
    """
    session.console.result(completions.script(shell))
