#!/usr/bin/env bash
# The gate by its older name.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../../scripts/preflight.sh" "$@"
