#!/bin/bash
# Runs all checks, with one command on a fresh Debian, Ubuntu, Fedora or RHEL machine:
#     sudo tests/run.sh [--nightly] [PYTEST_ARGUMENT...]
# Or the installation, and all these checks, in fresh systems:
#     sudo tests/run.sh --fresh [--quick-start] [DEBIAN_RELEASE...]
# Or what the tests leave out: the lines of the script that none of them runs, and the changes that none notices:
#     sudo tests/run.sh --coverage [PYTEST_ARGUMENT...]
#     sudo tests/run.sh --mutants [NUMBER [SEED]]
# Or the providers' answers that the tests rely on, compared with the real ones (tests/answers/README.md):
#     tests/run.sh --live CREDENTIALS_FILE
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/machine.sh

# interpreter 3.X: prints the path of an interpreter of that version, or nothing.
interpreter() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-${HOME-}/.pyenv}/versions/$1".*/bin/python; do
        # pyenv puts commands on PATH even for versions that it will not run.
        if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
}

if [ "${1-}" = --live ]; then
    shift
    make_venv .venv "$PYTHON" pyproject.toml '.[test]'
    project=$PWD
    # A relative path is relative to the caller's directory.
    cd "$OLDPWD"
    exec "$project/.venv/bin/python" "$project/tests/live.py" "$@"
fi

[ "$(id -u)" -eq 0 ] || fail 'Postfix and the relay run as other users: run this as root'

install_packages \
    "$PYTHON" python3 python3 \
    python:ensurepip python3-venv python3 \
    python:requests python3-requests python3-requests \
    python:boto3 python3-boto3 python3-boto3 \
    python:cryptography python3-cryptography python3-cryptography \
    postfix postfix postfix \
    logrotate logrotate logrotate \
    strace strace strace \
    pgrep procps procps-ng \
    ip iproute2 iproute \
    checkmodule checkpolicy checkpolicy \
    semodule_package semodule-utils policycoreutils \
    sesearch setools setools-console \
    matchpathcon selinux-utils libselinux-utils \
    '/etc/selinux/*/policy/policy.*' selinux-policy-default selinux-policy-targeted \
    openssl openssl openssl \
    saslpasswd2 sasl2-bin cyrus-sasl-lib \
    '/usr/lib*/*/sasl2/liblogin.so' libsasl2-modules cyrus-sasl-plain

if ! is_there promtool; then
    # Newer releases of Debian and Ubuntu have a separate package for it; dnf looks for the file.
    promtool=prometheus
    ! apt-cache show promtool >/dev/null 2>&1 || promtool=promtool
    install_packages promtool "$promtool" /usr/bin/promtool
    # The server in the same package would start at the next boot.
    systemctl disable prometheus.service >/dev/null 2>&1 || true
fi

make_venv .venv "$PYTHON" pyproject.toml '.[test]'
# pip builds in the source's own directory.
rm -rf build postfix_api_relay.egg-info

case ${1-} in
--fresh) exec tests/fresh.sh "${@:2}" ;;
--coverage) exec .venv/bin/python tests/covered.py "${@:2}" ;;
--mutants) exec .venv/bin/python tests/mutants.py "${@:2}" ;;
esac

.venv/bin/ruff check
.venv/bin/mypy
"$PYTHON" -m py_compile postfix-api-relay

# check_with VERSION INTERPRETER: compiles the script and runs the unit tests with another Python.
check_with() {
    echo "Python $1: $2"
    "$2" -m py_compile postfix-api-relay &&
        make_venv ".venv/python$1" "$2" pyproject.toml boto3 hypothesis pytest &&
        ".venv/python$1/bin/python" -m pytest -q -p no:cacheprovider tests/unit
}

# In parallel: these tests only compute, and each run uses one core.
declare -A checks=()
others=()
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
own=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# What works with the oldest and the newest works in between: those versions run the tests only nightly.
versions=(3.9 3.10 3.11 3.12 3.13 3.14)
for version in "${versions[@]}"; do
    found=$(interpreter "$version")
    [ -z "$found" ] || [ "$version" = "$own" ] || others+=("$version")
done
for version in "${versions[@]}"; do
    found=$(interpreter "$version")
    if [ "$version" = "$own" ]; then
        echo "Python $version: tested below, with all other tests"
    elif [ -z "$found" ]; then
        echo "Python $version: not on this machine"
    elif [[ " $* " == *' --nightly '* || $version == "${others[0]}" || $version == "${others[-1]}" ]]; then
        check_with "$version" "$found" >"$logs/$version" 2>&1 &
        checks[$version]=$!
    else
        "$found" -m py_compile postfix-api-relay
        echo "Python $version: compiles the script; --nightly runs the tests"
    fi
done
failed=
for version in $(printf '%s\n' "${!checks[@]}" | sort -V); do
    wait "${checks[$version]}" || failed+=" $version"
    cat "$logs/$version"
done
[ -z "$failed" ] || fail "failed with Python$failed"

# With the kernel's default of 10 lines, master(8) can wait forever for a reader of Postfix's log that it still has
# to start itself. systemd raises it everywhere; if this machine does not allow that, the tests run without it.
waiting_lines=/proc/sys/net/unix/max_dgram_qlen
if [ "$(cat $waiting_lines)" -lt 512 ] && [ -w $waiting_lines ]; then
    echo 512 >$waiting_lines
fi

# Last, so that pytest's summary is the last line. Most tests wait more than they compute.
.venv/bin/python -m pytest -n 4 "$@"
