"""What every command is given: the terminal, the environment variables, and the way to an operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cortex.console import Console
from cortex.environments import LOCAL, Environment, Environments, configuration_folder
from cortex_core.errors import OperatorUnreachable, TimedOut
from cortex_core.home import Home
from cortex_core.version import __version__

if TYPE_CHECKING:
    from cortex.local_operator import LocalOperator
    from cortex.operator_client import OperatorClient


@dataclass(frozen=True, kw_only=True)
class Session:
    """One invocation of the command line, or one Python client.

    Args:
        environ: environment variables.
        console: the terminal.
    """

    environ: Mapping[str, str]
    console: Console

    @cached_property
    def home(self) -> Home:
        return Home.of(self.environ)

    @cached_property
    def environments(self) -> Environments:
        return Environments(configuration_folder(self.environ), local_endpoint=self.home.operator_url)

    def environment(self, name: str | None) -> Environment:
        """The environment to use; says which one when that is not obvious."""
        chosen = self.environments.choose(name)
        if name is None and self.console.output == "pretty" and len(self.environments.all()) > 1:
            self.console.note(f"using {chosen.name} environment")
        return chosen

    @contextmanager
    def operator(self, environment: Environment) -> Iterator[OperatorClient]:
        """A connection to an environment's operator; the local one is started when it does not run.

        Raises:
            OperatorUnreachable: nobody answers.
        """
        client = self._local() if environment.name == LOCAL else self._remote(environment)
        try:
            yield client
        finally:
            client.close()

    def local_operator(self) -> LocalOperator:
        """The operator of this machine, running or not."""
        from cortex.local_operator import LocalOperator

        return LocalOperator(self.home, report=self.console.note)

    def operator_version(self, environment: Environment) -> str | None:
        """The version of the operator that answers there, if any; starts nothing."""
        from cortex.operator_client import OperatorClient

        client = OperatorClient(environment.operator_endpoint, token=None, environment=environment.name)
        with closing(client):
            try:
                return client.info().version
            except (OperatorUnreachable, TimedOut):
                return None

    def suffix(self, environment: Environment) -> str:
        """What suggested commands need at their end to mean the same environment."""
        return "" if environment.name == self.environments.default else f" --env {environment.name}"

    def _local(self) -> OperatorClient:
        from cortex.operator_client import OperatorClient

        local = self.local_operator()
        local.ensure()
        return OperatorClient(self.home.operator_url, token=local.token(), environment=LOCAL)

    def _remote(self, environment: Environment) -> OperatorClient:
        from cortex.operator_client import OperatorClient

        client = OperatorClient(
            environment.operator_endpoint, token=environment.token, environment=environment.name
        )
        version = client.info().version
        if version != __version__:
            self.console.warning(
                f"the operator of environment '{environment.name}' has version {version}, "
                f"this is {__version__}; get the same with: pip install cortex-deploy=={version}"
            )
        return client
