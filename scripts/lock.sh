#!/usr/bin/env bash
# Writes requirements.lock anew from the lower bounds in pyproject.toml, and requirements-gpu.lock with what the extra `gpu`
# has besides; no download addresses.
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
.venv/bin/uv build -q --wheel lerobot_policy_flowstill -o "$wheels"
.venv/bin/uv build -q --wheel . -o "$wheels"
compile() {
  .venv/bin/uv pip compile -q "$@" --no-emit-package lerobot-policy-flowstill --no-emit-package flowstill --find-links "$wheels" \
    --override requirements-overrides.txt --no-emit-index-url --no-emit-find-links --no-header --no-annotate
}
compile pyproject.toml --extra operator --extra trainer --extra evaluator --extra libero --extra test -o requirements.lock
compile pyproject.toml --extra gpu --constraint requirements.lock -o "$wheels/gpu.lock" >/dev/null
grep -Fvx -f requirements.lock "$wheels/gpu.lock" >requirements-gpu.lock
