#!/usr/bin/env bash
# Writes requirements.lock anew from the lower bounds in pyproject.toml; no download addresses.
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
.venv/bin/uv build -q --wheel lerobot_policy_flowstill -o "$wheels"
.venv/bin/uv pip compile -q pyproject.toml --extra operator --extra trainer --extra evaluator --extra test \
  --no-emit-package lerobot-policy-flowstill --find-links "$wheels" \
  --no-emit-index-url --no-emit-find-links --no-header --no-annotate -o requirements.lock
