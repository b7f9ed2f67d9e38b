#!/bin/bash
# Goes from a fresh Debian to a delivered message, and runs the manual's two commands for the tests, in root file
# systems made by debootstrap:
#     sudo tests/run.sh --fresh [--quick-start] [RELEASE...]
# With --quick-start it does only the first, which takes some minutes.
# Packages come from $DEBIAN_MIRROR, or from debootstrap's default mirror. Everything runs in namespaces, which end
# with all their processes and mounts; the one for the quick start has no network.
set -euo pipefail
# Background jobs get their own process groups, so that a whole job can be ended.
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

# within ROOT OPTION... -- COMMAND...: runs a command in its own namespaces, with the file systems of a running
# system mounted in the root; the options are unshare's.
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

# log_in ROOT COMMAND...: runs a command as if root had just logged in, with only the proxies of this environment.
# It uses pivot_root(2), because after chroot(2) nobody can create user namespaces.
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

# make_root RELEASE ROOT: a minimal system, which reaches its mirror and pip's registry as this machine does.
make_root() {
    quietly "$2.log" unshare --mount debootstrap --variant=minbase --include=ca-certificates "$1" "$2" \
        ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    cp /etc/resolv.conf /etc/hosts "$2/etc/"
    # If the mirror shows a past day, its lists have expired.
    apt-config dump 2>/dev/null | grep -iE '^Acquire::([a-z]*::Proxy|Check-)' >"$2/etc/apt/apt.conf.d/99mirror" || true
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$2/usr/local/share/ca-certificates/" \; \
        2>/dev/null || true
    chroot "$2" update-ca-certificates >/dev/null 2>&1
    {
        # pip's own certificates lack those above.
        printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n'
        # The environment's values come first, and override those of files.
        .venv/bin/python -m pip config list |
            sed -nE "s/^[^']*\.(index-url|proxy|trusted-host)='(.*)'$/\1 = \2/p" | sort -u -k 1,1
    } >"$2/etc/pip.conf"
}

# add_project ROOT: copies the files that git would commit, as they are here.
add_project() {
    mkdir "$1/project"
    git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$1/project"
}

# download ROOT: fetches the packages that the installer will install, and makes them the only ones that apt knows:
# without a network, no mirror will answer.
download() {
    local names
    names=$(within "$1" -- chroot "$1" /project/postfix/install.sh --dry-run |
        sed -n 's/^would install the packages //p')
    [ -n "$names" ] || fail 'the installer needs no packages in an empty system'
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

# prepare RELEASE ROOT: creates a fresh system with the project.
prepare() {
    mkdir "$2"
    make_root "$1" "$2"
    add_project "$2"
}

# quick_start ROOT: goes through it in a copy of the root, so that the root stays fresh.
quick_start() {
    local copy=$1.copy
    cp -a "$1" "$copy"
    download "$copy"
    within "$copy" --net -- bash -euc 'ip link set lo up; exec "$@"' bash \
        .venv/bin/python -B tests/fresh.py "$copy"
    rm -rf --one-file-system "$copy"
}

# readme_command ROOT COMMAND: runs a command of README.md in the project's directory.
readme_command() {
    # shellcheck disable=SC2016
    log_in "$1" sh -euc 'cd /project; exec "$0"' "$2"
}

# step NAME COMMAND...: runs it, and notes how long it took.
step() {
    local name=$1 began=$SECONDS status took
    shift
    printf '\n== %s: %s\n' "$release" "$name"
    # In a condition, bash would continue after an error.
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

# try_out RELEASE: all steps with one release.
try_out() {
    local root=$scratch/$1
    step 'a fresh system' prepare "$1" "$root"
    step 'the quick start' quick_start "$root"
    # On Debian 11, which is old, the relay has to work, but not the tests.
    if [ -z "$quick" ] && [ "$1" != bullseye ]; then
        step tests/demo.sh readme_command "$root" tests/demo.sh
        step tests/run.sh readme_command "$root" tests/run.sh
    fi
}

# end_all: cleans up, whatever ends this script. Killed processes may still write into a root for a moment.
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
printf '\nTimes, in minutes and seconds:\n'
cat "$scratch/times"
[ -z "$failed" ] || fail "failed with$failed"
