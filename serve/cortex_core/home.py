"""Where everything of one local operator lies: `CORTEX_HOME`.

Two homes with other ports live side by side. Folders are private to their owner (0700).

    operator/      state.db, token, address, operator.log
    bucket/        projects/<digest>.tar.gz
    projects/      <digest>/, extracted, immutable
    environments/  <digest>/, virtual environments, immutable
    gateway/       Envoy's configuration and log
    replicas/      <replica>/release.json
    logs/          <api>/<replica>.jsonl
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from cortex_core.errors import CortexError

GATEWAY_PORT = 8888
OPERATOR_PORT = 8889
_HIGHEST_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class Home:
    """One local operator's folder and ports."""

    root: Path
    gateway_port: int = GATEWAY_PORT
    operator_port: int = OPERATOR_PORT

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Home:
        """Read `CORTEX_HOME`, `CORTEX_GATEWAY_PORT` and `CORTEX_OPERATOR_PORT`.

        Raises:
            CortexError: a port is none.
        """
        root = environ.get("CORTEX_HOME") or platformdirs.user_data_dir("cortex", appauthor=False)
        return cls(
            root=Path(root).expanduser().absolute(),
            gateway_port=_port(environ, "CORTEX_GATEWAY_PORT", GATEWAY_PORT),
            operator_port=_port(environ, "CORTEX_OPERATOR_PORT", OPERATOR_PORT),
        )

    @property
    def operator(self) -> Path:
        return self.root / "operator"

    @property
    def bucket(self) -> Path:
        return self.root / "bucket"

    @property
    def projects(self) -> Path:
        return self.root / "projects"

    @property
    def environments(self) -> Path:
        return self.root / "environments"

    @property
    def gateway(self) -> Path:
        return self.root / "gateway"

    @property
    def replicas(self) -> Path:
        return self.root / "replicas"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def token_file(self) -> Path:
        """The shared secret of the operator's HTTP API; 0600."""
        return self.operator / "token"

    @property
    def operator_url(self) -> str:
        return f"http://127.0.0.1:{self.operator_port}"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    def create(self) -> None:
        """Make the folders, private to their owner.

        Raises:
            CortexError: one of them cannot be made or written.
        """
        for folder in (
            self.root, self.operator, self.bucket, self.projects, self.environments, self.gateway,
            self.replicas, self.logs,
        ):  # fmt: skip
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise _unusable(folder, error) from error
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise _unusable(folder, PermissionError("it cannot be written"))

    def token(self) -> str | None:
        """The content of `token_file`; None where there is none yet.

        Raises:
            CortexError: it cannot be read.
        """
        try:
            return self.token_file.read_text("ascii").strip() or None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self.token_file, error) from error
        except UnicodeDecodeError as error:
            raise _unusable(self.token_file, OSError("it is damaged")) from error

    def environ(self, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment that makes a child process use this home."""
        return {
            **(os.environ if inherited is None else inherited),
            "CORTEX_HOME": str(self.root),
            "CORTEX_GATEWAY_PORT": str(self.gateway_port),
            "CORTEX_OPERATOR_PORT": str(self.operator_port),
        }


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= _HIGHEST_PORT):
        raise CortexError(f"{name} must be 1 to {_HIGHEST_PORT}, not '{text}'")
    return int(text)


def _unusable(path: Path, error: OSError) -> CortexError:
    hint = "choose another folder with CORTEX_HOME"
    if isinstance(error, PermissionError):
        present = next(each for each in (path, *path.parents) if os.access(each, os.F_OK))
        hint = f"make it yours and writable (chmod u+rwX {shlex.quote(str(present))}), or {hint}"
    return CortexError(f"{path} cannot be used: {error.strerror or error}", hint=hint)
