#!/usr/bin/env bash
# The main job, end to end, as a person would type it: train a model, make it an API, ask it, change it, remove it.
# Works in a folder of its own and leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")"
PATH=$PWD/../.venv/bin:$PATH

free_port() { python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
run() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

WORK=$(mktemp -d)
export CORTEX_HOME=$WORK/home CORTEX_CLI_CONFIG_DIR=$WORK/config
export CORTEX_GATEWAY_PORT=$(free_port) CORTEX_OPERATOR_PORT=$(free_port)
finish() { cortex local down >/dev/null 2>&1 || true; rm -rf "$WORK"; }
trap finish EXIT

cp -r iris "$WORK/iris" && cd "$WORK/iris"

run python train.py
run cortex deploy --yes
run cortex predict iris @sample.json
run cortex get iris

printf '\nA change: the answer now names its model.\n'
sed -i 's/return {/return {"model": "logistic regression", /' handler.py
run cortex deploy --yes
run cortex predict iris @sample.json
run cortex history iris

run cortex delete iris --force
run cortex local down

left=$(python - <<'PYTHON'
import os
from pathlib import Path

marker = f"CORTEX_HOME={os.environ['CORTEX_HOME']}".encode()
for process in Path("/proc").glob("[0-9]*"):
    try:
        if int(process.name) != os.getpid() and marker in (process / "environ").read_bytes().split(b"\0"):
            print(process.name, (process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    except OSError:
        pass
PYTHON
)
[ -z "$left" ] || { printf '\nleft running:\n%s\n' "$left" >&2; exit 1; }
printf '\nNothing is left running.\n'
