# Sourced by install.sh and by the tests: finds missing packages, and installs them without asking.
# shellcheck shell=bash

# The interpreter in the relay's first line; another python3 on PATH has other libraries.
PYTHON=/usr/bin/python3

# fail TEXT: ends the run.
fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# is_there THING: whether a command, a python:MODULE, or a file that matches /PATTERN exists.
is_there() {
    case $1 in
        /*) compgen -G "$1" >/dev/null ;;
        # Not imported: that takes much longer.
        python:*) "$PYTHON" -I -c "
import importlib.util, sys
sys.exit(not importlib.util.find_spec('${1#python:}'))" 2>/dev/null ;;
        *) PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null ;;
    esac
}

# missing_packages THING DEBIAN_PACKAGE FEDORA_PACKAGE ...: takes triples; prints the packages of the missing
# things, one per line.
missing_packages() {
    local column
    if command -v apt-get >/dev/null; then
        column=2
    elif command -v dnf >/dev/null; then
        column=3
    else
        fail 'neither apt nor dnf found'
    fi
    while [ $# -ge 3 ]; do
        is_there "$1" || echo "${!column}"
        shift 3
    done | sort -u
}

# add_packages PACKAGE...: installs them.
add_packages() {
    if command -v apt-get >/dev/null; then
        apt_install "$@"
    else
        dnf install -y --setopt=install_weak_deps=False "$@" </dev/null
    fi
}

apt_install() (
    # If no name server answers, each name would take half a minute.
    export DEBIAN_FRONTEND=noninteractive RES_OPTIONS='timeout:3 attempts:1'
    case " $* " in
        # Until it is configured, it sends nothing and listens only on this host.
        *" postfix "*) echo 'postfix postfix/main_mailer_type select Local only' | debconf-set-selections ;;
    esac
    # A machine that was just started updates itself, and holds apt's locks. apt-get update does not wait for its
    # lock.
    local options=(-q -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20
        -o DPkg::Lock::Timeout=300)
    again apt_update "${options[@]}" &&
        apt-get install "${options[@]}" -y --no-install-recommends "$@" </dev/null
)

# apt_update OPTION...: fails if no server has answered, which apt itself calls a success.
apt_update() {
    local said status=0
    said=$(apt-get update "$@" 2>&1 </dev/null) || status=$?
    printf '%s\n' "$said"
    if [[ $'\n'$said =~ $'\n'(E|W|Err):?[^$'\n']* && ! $'\n'$said =~ $'\n'(Hit|Get): ]]; then
        [[ ! $said =~ (Temporary failure|Could not|Cannot|Unable to connect|timed out)[^$'\n']* ]] ||
            printf 'no package server answers: %s\n' "${BASH_REMATCH[0]}"
        return 100
    fi
    return "$status"
}

# again COMMAND...: runs it until it succeeds, three times at most.
again() {
    local pause
    for pause in 10 30; do
        ! "$@" || return 0
        sleep "$pause"
    done
    "$@"
}
