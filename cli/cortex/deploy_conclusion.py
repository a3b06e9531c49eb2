"""What `deploy`, `patch`, `refresh` and `rollback` share: show the plan, wait, and tell how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cortex import deploying, deployment_report
from cortex.console import Console
from cortex.deploying import Document, Outcome, Package
from cortex.environments import Environment
from cortex.operator_client import OperatorClient
from cortex.session import Session
from cortex_core.operator_api import ApiResult
from cortex_core.spec.types import is_grpc

EXIT_FAILED = 1
EXIT_CONFLICT = 4
EXIT_TIMED_OUT = 5


@dataclass(frozen=True, kw_only=True)
class TerminalQuestions:
    """Asks the person, where there is one; otherwise everything is shipped.

    Args:
        yes: do not ask, the answer is yes.
    """

    console: Console
    yes: bool

    def ask(self, question: str) -> bool:
        return self.yes or not self.console.can_ask or self.console.confirm(question)


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """Brings a deployment to its end and tells about it. Methods return the exit code.

    Args:
        client: of the environment.
        wait: until live or failed.
        timeout: seconds to wait.
    """

    session: Session
    environment: Environment
    client: OperatorClient
    wait: bool
    timeout: float

    def only_plan(self, document: Document, package: Package | None, *, force: bool) -> int:
        """Print what a deploy would do."""
        console = self.session.console
        plan = deploying.plan(self.client, deploying.request(self.client, document, package, force=force))
        if console.output == "json":
            console.result_json([deployment_report.plan_as_json(result) for result in plan])
        else:
            console.result("\n".join(deployment_report.plan_lines(plan)))
            deployment_report.print_notices(console, plan)
        return _exit_code(result for result in plan if result.error is not None)

    def deploy(self, document: Document, package: Package | None, *, force: bool) -> int:
        """Show the plan and do it."""
        console = self.session.console
        wanted = deploying.request(self.client, document, package, force=force)
        plan = deploying.plan(self.client, wanted)
        if deployment_report.changes_anything(plan):
            accepted = [result for result in plan if result.error is None]  # refusals are shown at the end
            console.note("\n".join(deployment_report.plan_lines(accepted)))
        deployment_report.print_notices(console, plan)
        return self.conclude(deploying.deploy(self.client, wanted))

    def conclude(self, begun: Sequence[Outcome]) -> int:
        """Wait if asked to, and print how it ended."""
        outcomes = self._followed(begun) if self.wait else list(begun)
        self._print(outcomes)
        failed = _exit_code(
            outcome.result for outcome in outcomes if outcome.failed and not outcome.timed_out
        )
        return failed or (EXIT_TIMED_OUT if any(outcome.timed_out for outcome in outcomes) else 0)

    def _followed(self, begun: Sequence[Outcome]) -> list[Outcome]:
        console = self.session.console
        try:
            with console.progress() as progress:
                return deploying.follow(self.client, begun, timeout=self.timeout, report=progress.show)
        except KeyboardInterrupt:
            console.note("the deployment goes on; see how far it is with: cortex get")
            raise

    def _print(self, outcomes: Sequence[Outcome]) -> None:
        console = self.session.console
        shown = [(outcome, deploying.api_of(self.client, outcome.result.name)) for outcome in outcomes]
        if console.output == "json":
            console.result_json([deployment_report.as_json(outcome, api) for outcome, api in shown])
        for outcome, api in shown:
            if not outcome.failed and console.output == "pretty":
                console.result(deployment_report.outcome_line(outcome, api))
        for outcome, api in shown:
            if api is not None and not outcome.failed:
                for text in deployment_report.model_warnings(api):
                    console.warning(text)
            if outcome.failed:
                console.note("\n".join(deployment_report.failure_lines(outcome, api)))
        if console.output == "pretty":
            suggestions = deployment_report.next_commands(
                outcomes,
                suffix=self.session.suffix(self.environment),
                grpc={api.spec.name for _, api in shown if api is not None and is_grpc(api.spec)},
            )
            for line in suggestions:
                console.note(line)


def _exit_code(failed: Iterable[ApiResult]) -> int:
    """0 without failures; that of a conflict only when all are conflicts."""
    codes = {result.code for result in failed}
    if not codes:
        return 0
    return EXIT_CONFLICT if codes == {"conflict"} else EXIT_FAILED
