#!/usr/bin/env bash
# Makes .venv with exactly what requirements.lock says, and the project in it. Does nothing when it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.12 python3.13 python3 "$HOME"/.pyenv/versions/3.12*/bin/python; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 12))' 2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  echo "setup: no Python 3.12 or newer found; install it, or name it: make setup PYTHON=/path/to/python3.12" >&2
  return 1
}

# Headless rendering for the videos in the report; physics works without it.
install_renderer() {
  if ldconfig -p | grep -q libEGL.so.1 && [ -e /usr/share/glvnd/egl_vendor.d/50_mesa.json ]; then return; fi
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing libegl1 and libgl1-mesa-dri for headless rendering"
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y libegl1 libgl1-mesa-dri; } >/dev/null 2>&1 ||
      echo "setup: could not install them; reports will have no videos" >&2
  else
    echo "setup: without libegl1 and libgl1-mesa-dri (Debian) reports have no videos" >&2
  fi
}

stamp=$(cat requirements.lock requirements-overrides.txt pyproject.toml lerobot_policy_flowstill/pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/flowstill-setup 2>/dev/null)" = "$stamp" ]; then exit 0; fi
python=$(find_python)
[ -x .venv/bin/python ] && .venv/bin/python -c 'import sys; raise SystemExit(sys.version_info < (3, 12))' || "$python" -m venv --clear .venv
.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip
.venv/bin/python -m pip install -q --disable-pip-version-check 'uv>=0.9'
echo "setup: installing $(wc -l <requirements.lock) locked packages (about 3 GB to download the first time)"
export VIRTUAL_ENV=$PWD/.venv
.venv/bin/uv pip install -q -r requirements.lock --override requirements-overrides.txt
.venv/bin/uv pip install -q --no-deps -e . -e ./lerobot_policy_flowstill
install_renderer
echo "$stamp" >.venv/flowstill-setup
