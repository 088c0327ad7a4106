#!/usr/bin/env bash
# Chromium and a font for the browser tests. Installs them where it may (root, Debian or Ubuntu); else says what to do.
set -euo pipefail

if [ "${NO_BROWSER:-0}" = 1 ]; then
  echo "NO_BROWSER=1: the browser tests will not run."
  exit 0
fi
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null 2>&1; then
    exit 0
  fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "Installing Chromium and fonts for the browser tests."
  log="$(mktemp)"
  if { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core; } >"$log" 2>&1; then
    exit 0
  fi
  tail -n 5 "$log" >&2
fi
echo "Chromium was not found and could not be installed: install the package 'chromium', or set NO_BROWSER=1 to leave the browser tests out." >&2
exit 0
