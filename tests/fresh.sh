#!/bin/bash
# The way from a fresh Debian to a delivered message, in roots made by debootstrap:
#     sudo tests/run.sh --fresh [RELEASE...]
# Packages come from $DEBIAN_MIRROR, or from debootstrap's own mirror. Everything but their download happens in
# namespaces without a network, which take every process and mount with them when they end.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/machine.sh
. tests/machine.sh

[ $# -gt 0 ] || set -- bullseye bookworm trixie

install_packages \
    debootstrap debootstrap debootstrap \
    git git git \
    ip iproute2 iproute \
    unshare util-linux util-linux

# within ROOT OPTION... -- COMMAND...: runs a command that sees the root's own processes; the options are unshare's.
within() {
    local root=$1 options=()
    shift
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    # shellcheck disable=SC2016
    unshare --mount --pid --fork --kill-child "${options[@]}" bash -euc '
        mount -t proc proc "$0/proc"
        mount -t sysfs -o ro sysfs "$0/sys"
        exec "$@"' "$root" "$@"
}

# make_root RELEASE ROOT: the smallest system, which reaches its mirror as this machine reaches its own.
make_root() {
    unshare --mount debootstrap --variant=minbase --include=ca-certificates "$1" "$2" \
        ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$2.log" || {
        tail "$2.log" >&2
        fail "debootstrap could not make $1"
    }
    cp /etc/resolv.conf /etc/hosts "$2/etc/"
    apt-config dump 2>/dev/null | grep -i '^Acquire::[a-z]*::Proxy' >"$2/etc/apt/apt.conf.d/99proxy" || true
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$2/usr/local/share/ca-certificates/" \; \
        2>/dev/null || true
    chroot "$2" update-ca-certificates >/dev/null 2>&1
}

# add_project ROOT: what git would commit, as it is here.
add_project() {
    mkdir "$1/project"
    git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$1/project"
}

# download ROOT: the packages that the installer says it will install.
download() {
    local names
    names=$(within "$1" -- chroot "$1" /project/postfix/install.sh --dry-run |
        sed -n 's/^would install the packages //p')
    [ -n "$names" ] || fail 'the installer wants no packages in an empty system'
    # shellcheck disable=SC2086
    within "$1" -- chroot "$1" sh -euc 'apt-get -q update && apt-get -q -y --download-only \
        --no-install-recommends install "$@"' sh $names >"$1.log" 2>&1 || {
        tail "$1.log" >&2
        fail "could not download $names"
    }
}

scratch=$(mktemp -d -p /var/tmp)
trap 'rm -rf --one-file-system "$scratch"' EXIT
for release in "$@"; do
    printf '\n== %s\n' "$release"
    root=$scratch/$release
    mkdir "$root"
    make_root "$release" "$root"
    add_project "$root"
    download "$root"
    within "$root" --net -- bash -euc 'ip link set lo up; exec "$@"' bash \
        .venv/bin/python -B tests/fresh.py "$root" || fail "not with $release"
    rm -rf --one-file-system "$root"
done
