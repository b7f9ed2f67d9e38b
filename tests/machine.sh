# Sourced by run.sh and demo.sh: what the machine has to have, installed without a question.
# shellcheck shell=bash

# The interpreter of the relay's own first line; another python3 on PATH has other libraries.
PYTHON=/usr/bin/python3

# fail TEXT: the end of the run.
fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# missing THING PACKAGE...: the packages whose command, python:MODULE or /PATTERN of a file is not there.
# Arguments are pairs; prints the packages, one to a line.
missing() {
    while [ $# -ge 2 ]; do
        case $1 in
            /*) compgen -G "$1" >/dev/null || echo "$2" ;;
            python:*) "$PYTHON" -I -c "import ${1#python:}" 2>/dev/null || echo "$2" ;;
            *) PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || echo "$2" ;;
        esac
        shift 2
    done
}

# apt_install PACKAGE...: never starts the distribution's own Postfix, during the installation or, beyond
# this host, at the next boot.
apt_install() (
    policy=/usr/sbin/policy-rc.d
    trap '[ -z "${planted-}" ] || rm -f "$policy"' EXIT
    # noclobber: a policy of the machine's own is left as it is.
    if (set -C; printf '#!/bin/sh\nexit 101\n' >"$policy") 2>/dev/null; then
        planted=yes
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    case " $* " in
        *" postfix "*) echo 'postfix postfix/main_mailer_type select Local only' | debconf-set-selections ;;
    esac
    apt-get update -q && apt-get install -q -y --no-install-recommends "$@"
)

# install_packages THING DEBIAN_PACKAGE FEDORA_PACKAGE ...: arguments are triples; installs the packages of
# what is missing.
install_packages() {
    local manager column wanted=() pairs=()
    if command -v apt-get >/dev/null; then
        manager=apt_install column=2
    elif command -v dnf >/dev/null; then
        manager='dnf install -y --setopt=install_weak_deps=False' column=3
    else
        fail 'neither apt nor dnf found'
    fi
    while [ $# -ge 3 ]; do
        pairs+=("$1" "${!column}")
        shift 3
    done
    mapfile -t wanted < <(missing "${pairs[@]}" | sort -u)
    [ ${#wanted[@]} -eq 0 ] && return
    [ "$(id -u)" -eq 0 ] || fail "run as root to install: ${wanted[*]}"
    $manager "${wanted[@]}" </dev/null || fail "could not install: ${wanted[*]}"
}

# make_venv DIR INTERPRETER STAMP PIP_ARGUMENT...: a virtual environment, made again only when its
# interpreter or the contents of the file STAMP change.
make_venv() {
    local directory=$1 interpreter=$2 stamp=$3
    shift 3
    if "$directory/bin/python" -c '' 2>/dev/null && cmp -s "$stamp" "$directory/stamp"; then
        return
    fi
    rm -rf "$directory"
    if ! { "$interpreter" -m venv "$directory" &&
        "$directory/bin/python" -m pip install -q --disable-pip-version-check "$@" &&
        cp "$stamp" "$directory/stamp"; }; then
        fail "could not make the virtual environment $directory"
    fi
}
