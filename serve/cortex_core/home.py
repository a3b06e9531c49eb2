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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

GATEWAY_PORT = 8888
OPERATOR_PORT = 8889


@dataclass(frozen=True, kw_only=True)
class Home:
    """One local operator's folder and ports."""

    root: Path
    gateway_port: int = GATEWAY_PORT
    operator_port: int = OPERATOR_PORT

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Home:
        """Read `CORTEX_HOME`, `CORTEX_GATEWAY_PORT` and `CORTEX_OPERATOR_PORT`."""
        root = environ.get("CORTEX_HOME") or platformdirs.user_data_dir("cortex", appauthor=False)
        return cls(
            root=Path(root).expanduser().absolute(),
            gateway_port=int(environ.get("CORTEX_GATEWAY_PORT") or GATEWAY_PORT),
            operator_port=int(environ.get("CORTEX_OPERATOR_PORT") or OPERATOR_PORT),
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
        """Make the folders, private to their owner."""
        for folder in (
            self.root, self.operator, self.bucket, self.projects, self.environments, self.gateway,
            self.replicas, self.logs,
        ):  # fmt: skip
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def environ(self, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment that makes a child process use this home."""
        return {
            **(os.environ if inherited is None else inherited),
            "CORTEX_HOME": str(self.root),
            "CORTEX_GATEWAY_PORT": str(self.gateway_port),
            "CORTEX_OPERATOR_PORT": str(self.operator_port),
        }
