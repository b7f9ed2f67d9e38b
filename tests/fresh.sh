#!/bin/bash
# The way from a fresh Debian to a delivered message, and README.md's two commands for the tests, in roots made by
# debootstrap:
#     sudo tests/run.sh --fresh [--quick-start] [RELEASE...]
# With --quick-start it is the first alone, which takes some minutes.
# Packages come from $DEBIAN_MIRROR, or from debootstrap's own mirror. Everything runs in namespaces, which take
# every process and mount with them when they end; the quick start's has no network.
set -euo pipefail
# What runs in the background has a process group of its own, so that all of it can be ended.
set -m
cd "$(dirname "$0")/.."
# shellcheck source=tests/machine.sh
. tests/machine.sh

quick=
[ "${1-}" != --quick-start ] || { quick=yes && shift; }
[ $# -gt 0 ] || set -- bullseye bookworm trixie testing

install_packages \
    debootstrap debootstrap debootstrap \
    git git git \
    ip iproute2 iproute \
    unshare util-linux util-linux

# within ROOT OPTION... -- COMMAND...: runs a command that sees the root's own processes, where a running system
# has its file systems; the options are unshare's.
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
        mkdir -p "$0/dev/pts" "$0/dev/shm"
        mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 devpts "$0/dev/pts"
        mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$0/dev/shm"
        mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$0/run"
        mkdir -m 1777 "$0/run/lock"
        exec "$@"' "$root" "$@"
}

# log_in ROOT COMMAND...: runs a command as root does who has just logged in, with nothing of this environment but
# the way to the network. The root is the only one that there is, for in chroot(2)'s nobody makes namespaces.
log_in() {
    local root=$1 environment
    shift
    mapfile -t environment < <(env | grep -iE '^(https?|all|no)_proxy=')
    # shellcheck disable=SC2016
    within "$root" -- bash -euc '
        mount --rbind "$0" "$0"
        cd "$0"
        pivot_root . .
        umount -l .
        exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"' \
        "$root" HOME=/root LANG=C.UTF-8 "${environment[@]}" "$@"
}

# quietly LOG COMMAND...: shows what a command prints only if it fails.
quietly() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 || {
        tail "$log" >&2
        return 1
    }
}

# make_root RELEASE ROOT: the smallest system, which reaches its mirror and pip's registry as this machine does.
make_root() {
    quietly "$2.log" unshare --mount debootstrap --variant=minbase --include=ca-certificates "$1" "$2" \
        ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    cp /etc/resolv.conf /etc/hosts "$2/etc/"
    # A mirror that keeps to a day in the past has lists that have expired.
    apt-config dump 2>/dev/null | grep -iE '^Acquire::([a-z]*::Proxy|Check-)' >"$2/etc/apt/apt.conf.d/99mirror" || true
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$2/usr/local/share/ca-certificates/" \; \
        2>/dev/null || true
    chroot "$2" update-ca-certificates >/dev/null 2>&1
    {
        # The certificates above, which are not among pip's own.
        printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n'
        # The environment's come first, and count for more than those of files.
        .venv/bin/python -m pip config list |
            sed -nE "s/^[^']*\.(index-url|proxy|trusted-host)='(.*)'$/\1 = \2/p" | sort -u -k 1,1
    } >"$2/etc/pip.conf"
}

# add_project ROOT: what git would commit, as it is here.
add_project() {
    mkdir "$1/project"
    git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$1/project"
}

# download ROOT: the packages that the installer says it will install, as the only ones that apt knows from then on:
# without a network, no mirror answers it.
download() {
    local names
    names=$(within "$1" -- chroot "$1" /project/postfix/install.sh --dry-run |
        sed -n 's/^would install the packages //p')
    [ -n "$names" ] || fail 'the installer wants no packages in an empty system'
    # shellcheck disable=SC2016,SC2086
    quietly "$1.log" within "$1" -- chroot "$1" sh -euc '
        apt-get -q update
        apt-get -q -y --download-only --no-install-recommends install "$@"
        mkdir /packages
        mv /var/cache/apt/archives/*.deb /packages
        cd /packages
        for file in *.deb; do
            dpkg-deb -f "$file"
            printf "Filename: ./%s\nSize: %s\n" "$file" "$(stat -c %s "$file")"
            printf "SHA256: %s\n\n" "$(sha256sum <"$file" | cut -d " " -f 1)"
        done >Packages
        rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
        echo "deb [trusted=yes] file:/packages ./" >/etc/apt/sources.list.d/packages.list' sh $names
}

# prepare RELEASE ROOT: a fresh system with the project.
prepare() {
    mkdir "$2"
    make_root "$1" "$2"
    add_project "$2"
}

# quick_start ROOT: goes through it in a copy of the root, which stays fresh.
quick_start() {
    local copy=$1.copy
    cp -a "$1" "$copy"
    download "$copy"
    within "$copy" --net -- bash -euc 'ip link set lo up; exec "$@"' bash \
        .venv/bin/python -B tests/fresh.py "$copy"
    rm -rf --one-file-system "$copy"
}

# readme_command ROOT COMMAND: one of README.md's, in the project's directory.
readme_command() {
    # shellcheck disable=SC2016
    log_in "$1" sh -euc 'cd /project; exec "$0"' "$2"
}

# step NAME COMMAND...: runs it, and notes how long it took.
step() {
    local name=$1 began=$SECONDS status took
    shift
    printf '\n== %s: %s\n' "$release" "$name"
    # Within a condition, bash would go on after an error.
    set +e
    (
        set -e
        "$@"
    )
    status=$?
    set -e
    took=$((SECONDS - began))
    printf '%-10s%-24s%3d:%02d%s\n' "$release" "$name" $((took / 60)) $((took % 60)) \
        "$([ "$status" -eq 0 ] || echo '  failed')" >>"$scratch/times"
    return "$status"
}

# try_out RELEASE: all that is tried in one.
try_out() {
    local root=$scratch/$1
    step 'a fresh system' prepare "$1" "$root"
    step 'the quick start' quick_start "$root"
    # On Debian 11, which has become old, the relay is to work; the tests themselves need not.
    if [ -z "$quick" ] && [ "$1" != bullseye ]; then
        step tests/demo.sh readme_command "$root" tests/demo.sh
        step tests/run.sh readme_command "$root" tests/run.sh
    fi
}

# end_all: whatever ends this script. Those who still write into a root when they are killed do so for a moment.
end_all() {
    [ -z "${trial-}" ] || kill -KILL -- "-$trial" || true
    wait
    rm -rf --one-file-system "$scratch" || { sleep 3 && rm -rf --one-file-system "$scratch"; }
} 2>/dev/null

scratch=$(mktemp -d -p /var/tmp)
trap end_all EXIT
failed=
for release in "$@"; do
    try_out "$release" </dev/null &
    trial=$!
    wait "$trial" || failed+=" $release"
    trial=
    rm -rf --one-file-system "${scratch:?}/$release"*
done
printf '\nIt took, in minutes and seconds:\n'
cat "$scratch/times"
[ -z "$failed" ] || fail "not with$failed"
