"""Which operators this person knows, by name: `cli.yaml` in the configuration folder.

    default_environment: production
    environments:
    - name: production
      operator_endpoint: https://operator.example.com
      token: …

The environment `local`, the operator of this machine's CORTEX_HOME, always exists and is not in the file. It
is the default until another one is made so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cortex_core.errors import Conflict, CortexError, NotFound, TimedOut

LOCAL = "local"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LOCK_TIMEOUT = 10.0


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One operator. The endpoint and token of `local` come from CORTEX_HOME instead."""

    name: str
    operator_endpoint: str
    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class _File:
    default: str
    environments: tuple[Environment, ...]


class Environments:
    """The environments in a folder.

    Args:
        folder: where `cli.yaml` lies; need not exist.
        local_endpoint: URL of this machine's operator.
    """

    def __init__(self, folder: Path, *, local_endpoint: str) -> None:
        self.folder = folder
        self._path = folder / "cli.yaml"
        self._local = Environment(name=LOCAL, operator_endpoint=local_endpoint)

    @property
    def default(self) -> str:
        """The name used when none is given."""
        return self._read().default

    def all(self) -> list[Environment]:
        """`local`, and the configured ones by name."""
        return [self._local, *sorted(self._read().environments, key=lambda each: each.name)]

    def choose(self, name: str | None) -> Environment:
        """The environment of that name, or the default.

        Raises:
            NotFound: there is no such environment.
        """
        wanted = name or self.default
        for each in self.all():
            if each.name == wanted:
                return each
        raise self._unknown(wanted)

    def configure(self, environment: Environment) -> None:
        """Add an environment, or change the one of that name."""
        self.check_name(environment.name)
        with self._changing() as file:
            others = [each for each in file.environments if each.name != environment.name]
            self._write(replace(file, environments=(*others, environment)))

    def make_default(self, name: str) -> None:
        self.choose(name)
        with self._changing() as file:
            self._write(replace(file, default=name))

    def rename(self, old: str, new: str) -> None:
        """Rename an environment; when it is the default, it stays the default.

        Raises:
            NotFound: there is no environment `old`.
            Conflict: there is an environment `new` already.
        """
        if old == LOCAL:
            raise Conflict(f"the environment '{LOCAL}' is built in and cannot be renamed")
        self.check_name(new)
        found = self.choose(old)
        with self._changing() as file:
            if any(each.name == new for each in file.environments):
                raise Conflict(f"there is an environment named '{new}' already")
            others = [each for each in file.environments if each.name != old]
            default = new if file.default == old else file.default
            self._write(_File(default=default, environments=(*others, replace(found, name=new))))

    def delete(self, name: str) -> None:
        """Forget an environment; what runs there goes on running. `local` becomes the default if this was it.

        Raises:
            NotFound: there is no such environment.
        """
        if name == LOCAL:
            raise Conflict(f"the environment '{LOCAL}' is built in and cannot be deleted")
        self.choose(name)
        with self._changing() as file:
            others = tuple(each for each in file.environments if each.name != name)
            self._write(_File(default=LOCAL if file.default == name else file.default, environments=others))

    @staticmethod
    def check_name(name: str) -> None:
        """Raises:
        Conflict: the name is taken by what is built in.
        CortexError: it cannot be a name.
        """
        if name == LOCAL:
            raise Conflict(f"the environment '{LOCAL}' is built in: it is the operator of this machine")
        if not _NAME.fullmatch(name):
            raise CortexError(
                f"'{name}' cannot be an environment's name: "
                "letters, digits, '.', '_' and '-', at most 63, the first a letter or digit"
            )

    def _unknown(self, name: str) -> NotFound:
        names = ", ".join(each.name for each in self.all())
        return NotFound(
            f"there is no environment named '{name}' (there is: {names})",
            hint=f"create it with: cortex env configure {name} --operator-endpoint URL",
        )

    def _read(self) -> _File:
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return _File(default=LOCAL, environments=())
        except (OSError, UnicodeDecodeError) as error:
            raise self._unusable("read", error) from error
        import yaml

        try:
            document = yaml.safe_load(text) or {}
            environments = tuple(_environment(each) for each in document.get("environments") or ())
            return _File(default=document.get("default_environment") or LOCAL, environments=environments)
        except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
            raise CortexError(
                f"{self._path}: not a list of environments",
                hint="correct the file, or remove it and run: cortex env configure",
            ) from error

    @contextmanager
    def _changing(self) -> Iterator[_File]:
        """The file's content, while nobody else changes it."""
        import filelock

        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with filelock.FileLock(self.folder / "cli.yaml.lock", timeout=_LOCK_TIMEOUT, mode=0o600):
                yield self._read()
        except filelock.Timeout as error:
            raise TimedOut(f"{self._path} has been changed by another command for too long") from error
        except OSError as error:
            raise self._unusable("changed", error) from error

    def _unusable(self, what: str, error: Exception) -> CortexError:
        return CortexError(
            f"{self._path} cannot be {what}: {getattr(error, 'strerror', None) or error}",
            hint="correct the rights of the folder, or choose another one with CORTEX_CLI_CONFIG_DIR",
        )

    def _write(self, file: _File) -> None:
        import yaml

        document = {
            "default_environment": file.default,
            "environments": [
                {key: value for key, value in vars(each).items() if value is not None}
                for each in file.environments
            ],
        }
        temporary = self._path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_text(yaml.safe_dump(document, sort_keys=False))
        temporary.replace(self._path)


def configuration_folder(environ: Mapping[str, str]) -> Path:
    """`CORTEX_CLI_CONFIG_DIR`, or `~/.cortex`."""
    configured = environ.get("CORTEX_CLI_CONFIG_DIR")
    return Path(configured).expanduser() if configured else Path.home() / ".cortex"


def _environment(value: Mapping[str, Any]) -> Environment:
    token = value.get("token")
    return Environment(
        name=str(value["name"]),
        operator_endpoint=str(value["operator_endpoint"]),
        token=None if token is None else str(token),
    )
