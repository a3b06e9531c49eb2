"""`cortex predict`."""

from __future__ import annotations

import click

from cortex import options
from cortex.session import Session


@click.command(name="predict")
@options.api
@click.argument("data", required=False)
@options.env
@click.option("-H", "--header", multiple=True, metavar="KEY:VALUE", help="Header to send; repeatable.")
@click.option(
    "-q", "--query", multiple=True, metavar="KEY=VALUE", help="Query parameter to send; repeatable."
)
@click.option("-X", "--method", default="POST", show_default=True, metavar="METHOD", help="HTTP method.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60, show_default=True,
    metavar="SECONDS",
    help="How long the answer may pause; exit code 5 when it takes longer.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Print status, headers and time on stderr.")
@click.pass_context
def command(
    context: click.Context,
    api: str,
    data: str | None,
    env: str | None,
    header: tuple[str, ...],
    query: tuple[str, ...],
    method: str,
    timeout: float,
    verbose: bool,
) -> None:
    """Call API with DATA and print the body of its answer, as it comes, to stdout.

    DATA is the text itself, @FILE for the content of a file, or - for stdin. What parses as JSON is sent as
    application/json, other files by their type, other text as text/plain; --header content-type:TYPE says
    otherwise. When the status is not 2xx, the body goes to stderr and the exit code is 1.

    \b
    Examples:
      cortex predict iris '{"sepal_length": 5.1}'
      cortex predict digits @seven.png
      echo '[1, 2]' | cortex predict sum -
    """
    from cortex import predicting

    session: Session = context.obj
    try:
        headers, parameters = predicting.pairs(header, ":"), predicting.pairs(query, "=")
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    body = predicting.read_body(data, stdin=session.console.read_all)
    with session.operator(session.environment(env)) as client:
        deployed = client.api(api)
    call = predicting.Call(
        url=predicting.url_of(deployed),
        method=method,
        body=body,
        headers=headers,
        query=parameters,
        timeout=timeout,
    )
    context.exit(0 if predicting.predict(call, console=session.console, verbose=verbose) else 1)
