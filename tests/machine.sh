# Sourced by run.sh, fresh.sh and demo.sh: installs what the machine needs, without asking.
# shellcheck shell=bash

# shellcheck source=postfix/packages.sh
. postfix/packages.sh

# For the tests, too: a registry may be slow, or down for a minute.
export PIP_DEFAULT_TIMEOUT=${PIP_DEFAULT_TIMEOUT:-60} PIP_RETRIES=${PIP_RETRIES:-8}

# without_services COMMAND...: keeps an installation from starting the distribution's Postfix. After the next boot it
# listens only on this host.
without_services() (
    policy=/usr/sbin/policy-rc.d
    trap '[ -z "${planted-}" ] || rm -f "$policy"' EXIT
    # noclobber: the machine's own policy stays as it is.
    if command -v apt-get >/dev/null && (set -C; printf '#!/bin/sh\nexit 101\n' >"$policy") 2>/dev/null; then
        planted=yes
        chmod 755 "$policy"
    fi
    "$@"
)

# install_packages THING DEBIAN_PACKAGE FEDORA_PACKAGE ...: installs the packages of the missing things.
install_packages() {
    local names wanted
    names=$(missing_packages "$@") || exit
    [ -n "$names" ] || return 0
    mapfile -t wanted <<<"$names"
    [ "$(id -u)" -eq 0 ] || fail "run as root to install: ${wanted[*]}"
    without_services add_packages "${wanted[@]}" || fail "could not install: ${wanted[*]}"
}

# make_venv DIR INTERPRETER STAMP PIP_ARGUMENT...: a virtual environment, created again only if its
# interpreter or the content of the file STAMP changes.
make_venv() {
    local directory=$1 interpreter=$2 stamp=$3
    shift 3
    if "$directory/bin/python" -c '' 2>/dev/null && cmp -s "$stamp" "$directory/stamp"; then
        return
    fi
    rm -rf "$directory"
    if ! { "$interpreter" -m venv "$directory" &&
        again "$directory/bin/python" -m pip install -q --disable-pip-version-check "$@" &&
        cp "$stamp" "$directory/stamp"; }; then
        fail "could not make the virtual environment $directory"
    fi
}
