#!/bin/bash
# Shows the relay at work, with one command on a fresh Debian, Ubuntu, Fedora or RHEL machine:
#     sudo tests/demo.sh
# The manual's test messages go through a private Postfix to a stand-in for the provider. The machine's own
# Postfix is neither read nor changed, and nothing is left running.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/machine.sh

[ "$(id -u)" -eq 0 ] || fail 'Postfix and the relay run as other users: run this as root'

install_packages \
    "$PYTHON" python3 python3 \
    python:requests python3-requests python3-requests \
    python:boto3 python3-boto3 python3-boto3 \
    postfix postfix postfix

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

certifies() {
    "$PYTHON" -c 'import trustme; trustme.CA().issue_cert("localhost", not_after=None)' 2>/dev/null
}

# The stand-in's certificates need one more library, which is missing or too old in some distributions.
certifies || (install_packages python:trustme python3-trustme python3-trustme) || true
if ! certifies; then
    install_packages python:ensurepip python3-venv python3
    make_venv "$scratch/venv" "$PYTHON" pyproject.toml trustme
    PYTHON=$scratch/venv/bin/python
fi

"$PYTHON" -B tests/demo.py
