"""`cortex`, and its short form `cx`: finds the command, runs it, and turns errors into exit codes."""

from __future__ import annotations

import itertools
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from cortex.command_group import LazyGroup
from cortex.console import Console, ReaderGone
from cortex.session import Session
from cortex_core.errors import Conflict, CortexError, NotFound, OperatorUnreachable, TimedOut
from cortex_core.version import __version__

COMMANDS: Mapping[str, str] = {
    "init": "Write a new project from a template.",
    "validate": "Check a cortex.yaml and say everything that is wrong with it.",
    "deploy": "Make the APIs of a cortex.yaml live.",
    "get": "Show what is deployed, or one API in detail.",
    "predict": "Call an API and print its answer.",
    "logs": "Show the log of an API.",
    "patch": "Change deployed APIs without shipping the project again.",
    "refresh": "Replace the replicas of an API by new ones.",
    "history": "List the releases of an API.",
    "rollback": "Go back to an earlier release of an API.",
    "delete": "Stop an API and remove it.",
    "manifest": "Write a manifest that makes uploading a model safe.",
    "env": "Choose and configure the operators that commands talk to.",
    "local": "Start, stop and look at the operator of this machine.",
    "doctor": "Check this machine and say what to do about each problem.",
    "completion": "Print a script that completes commands in the shell.",
    "version": "Print the version of this program and of the operator.",
}

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_CODES: Mapping[type[CortexError], int] = {
    NotFound: 3,
    Conflict: 4,
    TimedOut: 5,
    OperatorUnreachable: 6,
}
"""Exit codes of expected errors; those that are not here give EXIT_FAILED."""

_HELP = """From a model and a Python class to a live, versioned API.

Begin with: cortex init, cortex deploy, cortex predict."""
_EPILOG = """\b
Exit codes: 0 ok, 1 failed or invalid, 2 wrong usage, 3 not found, 4 conflict,
5 timed out, 6 operator unreachable, 130 interrupted.
Commands can be abbreviated: `cortex dep` is `cortex deploy`."""


def commands() -> LazyGroup:
    """The whole tree of commands."""
    group = LazyGroup(
        name="cortex",
        help=_HELP,
        package="cortex.commands",
        summaries=COMMANDS,
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    return click.version_option(__version__, prog_name="cortex", message="%(prog)s %(version)s")(group)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: words after the program's name; those of this process unless given.
    """
    # httpx imports a command line of its own, with rich and pygments (60 ms), unless that import fails.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None is Python's way to say so
    console = Console(stdin=sys.stdin, stdout=sys.stdout, stderr=sys.stderr, environ=os.environ)
    session = Session(environ=os.environ, console=console)
    program = Path(sys.argv[0]).name
    return run(sys.argv[1:] if argv is None else argv, session, program="cx" if program == "cx" else "cortex")


def run(argv: Sequence[str], session: Session, *, program: str = "cortex") -> int:
    """Run one command in a session and return its exit code; nothing is raised."""
    try:
        code = commands().main(list(argv), prog_name=program, standalone_mode=False, obj=session)
        return code if isinstance(code, int) else EXIT_OK
    except (KeyboardInterrupt, click.Abort):
        session.console.note("interrupted")
        return EXIT_INTERRUPTED
    except ReaderGone:
        # Keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except click.ClickException as error:
        if _asks_for_json(argv):  # wrong words are found before options take effect
            session.console.output = "json"
        return _usage(error, session)
    except CortexError as error:
        code = exit_code(error)
        session.console.error(error, exit_code=code)
        return code
    except Exception:  # noqa: BLE001  # the edge: a defect of ours is reported, not thrown at people
        return _defect(session)


def exit_code(error: CortexError) -> int:
    """What the shell is told about an error."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), EXIT_FAILED)


def _usage(error: click.ClickException, session: Session) -> int:
    context = getattr(error, "ctx", None)
    hint = f"see: {context.command_path} --help" if context is not None else None
    session.console.error(CortexError(error.format_message(), hint=hint), exit_code=error.exit_code)
    return error.exit_code


def _asks_for_json(argv: Sequence[str]) -> bool:
    return any(word in ("-ojson", "--output=json") for word in argv) or any(
        option in ("-o", "--output") and value == "json" for option, value in itertools.pairwise(argv)
    )


def _defect(session: Session) -> int:
    """Keep the traceback in a file and say where it is."""
    report = traceback.format_exc()
    try:
        folder = session.home.root / "crashes"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        path.write_text(f"cortex {__version__}, Python {sys.version}\n\n{report}")
        hint = f"please report it with this file: {path}"
    except (OSError, CortexError):
        hint = report
    session.console.error(
        CortexError("this is a defect of cortex, not yours", hint=hint), exit_code=EXIT_FAILED
    )
    return EXIT_FAILED
