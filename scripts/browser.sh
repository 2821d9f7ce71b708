#!/usr/bin/env bash
# Debian's Chromium, in which tests/local/test_report_page.py looks at the report. Does nothing when it is there.
set -euo pipefail

if command -v chromium >/dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "browser: installing chromium for the tests of the report"
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 ||
    echo "browser: could not install chromium; tests/local/test_report_page.py will fail without it" >&2
else
  echo "browser: install chromium (Debian: apt-get install chromium fonts-dejavu-core); tests/local/test_report_page.py fails without it" >&2
fi
