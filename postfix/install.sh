#!/usr/bin/env -S bash
# Sets up a Debian, Ubuntu, Fedora or RHEL machine as the relay, or updates an installed relay: see --help. It asks
# nothing. Every step checks what is there and changes only what differs, so you can run it again at any time, even
# after a run that stopped in the middle.
#
# The next three lines work in any shell, and with Windows line endings, which the "#" at their end hides:
# "sh postfix/install.sh" continues in bash, and files with Windows line endings are refused.
CRLF="Windows line endings (CRLF): unpack the release on this machine, or run: find . -path ./.git -prune -o -type f -exec sed -i 's/\r\$//' {} +" #
! grep -q "$(printf '\r')" "$0" "$(dirname "$0")"/*.sh || { printf '%s\n' "${0##*/}: $(dirname "$0") has files with $CRLF" >&2; exit 1; } #
[ -n "${BASH_VERSION-}" ] && [ "${BASH##*/}" != sh ] || exec bash "$0" "$@" #
set -euo pipefail
umask 022
PATH=$PATH:/usr/sbin:/sbin
PROJECT=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
# shellcheck source=postfix/packages.sh
. "$PROJECT/postfix/packages.sh"

SCRIPT=postfix-api-relay
SECRETS=api-secrets.json
LOG=postfix-api-relay.log
MODULE=postfix-relay
# What the shipped files say.
SHIPPED_HOME=/opt/postfix-relay
SHIPPED_ACCOUNT=postfix-relay
# The cleanup(8) service for mail that is submitted on this host, and the parameter of main.cf that it uses.
LOCAL_CLEANUP=cleanup-local
LOCAL_TO=local_undisclosed_recipients_header
# The transport for urgent mail, and its form in tables: one next hop keeps a message's recipients together.
URGENT_TRANSPORT=apirelay-urgent
URGENT_WAY=$URGENT_TRANSPORT:api-relay
# An address that needs no quoting in a Postfix table.
ADDRESS="[A-Za-z0-9.!#%&'*+/?^_\`|~-]+@[A-Za-z0-9.-]+"
# Whose mail is urgent: an address (a leading "#" would make it a comment), a domain, or a network.
URGENT_ONE="([A-Za-z0-9]$ADDRESS|[A-Za-z0-9]?@[A-Za-z0-9.-]+|[][0-9A-Fa-f:./]+)"

POSTFIX_CONFIG=/etc/postfix
LOGROTATE_CONFIG=/etc/logrotate.d
RELAY_HOME='' ACCOUNT='' NETWORKS='' PROVIDER='' MAXPROC='' OPEN='' DRY_RUN='' UNINSTALL=''
REPLACE_MTA='' ROOT_TO='' SEND_TEST='' URGENT='' BY_HEADER=''
# Whether the administrator has something left to do.
LEFT=''

CHANGES=0
FILES_SAVED=''
# What makes Postfix use the changes: "", reload or restart.
WANTED_OF_POSTFIX=''

usage() {
    cat <<END
usage: sudo postfix/install.sh [OPTION...]

Makes this machine the relay: packages, account, files, log rotation, SELinux and Postfix. Run it again to
upgrade: it changes only what differs, and keeps what you have changed since.

  --networks CIDR[,CIDR...]  who may send without a password, besides this host (default: who may now)
  --provider graph|ses       API_PROVIDER of a new $SECRETS (default: what the example says)
  --maxproc N                how many messages to deliver at the same time (default: as it is; at first 1, with SES 4)
  --root-to ADDRESS          where mail to root and to this machine's other accounts goes (default: as it is, or
                             ADMIN_NOTIFICATION_EMAIL once that is configured)
  --urgent SENDER-OR-CIDR[,...]
                             whose mail goes ahead of all mail waiting for the rate limit: addresses, @domains and
                             networks (default: as it is; none: nobody's, not even by header)
  --urgent-by-header         the same for mail with the header Importance: high, X-Priority: 1 or Priority: urgent
  --send-test ADDRESS        at the end, send one message through Postfix and follow it to the provider's answer
  --dry-run                  print every change and make none
  --uninstall                put the saved main.cf and master.cf back; keep configuration, secrets and log
  --home DIR                 the relay's directory (default: as it is, $SHIPPED_HOME at first)
  --user NAME                the relay's account (default: as it is, $SHIPPED_ACCOUNT at first)
  --postfix-config DIR       Postfix's configuration (default: /etc/postfix)
  --logrotate-config DIR     logrotate's configuration (default: /etc/logrotate.d)
  --replace-mta              let Postfix replace another mail server, such as exim4, which apt then removes
  --i-know-this-is-an-open-relay
                             allow networks that are not private
  --help, -h                 print this
END
}

main() {
    parse_options "$@"
    [ "$(id -u)" -eq 0 ] || fail 'run it as root: sudo postfix/install.sh'
    SCRATCH=$(mktemp -d) || fail "let root write in ${TMPDIR:-/tmp}, then run this again"
    trap 'rm -rf "$SCRATCH"' EXIT
    mkdir "$SCRATCH/installed"
    # What runs as the account must not see the directory where this was started.
    cd /
    take_defaults
    require_guarded_home
    if [ -n "$UNINSTALL" ]; then
        uninstall
    else
        install_relay
    fi
}

install_relay() {
    require_project
    take_urgent
    refuse_open_networks
    refuse_filter
    put_packages
    require_usable_machine
    put_account
    put_home
    put_script
    put_configuration
    put_reserve
    put_secrets
    put_log
    put_state
    put_logrotate
    put_selinux
    show_overrides
    take_root_to
    put_service apirelay
    put_urgent
    put_local_cleanup
    # Last: Postfix's commands wait a little before they read a main.cf that was just written.
    put_settings
    remember
    run_postfix
    start_at_boot
    conclude
    show_networks
    show_urgent
    show_root_mail
    [ -n "$DRY_RUN" ] || check_relay
    [ -n "$DRY_RUN" ] || [ -z "$SEND_TEST" ] || send_test
    [ -z "$LEFT" ] || exit 1
}

uninstall() {
    show_edits
    restore master.cf
    restore main.cf
    [ ! -e "$(saved)" ] || run_postfix
    remove_urgent_tables
    if is_used_without_us; then
        echo "kept: $RELAY_HOME/$SCRIPT, which master.cf named before the installation"
    else
        # First: from then on nobody can replace the program.
        close_home
        remove_selinux
        remove_file logrotate "$(logrotate_file)"
        remove_script
    fi
    forget
    conclude
    show_kept
}

# ---------------------------------------------------------------- options

parse_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        esac
        case $1 in
            --help | -h) usage && exit ;;
            --dry-run) DRY_RUN=yes ;;
            --uninstall) UNINSTALL=yes ;;
            --replace-mta) REPLACE_MTA=yes ;;
            --i-know-this-is-an-open-relay) OPEN=yes ;;
            --urgent-by-header) BY_HEADER=yes ;;
            --networks | --provider | --maxproc | --home | --user | --postfix-config | --logrotate-config | \
                --root-to | --send-test | --urgent)
                [ -n "${2-}" ] || fail "$1 needs a value: see --help"
                take_option "$1" "$2"
                shift
                ;;
            *) fail "unknown option $1: see --help" ;;
        esac
        shift
    done
}

# take_option NAME VALUE: an invalid value ends the run.
take_option() {
    case $1 in
        --networks) NETWORKS=$2 ;;
        --provider) must_match "$1" "$2" '(graph|ses)' 'graph or ses' && PROVIDER=$2 ;;
        --maxproc) must_match "$1" "$2" '[1-9][0-9]{0,3}' 'a whole number from 1' && MAXPROC=$2 ;;
        --root-to) must_match "$1" "$2" "$ADDRESS" 'one e-mail address' && ROOT_TO=$2 ;;
        --urgent)
            must_match "$1" "$2" "(none|$URGENT_ONE(,$URGENT_ONE)*)" \
                'addresses, @domains and networks with commas between them, or none' && URGENT=$2
            ;;
        --send-test) must_match "$1" "$2" "$ADDRESS" 'one e-mail address' && SEND_TEST=$2 ;;
        --user) must_match "$1" "$2" '[a-z_][a-z0-9_-]*' 'the name of an account' && ACCOUNT=$2 ;;
        --home) must_be_path "$1" "$2" && RELAY_HOME=${2%/} ;;
        --postfix-config) must_be_path "$1" "$2" && POSTFIX_CONFIG=${2%/} ;;
        --logrotate-config) must_be_path "$1" "$2" && LOGROTATE_CONFIG=${2%/} ;;
    esac
}

# take_defaults: the home and the account of the installed relay, or else those of the shipped files.
take_defaults() {
    local entry
    entry=$(postconf_now -M apirelay/unix)
    [ -n "$entry" ] || entry=$(cat "$(saved installed/master.cf)" 2>/dev/null) || true
    if [ -z "$RELAY_HOME" ]; then
        [[ ! "$entry " =~ [\ =]([^\ =]+)/$SCRIPT\  ]] || take_option --home "${BASH_REMATCH[1]}"
    fi
    if [ -z "$ACCOUNT" ]; then
        [[ ! $entry =~ \ user=([^\ :]+) ]] || take_option --user "${BASH_REMATCH[1]}"
    fi
    RELAY_HOME=${RELAY_HOME:-$SHIPPED_HOME}
    ACCOUNT=${ACCOUNT:-$SHIPPED_ACCOUNT}
}

must_match() {
    [[ $2 =~ ^$3$ ]] || fail "$1 $2: it must be $4"
}

# The paths go into master.cf, where a blank separates arguments, and into other files with rules of their own.
must_be_path() {
    must_match "$1" "$2" '(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+/?' 'an absolute path of letters, digits and ._+-'
}

# ---------------------------------------------------------------- how changes are made

# change WHAT FIX COMMAND...: the only way in which this script changes anything; WHAT and FIX are imperatives.
change() {
    local what=$1 fix=$2
    shift 2
    CHANGES=$((CHANGES + 1))
    if [ -n "$DRY_RUN" ]; then
        echo "would $what"
        return
    fi
    echo "$what"
    quietly "$@" || fail "could not ${what%%$'\n'*} ($(reason)): $fix, then run this again"
}

# quietly COMMAND...: keeps its output for reason.
quietly() {
    "$@" >"$SCRATCH/output" 2>&1
}

# with_dots COMMAND...: a dot on descriptor 3 every five seconds shows that it still runs.
with_dots() {
    local dots status=0 began=$SECONDS
    while sleep 5 >/dev/null 2>&1 3>&- && kill -0 $$ 2>/dev/null; do printf . >&3; done 2>/dev/null &
    dots=$!
    # What the command leaves running must not keep the descriptor.
    "$@" 3>&- || status=$?
    kill "$dots" 2>/dev/null || true
    [ $((SECONDS - began)) -lt 5 ] || echo >&3
    return "$status"
}

# reason: the last line that the last quiet command printed, without control characters, which the account may
# have put there.
reason() {
    tail -n 1 "$SCRATCH/output" | LC_ALL=C.UTF-8 sed 's/[[:cntrl:]]/?/g'
}

# as ACCOUNT COMMAND...: runs it in its own session, away from root's terminal, which the account could read or type
# into. The output goes to the caller.
as() {
    fed /dev/null "$@"
}

# fed FILE ACCOUNT COMMAND...: the same, with that file as standard input. The account can stop what runs as itself,
# keep its output open, and read its environment: so the command has a time limit, prints to its own file, and gets none
# of root's environment.
fed() {
    local status=0
    rm -f "$SCRATCH/said"
    env -i PATH="$PATH" timeout -k 5 60 setsid -w runuser -u "$2" -- "${@:3}" <"$1" >"$SCRATCH/said" || status=$?
    cat "$SCRATCH/said"
    return "$status"
}

# place MODE ACCOUNT FILE TARGET: its owner writes a new file, which nobody else can read until its mode is set, and
# which is renamed when it is complete. So neither a descriptor that was opened before nor a link that the account has
# put there leads to it.
place() {
    local labels='' new
    ! has_selinux || labels=yes
    # logrotate reads every file in its directory, unless the name ends with "~". With the label of the old file,
    # Postfix can run the script even in the moment before restorecon.
    # shellcheck disable=SC2016
    fed "$3" "$2" bash -c '
        umask 077
        new=$(mktemp --suffix="~" "$2.XXXXXX") || exit
        cat >"$new" && chmod "$1" "$new" &&
            { [ -z "$3" ] || [ ! -f "$2" ] || [ -L "$2" ] || chcon --reference="$2" "$new"; } &&
            echo "$new" && exit
        rm -f "$new"
        exit 1' bash "$1" "$4" "$labels" >"$SCRATCH/new" || return
    # The account may have changed this: it must be a name beside the target.
    new=$(head -n 1 "$SCRATCH/new")
    [[ $new =~ ^"$4"\.[A-Za-z0-9]{6}~$ ]] || return
    # As root: in a sticky directory the account can replace only its own files.
    mv -fT "$new" "$4" || { rm -f "$new" && return 1; }
}

# is_placed MODE ACCOUNT FILE TARGET: whether place would change nothing. A file that is not root's is not read.
is_placed() {
    has_mode "$1" "$2" "$4" && cmp -s "$3" "$4"
}

# has_mode MODE ACCOUNT FILE: whether it is a regular file without hard links, with this mode and owner.
has_mode() {
    [[ "$(stat -c '%F %h %a %U:%G' "$3" 2>/dev/null)" = "regular "*" 1 $1 $2:$(group "$2")" ]]
}

# copy FILE TARGET: keeps owner, mode and times; never leaves a partial file.
copy() {
    mkdir -p "${2%/*}" && cp -p "$1" "$2.new" && mv -T "$2.new" "$2"
}

space_fix() {
    echo "check that $1 has room and that root can write there"
}

# group ACCOUNT: its primary group, even if it still has to be created.
group() {
    id -gn "$1" 2>/dev/null || echo "$1"
}

# adapted FILE: a shipped file, for this home and this account.
adapted() {
    sed -e "s|$SHIPPED_HOME/|$RELAY_HOME/|g" \
        -e "s|user=$SHIPPED_ACCOUNT |user=$ACCOUNT |" \
        -e "s|$SHIPPED_ACCOUNT $SHIPPED_ACCOUNT\$|$ACCOUNT $(group "$ACCOUNT")|" "$PROJECT/$1"
}

# ---------------------------------------------------------------- requirements

require_project() {
    local file
    for file in "$SCRIPT" {relay-config,api-secrets}.json.example postfix/{main,master}.cf \
        "logrotate/$SCRIPT" selinux/{build.sh,"$MODULE.te","$MODULE.fc"}; do
        [ -f "$PROJECT/$file" ] || fail "$PROJECT/$file is missing: unpack the whole release and run it there"
        ! grep -q $'\r' "$PROJECT/$file" || fail "$PROJECT/$file has $CRLF"
    done
}

# Root uses the home by path: nobody else must be able to put another directory there.
require_guarded_home() {
    local path=$RELAY_HOME parent
    while [ -n "$path" ]; do
        parent=${path%/*}
        [ ! -L "$path" ] ||
            fail "$path is a link, which may lead elsewhere later: name the directory itself with --home"
        [ ! -e "${parent:-/}" ] || [ -L "$parent" ] || is_guarded "${parent:-/}" "$path" ||
            fail "accounts other than root could replace $path: let only root write in ${parent:-/}, or choose another directory with --home"
        path=$parent
    done
}

# is_guarded DIR ENTRY: whether only root can replace an entry of a directory. In a sticky directory that holds for
# root's own entries.
is_guarded() {
    local owner mode
    read -r owner mode < <(stat -c '%u %a' "$1")
    [ "$owner" = 0 ] && {
        (((8#$mode & 8#022) == 0)) ||
            { (((8#$mode & 8#1000) != 0)) && [ "$(stat -c %u "$2" 2>/dev/null)" = 0 ]; }
    }
}

# Before anything is changed, unless Python is still missing.
refuse_open_networks() {
    [ ! -x "$PYTHON" ] || { allowed_networks && urgent_clients; } >/dev/null
}

put_packages() {
    local names wanted triples=(
        "$PYTHON" python3 python3
        python:requests python3-requests python3-requests
        postfix postfix postfix
        logrotate logrotate logrotate
        cmp diffutils diffutils
    )
    ! wants_boto3 || triples+=(python:boto3 python3-boto3 python3-boto3)
    ! says API_CREDENTIAL certificate ||
        triples+=(python:cryptography python3-cryptography python3-cryptography)
    ! has_selinux || triples+=(
        checkmodule checkpolicy checkpolicy
        semodule_package semodule-utils policycoreutils
        restorecon policycoreutils policycoreutils
    )
    names=$(missing_packages "${triples[@]}")
    [ -n "$names" ] || return 0
    mapfile -t wanted <<<"$names"
    [[ " ${wanted[*]} " != *' postfix '* ]] || require_no_other_mta
    change "install the packages ${wanted[*]}" 'fix that with apt or dnf' \
        with_dots add_packages "${wanted[@]}" 3>&1
}

# dnf removes none: Fedora's mail servers can be installed side by side.
require_no_other_mta() {
    local others
    others=$(other_mta)
    [ -n "$others" ] || return 0
    [ -n "$REPLACE_MTA" ] ||
        fail "$others is this machine's mail server, and apt would remove it for Postfix: use another machine, or add --replace-mta"
    echo "note: apt removes $others, and leaves its configuration in /etc"
}

# other_mta: Debian's installed alternatives to Postfix, separated by blanks.
other_mta() {
    is_there dpkg-query || return 0
    # shellcheck disable=SC2016
    dpkg-query -W -f='${db:Status-Abbrev}|${Package}|${Provides}\n' 2>/dev/null |
        sed -n 's/^.i *|\([^|]*\)|.*mail-transport-agent.*/\1/p' | grep -vx postfix | paste -sd ' ' - || true
}

# Graph does not need boto3, which RHEL has only in EPEL.
wants_boto3() {
    [ "$PROVIDER" = ses ] || command -v apt-get >/dev/null || is_there python:boto3 ||
        dnf -q info python3-boto3 >/dev/null 2>&1
}

has_selinux() {
    selinuxenabled 2>/dev/null
}

# In a dry run the packages may be missing, so they cannot be checked.
require_usable_machine() {
    local file
    [ ! -x "$PYTHON" ] || require_running_script
    for file in main.cf master.cf; do
        [ -n "$DRY_RUN" ] || [ -f "$POSTFIX_CONFIG/$file" ] ||
            fail "$POSTFIX_CONFIG/$file is missing: set Postfix up (on Debian: dpkg-reconfigure postfix), then run this again"
    done
    ! is_somebody_elses "$RELAY_HOME" ||
        fail "$RELAY_HOME is in use, but not by the relay: choose another directory with --home"
}

# is_somebody_elses DIR: whether it exists, has content, and nothing shows that it is the relay's. The script alone
# does not: it may have been put into a directory of commands.
is_somebody_elses() {
    [ -e "$1" ] && [ "$(stat -L -c %U "$1")" != "$ACCOUNT" ] && ! is_home "$1" 1770 && ! is_home "$1" 750 &&
        [ ! -e "$1/$SECRETS" ] && [ -n "$(ls -A "$1")" ]
}

# is_home DIR MODE: with 1770 the account can write in it, but replace only its own files there; --uninstall leaves it
# with 750.
is_home() {
    [ "$(stat -L -c '%a %U:%G' "$1" 2>/dev/null)" = "$2 root:$(group "$ACCOUNT")" ]
}

# A copy, because Python may leave bytecode beside it.
require_running_script() {
    quietly cp "$PROJECT/$SCRIPT" "$SCRATCH" ||
        fail "no room for the relay ($(reason)): free some space in ${SCRATCH%/*}, then run this again"
    quietly "$PYTHON" -I "$SCRATCH/$SCRIPT" --version ||
        fail "the relay does not run here ($(reason)): it needs Python 3.9 or newer as $PYTHON"
}

# ---------------------------------------------------------------- account and files

put_account() {
    local shell
    shell=$(command -v nologin || echo /bin/false)
    getent group "$ACCOUNT" >/dev/null || getent passwd "$ACCOUNT" >/dev/null ||
        change "create the group $ACCOUNT" 'see groupadd(8)' groupadd --system "$ACCOUNT"
    getent passwd "$ACCOUNT" >/dev/null ||
        change "create the account $ACCOUNT" 'see useradd(8)' useradd --system --gid "$ACCOUNT" \
            --no-create-home --home-dir "$RELAY_HOME" --shell "$shell" "$ACCOUNT"
    [ "$(id -u "$ACCOUNT" 2>/dev/null)" != 0 ] ||
        fail "the account $ACCOUNT is root, and Postfix runs nothing as root: choose another one with --user"
    [ "$(postconf_now -h mail_owner)" != "$ACCOUNT" ] ||
        fail "the account $ACCOUNT is Postfix's own, and Postfix runs nothing as its own account: choose another one with --user"
}

put_home() {
    local verb=create
    [ ! -e "$RELAY_HOME" ] || verb='set owner and mode of'
    # Before anything is put into it: from now on the account cannot replace root's files. pipe(8) gives it only its
    # primary group.
    is_home "$RELAY_HOME" 1770 ||
        change "$verb $RELAY_HOME" "$(space_fix "${RELAY_HOME%/*}")" \
            install -d -o root -g "$(group "$ACCOUNT")" -m 01770 "$RELAY_HOME"
    # The account may have set one while the directory was its own: then it could change what root creates there.
    [ -z "$(acl list "$RELAY_HOME" 2>/dev/null)" ] ||
        change "remove the access control list of $RELAY_HOME" 'see setfacl(1)' acl remove "$RELAY_HOME"
    [ -n "$DRY_RUN" ] || quietly as "$ACCOUNT" test -w "$RELAY_HOME" ||
        fail "the account $ACCOUNT cannot write in $RELAY_HOME: let it enter the directories above, then run this again"
}

# acl list|remove DIR: its access control lists, including the one for new files. setfacl(1) may be missing.
acl() {
    [ -d "$2" ] && [ -x "$PYTHON" ] && "$PYTHON" -I -c '
import os, sys
command, directory = sys.argv[1:]
for name in os.listxattr(directory):
    if name.startswith("system.posix_acl_"):
        print(name)
        if command == "remove":
            os.removexattr(directory, name)' "$@"
}

put_script() {
    local target=$RELAY_HOME/$SCRIPT verb=install
    ! is_something "$target" || verb=replace
    if ! is_placed 755 root "$PROJECT/$SCRIPT" "$target"; then
        change "$verb $target" "$(space_fix "$RELAY_HOME")" place_script "$target"
    elif ! is_compiled "$target"; then
        change "compile $target" "$(space_fix "$RELAY_HOME")" compile "$target"
    fi
    [ -n "$DRY_RUN" ] || quietly as "$ACCOUNT" "$target" --version ||
        fail "the account $ACCOUNT cannot run $target ($(reason)): fix that, then run this again"
}

# is_something PATH: whether anything is there, even a broken link.
is_something() {
    [ -e "$1" ] || [ -L "$1" ]
}

place_script() {
    { [ ! -d "$1" ] || [ -L "$1" ] || rm -r "$1"; } && place 755 root "$PROJECT/$SCRIPT" "$1" && compile "$1"
}

# The relay starts from Python's cache of the compiled script, which its account must not be able to change. Unless
# everything in it is root's, the directory is created anew: Python would use what the account has put there. rm(1)
# follows no link.
compile() {
    local cache=${1%/*}/__pycache__
    { is_roots_cache "$cache" && [ -z "$(find "$cache" -mindepth 1 ! -user root -print -quit)" ]; } ||
        { make_directory "$cache" && chmod 755 "$cache" && { ! has_selinux || restorecon "$cache"; }; } || return
    "$PYTHON" -I - "$1" <<'END' && is_compiled "$1"
import sys

# Only what a delivery needs, just as the script compiles it: its first part defines how.
part = {"__name__": "part"}
with open(sys.argv[1], "rb") as file:
    exec(file.read().split(b"\f")[0], part)
part["loader_of"](sys.argv[1]).get_code("postfix_api_relay")
END
}

# make_directory DIR: replaces whatever is there. The account may quickly put something there again.
make_directory() {
    local try
    for try in {1..100}; do
        ! { rm -rf "$1" && mkdir "$1"; } || return 0
    done
    echo "$1 came back $try times: end the processes of the account $ACCOUNT"
    return 1
}

is_roots_cache() {
    [ "$(stat -c '%F %a %U' "$1" 2>/dev/null)" = 'directory 755 root' ]
}

# is_compiled FILE: a cache that is not root's does not count.
is_compiled() {
    is_roots_cache "${1%/*}/__pycache__" || return
    "$PYTHON" -I - "$1" <<'END'
import importlib.util
import os
import pathlib
import stat
import struct
import sys

script = os.stat(sys.argv[1])
cache = pathlib.Path(importlib.util.cache_from_source(sys.argv[1]))
head = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, int(script.st_mtime), script.st_size)
found = cache.lstat() if os.path.lexists(cache) else None
roots = found and stat.S_ISREG(found.st_mode) and found.st_uid == 0 and stat.S_IMODE(found.st_mode) == 0o644
sys.exit(not (roots and cache.read_bytes().startswith(head)))
END
}

# It says where the log is, among other things: the account may only read it.
put_configuration() {
    local file=$RELAY_HOME/relay-config.json
    if ! is_something "$file"; then
        put_new 644 root "$PROJECT/relay-config.json.example" "$file"
    elif ! has_mode 644 root "$file"; then
        put_owner_and_mode 644 root "$file"
    fi
}

# put_reserve: when urgent mail is set up, keeps slots of the rate limit for it; the example says 0.
put_reserve() {
    local file=$RELAY_HOME/relay-config.json new=$SCRATCH/relay-config.json
    { has_urgent && [ ! -e "$(saved installed/urgent)" ] && [ -x "$PYTHON" ]; } || return 0
    { if [ -f "$file" ]; then content_of "$file"; else cat "$PROJECT/relay-config.json.example"; fi; } >"$new.old"
    if ! quietly with_reserve "$new.old" "$new"; then
        echo "note: set RATE_LIMIT_URGENT_RESERVE to 6 in $file, which could not be read ($(reason))"
    elif ! cmp -s "$new.old" "$new"; then
        change "keep slots of the rate limit for urgent mail: RATE_LIMIT_URGENT_RESERVE in $file" \
            "$(space_fix "$RELAY_HOME")" place 644 root "$new" "$file"
    fi
}

# with_reserve FILE NEW: sets a missing or zero key to 6, or half of a smaller limit; the rest stays as written.
with_reserve() {
    "$PYTHON" -I - "$@" <<'END'
import json
import re
import sys

with open(sys.argv[1], encoding="utf-8", newline="") as file:
    text = file.read()
config, key = json.loads(text), "RATE_LIMIT_URGENT_RESERVE"
if not config.get(key):
    reserve = min(6, (config.get("RATE_LIMIT_PER_MINUTE") or 12) // 2)
    new, found = re.subn(rf'("{key}"\s*:\s*)(0|null)(?![\d.])', rf"\g<1>{reserve}", text)
    if not found:
        new = re.sub(r"\s*}\s*$", f'{"," * bool(config)}\n  "{key}": {reserve}\n}}\n', text)
    if json.loads(new) != {**config, key: reserve}:
        sys.exit(f"{key} is not where it was expected")
    text = new
with open(sys.argv[2], "w", encoding="utf-8", newline="") as file:
    file.write(text)
END
}

# put_new MODE ACCOUNT FILE TARGET
put_new() {
    change "create $4" "$(space_fix "$RELAY_HOME")" place "$@"
}

# put_owner_and_mode MODE ACCOUNT FILE
put_owner_and_mode() {
    change "set owner and mode of $3" "put the file itself there, with mode $1 and owner $2" \
        set_owner_and_mode "$@"
}

# set_owner_and_mode MODE ACCOUNT FILE: a new file with the same content.
set_owner_and_mode() {
    content_of "$3" >"$SCRATCH/content" && place "$1" "$2" "$SCRATCH/content" "$3"
}

# content_of FILE: of a file in the home. Root reads only its own files without hard links; the account itself reads
# the others, wherever they lead. A pipe could block it forever.
content_of() {
    if [[ "$(stat -c '%F %h %U' "$1")" = "regular "*" 1 root" ]]; then
        cat "$1"
    else
        as "$ACCOUNT" timeout 10 head -c 64M "$1"
    fi
}

put_secrets() {
    local file=$RELAY_HOME/$SECRETS
    [ ! -L "$file" ] || fail "$file is a link, which the relay does not follow: put the file itself there"
    if [ ! -e "$file" ]; then
        sed "${PROVIDER:+s/\(\"API_PROVIDER\": \)\"[a-z]*\"/\1\"$PROVIDER\"/}" \
            "$PROJECT/$SECRETS.example" >"$SCRATCH/$SECRETS"
        put_new 600 "$ACCOUNT" "$SCRATCH/$SECRETS" "$file"
        return
    fi
    [ -z "$PROVIDER" ] || is_set_provider "$PROVIDER" ||
        echo "kept: $file; --provider is only for a new one, so edit API_PROVIDER there"
    has_mode 600 "$ACCOUNT" "$file" || put_owner_and_mode 600 "$ACCOUNT" "$file"
}

# is_set_provider PROVIDER: whether the secrets file names it, or the option, if a dry run created no file.
is_set_provider() {
    if [ -f "$RELAY_HOME/$SECRETS" ]; then
        says API_PROVIDER "$1"
    else
        [ "$PROVIDER" = "$1" ]
    fi
}

# says KEY VALUE: whether the secrets file does.
says() {
    local file=$RELAY_HOME/$SECRETS
    [ -f "$file" ] &&
        as "$ACCOUNT" timeout 10 grep -Eqs "\"$1\"[[:space:]]*:[[:space:]]*\"$2\"" "$file" >/dev/null 2>&1
}

# The log is not copied: it may be large, and all of it is kept.
put_log() {
    local file=$RELAY_HOME/$LOG aside
    if is_own_log "$file"; then
        { [ "$(stat -c %U "$file")" = "$ACCOUNT" ] && quietly as "$ACCOUNT" test -w "$file"; } ||
            change "set owner and mode of $file" 'see chown(1) and chmod(1)' take_log "$file"
        return
    fi
    aside=$file.old-$(date +%Y%m%dT%H%M%S)
    ! is_something "$file" ||
        change "move $file, which is not the relay's own, out of the way to ${aside##*/}" 'see mv(1)' \
            mv -T "$file" "$aside"
    put_new 644 "$ACCOUNT" /dev/null "$file"
}

# is_own_log FILE: whether it is a regular file without hard links, owned by the account or root, who may have started
# an older version by hand. Neither can change meanwhile: the account cannot replace root's file.
is_own_log() {
    [[ "$(stat -c '%F %h %U' "$1" 2>/dev/null)" =~ ^regular\ .*\ 1\ (root|"$ACCOUNT")$ ]]
}

take_log() {
    { [ "$(stat -c %U "$1")" = "$ACCOUNT" ] || chown -h "$ACCOUNT:$(group "$ACCOUNT")" "$1"; } &&
        as "$ACCOUNT" chmod 644 "$1"
}

# put_state: in a sticky directory the account cannot replace state files that others have left.
put_state() {
    local file
    for file in "$RELAY_HOME"/{.rate-limit-state,.{graph-token,ses-credentials}-cache,.notice-state}{,.new} \
        "$RELAY_HOME"/.progress-*; do
        ! is_something "$file" || [ "$(stat -c %U "$file" 2>/dev/null)" = "$ACCOUNT" ] ||
            change "remove $file, which the account cannot replace" 'see rm(1)' rm -rf "$file"
    done
}

# ---------------------------------------------------------------- log rotation

# Each home has its own file there.
logrotate_file() {
    if [ "$RELAY_HOME" = "$SHIPPED_HOME" ]; then
        echo "$LOGROTATE_CONFIG/$SCRIPT"
    else
        echo "$LOGROTATE_CONFIG/$SCRIPT${RELAY_HOME//\//-}"
    fi
}

put_logrotate() {
    adapted "logrotate/$SCRIPT" >"$SCRATCH/installed/logrotate"
    put_file logrotate "$(logrotate_file)" place
}

# put_file NOTE FILE PLACE: makes the file the same as $SCRATCH/installed/NOTE with the command PLACE, unless the
# administrator has changed it.
put_file() {
    local new=$SCRATCH/installed/$1
    if [ -e "$2" ] && ! cmp -s "$2" "$new" && ! cmp -s "$2" "$(saved "installed/$1")"; then
        echo "kept: $2, which differs from what this script wrote"
        return
    fi
    is_placed 644 root "$new" "$2" ||
        change "write $2" "$(space_fix "${2%/*}")" "$3" 644 root "$new" "$2"
}

# remove_file NOTE FILE
remove_file() {
    [ -e "$2" ] || return 0
    if cmp -s "$2" "$(saved "installed/$1")"; then
        change "remove $2" "$(space_fix "${2%/*}")" rm "$2"
    else
        echo "kept: $2, which differs from what this script wrote"
    fi
}

# ---------------------------------------------------------------- SELinux

put_selinux() {
    has_selinux || return 0
    # In a dry run the tools may be missing.
    if [ -n "$DRY_RUN" ] && ! is_there checkmodule; then
        change "install the SELinux module $MODULE" '' true
        return
    fi
    quietly bash "$PROJECT/selinux/build.sh" "$SCRATCH" "$RELAY_HOME" ||
        fail "the SELinux module cannot be built ($(reason)): reinstall checkpolicy, then run this again"
    if ! is_module_installed; then
        change "install the SELinux module $MODULE and label $RELAY_HOME" 'see semodule(8)' install_module
    elif [ -n "$(relabel -n -v 2>/dev/null)" ]; then
        change "label $RELAY_HOME" 'see restorecon(8)' relabel
    fi
}

# relabel [OPTION...]: the home and its content, except inside the account's own directories: there the account could
# put a link where restorecon(8) has just found a directory.
relabel() {
    find "$RELAY_HOME" -print0 -type d ! -user root -prune | xargs -0 restorecon "$@"
}

is_module_installed() (
    mkdir -p "$SCRATCH/extracted"
    cd "$SCRATCH/extracted"
    semodule -H -E "$MODULE" >/dev/null 2>&1 && cmp -s "$MODULE.pp" "$SCRATCH/$MODULE.pp"
)

install_module() {
    semodule -i "$SCRATCH/$MODULE.pp" && relabel
}

remove_selinux() {
    has_selinux && semodule -l | grep -E "^$MODULE([[:space:]]|\$)" >/dev/null || return 0
    change "remove the SELinux module $MODULE" 'see semodule(8)' remove_module
}

remove_module() {
    semodule -r "$MODULE" && relabel
}

# ---------------------------------------------------------------- Postfix

# saved [NAME]: what this script keeps about a Postfix configuration: original/ has the files from before the
# installation, installed/ what was set last, and pending what Postfix still has to do. It is not in the relay's
# home: the account must not decide how Postfix is configured.
saved() {
    echo "$POSTFIX_CONFIG/postfix-api-relay.saved${1:+/$1}"
}

# save_files: copies main.cf and master.cf before the first change to either.
save_files() {
    local name file original dated
    [ -z "$FILES_SAVED" ] || return 0
    FILES_SAVED=yes
    for name in main.cf master.cf; do
        file=$POSTFIX_CONFIG/$name
        original=$(saved "original/$name")
        dated=$file.bak.$(date +%Y%m%d)
        [ -e "$original" ] ||
            change "save $file for --uninstall" "$(space_fix "$POSTFIX_CONFIG")" copy "$file" "$original"
        [ -e "$dated" ] ||
            change "save $file as ${dated##*/}" "$(space_fix "$POSTFIX_CONFIG")" copy "$file" "$dated"
    done
}

# postfix_has_to reload|restart
postfix_has_to() {
    [ "$WANTED_OF_POSTFIX" = restart ] || WANTED_OF_POSTFIX=$1
}

# note_pending: if this run stops before Postfix is told, the next one tells it.
note_pending() {
    mkdir -p "$(saved)" && echo "$WANTED_OF_POSTFIX" >"$(saved pending)"
}

# change_postfix WHAT COMMAND...: a change of main.cf or master.cf.
change_postfix() {
    save_files
    postfix_has_to reload
    change "$1" "$(space_fix "$POSTFIX_CONFIG")" "${@:2}"
}

# edit_postfix OPTION...: postconf(1)'s.
edit_postfix() {
    note_pending && postconf -c "$POSTFIX_CONFIG" "$@"
}

# postconf_now OPTION...: what Postfix's configuration says; nothing if it does not exist yet.
postconf_now() {
    if [ ! -e "$POSTFIX_CONFIG/main.cf" ] || ! is_there postconf; then
        return
    fi
    # It warns about parameters of a transport that does not exist yet.
    postconf -c "$POSTFIX_CONFIG" "$@" 2>"$SCRATCH/output" ||
        fail "Postfix cannot read $POSTFIX_CONFIG ($(reason)): fix that, then run this again"
}

# set_in FILE NAME: its value in lines "name = value"; nothing if it is not there.
set_in() {
    sed -n "s/^$2 = *//p" "$1" 2>/dev/null || true
}

# ------------------------------------------------ master.cf: entries as one line, to compare them

# limit_of ENTRY DEFAULT: an entry's process limit, or the default if there is no entry.
limit_of() {
    local fields
    read -r -a fields <<<"$1"
    echo "${fields[6]:-$2}"
}

# with_limit ENTRY LIMIT
with_limit() {
    local fields
    read -r -a fields <<<"$1"
    fields[6]=$2
    echo "${fields[*]}"
}

# shipped_service NAME: the fragment's entry, for urgent mail with the changes that the fragment describes.
shipped_service() {
    adapted postfix/master.cf | sed '/^#/d' | tr -s '\n ' ' ' | if [ "$1" = apirelay ]; then
        cat
    else
        sed "s/^apirelay /$1 /; s/ 1 pipe / 2 pipe /; s| \\(argv=[^ ]*\\( --home [^ ]*\\)\\?\\) | \\1 --urgent |"
    fi
}

# first_limit NAME: of a new entry. SES takes several messages a second, more than one process can deliver.
first_limit() {
    if [ "$PROVIDER $1" = 'ses apirelay' ]; then
        echo 4
    else
        limit_of "$(shipped_service "$1")" ''
    fi
}

# service_note NAME: where the entry that was set last is noted.
service_note() {
    echo "installed/master.cf${1#apirelay}"
}

put_service() {
    local current wanted limit
    current=$(postconf_now -M "$1/unix" | tr -s ' ')
    limit=$(limit_of "$current" "$(first_limit "$1")")
    [ "$1" != apirelay ] || limit=${MAXPROC:-$limit}
    wanted=$(with_limit "$(shipped_service "$1")" "$limit")
    with_limit "$wanted" - >"$SCRATCH/$(service_note "$1")"
    if [ "$current" != "$wanted" ] && is_own_service "$1" "$current"; then
        echo "kept: $1 in master.cf, changed since the installation: $current"
        wanted=$(with_limit "$current" "$limit")
    fi
    [ "$current" = "$wanted" ] || change_postfix \
        "set in $POSTFIX_CONFIG/master.cf:"$'\n'"    ${current:-(no $1)}"$'\n'"    -> $wanted" \
        edit_postfix -M "$1/unix=$wanted"
}

# is_own_service NAME ENTRY: whether the administrator has changed more of this relay's entry than its process limit
# since the installation.
is_own_service() {
    local made
    made=$(saved "$(service_note "$1")")
    [ -n "$2" ] && [ -e "$made" ] && [ "$(with_limit "$2" -)" != "$(cat "$made")" ] &&
        [[ "$2 " == *" user=$ACCOUNT "*"$RELAY_HOME/$SCRIPT "* ]]
}

# put_local_cleanup: adds a To to mail that is submitted on this host without one. The setting in main.cf would also do
# that to devices' mail, and show the admin as its recipient.
put_local_cleanup() {
    local named own
    { [ -n "$ROOT_TO" ] && [ -n "$(postconf_now -M pickup/unix)" ]; } || return 0
    named=$(postconf_now -Ph pickup/unix/cleanup_service_name)
    if [ -n "$named" ] && [ "$named" != "$LOCAL_CLEANUP" ]; then
        echo "kept: pickup in master.cf, which hands mail to $named: mail without a To stays without one"
        return
    fi
    own=$(postconf_now -M "$LOCAL_CLEANUP/unix")
    [ -z "$named" ] || [ -z "$own" ] || return 0
    change_postfix "set in $POSTFIX_CONFIG/master.cf: pickup hands mail to $LOCAL_CLEANUP" set_local_cleanup
}

# The service first: without it, mail would have to wait.
set_local_cleanup() {
    local entry
    entry=$(postconf_now -M cleanup/unix) || return
    edit_postfix -M "$LOCAL_CLEANUP/unix=$LOCAL_CLEANUP ${entry#* } -o undisclosed_recipients_header=\$$LOCAL_TO" &&
        edit_postfix -P "pickup/unix/cleanup_service_name=$LOCAL_CLEANUP"
}

# ------------------------------------------------ urgent mail: a transport, and tables that send mail to it

# take_urgent: whose mail is urgent, from the options or an earlier run. --urgent replaces the whole list.
take_urgent() {
    local noted=installed/urgent
    if [ "$URGENT" = none ]; then
        BY_HEADER=${BY_HEADER:-no}
        [ -e "$(saved $noted)" ] || URGENT=''
    fi
    URGENT=${URGENT:-$(cat "$(saved $noted)" 2>/dev/null || true)}
    BY_HEADER=${BY_HEADER:-$(cat "$(saved $noted-by-header)" 2>/dev/null || true)}
    was_urgent || return 0
    echo "$URGENT" >"$SCRATCH/$noted"
    echo "$BY_HEADER" >"$SCRATCH/$noted-by-header"
}

# was_urgent: whether any mail is or was urgent: the setup stays, even with empty tables.
was_urgent() {
    has_urgent || [ -e "$(saved installed/urgent)" ]
}

has_urgent() {
    [ -n "${URGENT#none}" ] || [ "$BY_HEADER" = yes ]
}

urgent_table() {
    echo "$POSTFIX_CONFIG/$SCRIPT.urgent-$1"
}

# refuse_filter: FILTER overrides a content_filter.
refuse_filter() {
    local filter
    filter=$(postconf_now -h content_filter)
    [[ $filter =~ ^(apirelay:.*)?$ ]] || [ -z "$(urgent_lines clients; urgent_lines headers)" ] ||
        fail "content_filter is $filter, and mail that is urgent by client or header would bypass it: name only senders, or add the tables of postfix/main.cf by hand where the filter returns mail"
}

urgent_senders() {
    tr ',' '\n' <<<"${URGENT#none}" | grep @ | sort -fu || true
}

# urgent_clients: the networks, in the form of Postfix's tables; anything else ends the run.
urgent_clients() {
    local networks
    networks=$(tr ',' '\n' <<<"${URGENT#none}" | grep -v @ | paste -sd , - || true)
    { [ -n "$networks" ] && [ -x "$PYTHON" ]; } || return 0
    "$PYTHON" -I "$PROJECT/postfix/networks.py" --asked --open -- '' "$networks" 2>"$SCRATCH/output" |
        tr -d '[],' | tr ' ' '\n' || fail "--urgent: $(reason)"
}

# urgent_lines senders|clients|headers: the lines of the table.
urgent_lines() {
    case $1 in
        senders) urgent_senders | sed "s/\$/ $URGENT_WAY/" ;;
        clients) urgent_clients | sed "s/\$/ FILTER $URGENT_WAY/" ;;
        headers) [ "$BY_HEADER" != yes ] || sed "s/.*/& FILTER $URGENT_WAY/" <<'END' ;;
/^Importance:[[:space:]]*high[[:space:]]*$/
/^X-Priority:[[:space:]]*1([^0-9]|$)/
/^Priority:[[:space:]]*urgent[[:space:]]*$/
END
    esac
}

put_urgent() {
    local name note
    was_urgent || return 0
    put_service $URGENT_TRANSPORT
    for name in senders clients headers; do
        note=urgent-$name
        urgent_lines $name >"$SCRATCH/$note"
        if [ -s "$SCRATCH/$note" ] || [ -e "$(saved "installed/$note")" ]; then
            { echo "# Made by install.sh, which has options for it: --urgent and --urgent-by-header"; cat "$SCRATCH/$note"; } \
                >"$SCRATCH/installed/$note"
            put_file "$note" "$(urgent_table $name)" place_table
        fi
    done
}

# place_table MODE ACCOUNT FILE TARGET: Postfix's processes read a table only once.
place_table() {
    postfix_has_to reload
    note_pending && place "$@"
}

remove_urgent_tables() {
    local name
    for name in senders clients headers; do
        remove_file "urgent-$name" "$(urgent_table $name)"
    done
}

# urgent_settings: other values in the same parameters stay. A client's FILTER does not end a list of restrictions, but
# the first match of a header field ends the search, so the administrator's own patterns come first.
urgent_settings() {
    local time
    was_urgent || return 0
    sed -n "s/^#\(${URGENT_TRANSPORT}_\)/\1/p" "$PROJECT/postfix/main.cf"
    time=$(postconf_now -nh apirelay_time_limit)
    [ -z "$time" ] || echo "${URGENT_TRANSPORT}_time_limit = $time"
    with_table senders sender_dependent_default_transport_maps texthash:
    with_table clients smtpd_client_restrictions 'check_client_access cidr:'
    with_table headers header_checks regexp:
    [ ! -e "$SCRATCH/installed/urgent-headers" ] || nested_checks
}

# nested_checks: the header of an attached message does not make the message urgent. Unless nested_header_checks is
# set, even to an empty value, it keeps the value of header_checks; an empty value from here would count as not set.
nested_checks() {
    local line
    line=$(postconf_now -n nested_header_checks)
    if [ -z "$line" ]; then
        line=$(postconf_now -nh header_checks)
        line="nested_header_checks = ${line:-static:DUNNO}"
    fi
    [ "$line" = 'nested_header_checks =' ] || echo "$line"
}

# with_table NAME PARAMETER TYPE: the setting with the table added.
with_table() {
    local entry current
    [ -e "$SCRATCH/installed/urgent-$1" ] || return 0
    entry=$3$(urgent_table "$1")
    current=$(postconf_now -nh "$2")
    case $1,$current in
        *"$entry"*) echo "$2 = $current" ;;
        "$1,") echo "$2 = $entry" ;;
        headers,*) echo "$2 = $current, $entry" ;;
        *) echo "$2 = $entry, $current" ;;
    esac
}

# ------------------------------------------------ main.cf

# shipped_settings: the "name = value" lines of the fragment.
shipped_settings() {
    grep '^[a-z]' "$PROJECT/postfix/main.cf"
}

# allowed_networks: the value for mynetworks: this host, and the networks of --networks or, without it, those that may
# now. A network that is not private ends the run, unless an option allows it.
allowed_networks() {
    local now
    if [ ! -x "$PYTHON" ]; then
        # In a dry run: without an interpreter the networks cannot be checked.
        echo "this host${NETWORKS:+, $NETWORKS}"
        return
    fi
    # Only what main.cf sets: Postfix's default may be every network that the machine is in.
    now=$(postconf_now -nh mynetworks)
    "$PYTHON" -I "$PROJECT/postfix/networks.py" ${OPEN:+--open} ${NETWORKS:+--asked} -- \
        "$(set_in <(shipped_settings) mynetworks)" "${NETWORKS:-$now}" 2>"$SCRATCH/output" ||
        fail "$(reason)"
}

# urgent_parameters: a service that sets these could bypass the tables.
urgent_parameters() {
    ! has_urgent || printf '%s\n' smtpd_client_restrictions header_checks receive_override_options
}

# A service's own value in master.cf overrides main.cf.
show_overrides() {
    local line patterns
    mapfile -t patterns < <({ shipped_settings; urgent_parameters; } | sed 's| =.*||; s|^|*/*/|')
    postconf_now -P "${patterns[@]}" | while IFS= read -r line; do
        echo "note: master.cf has its own value for one service: $line"
    done
}

wanted_settings() {
    local line
    shipped_settings | while IFS= read -r line; do
        case $line in
            'mynetworks ='*) echo "mynetworks = $MYNETWORKS" ;;
            'message_size_limit ='*) size_settings ;;
            *) echo "$line" ;;
        esac
    done
}

# size_settings: what the provider takes, the same as the relay's MESSAGE_LIMITS. SES's 40 MB are for the whole message
# in base64, which leaves 30 MB as Postfix counts. If mailbox_size_limit is lower, and not 0, local(8) stops.
size_settings() {
    local limit=$((48 << 20)) mailbox made
    if is_set_provider ses; then
        limit=$((30 << 20))
    elif [ "$(configured LARGE_MESSAGES)" = refuse ]; then
        limit=$((3 << 20))
    else
        # The mailboxes' limit may have been raised, up to Exchange's maximum.
        made=$(postconf_now -nh message_size_limit)
        [[ ! $made =~ ^[1-9][0-9]{0,9}$ || $made -lt $limit || $made -gt $((150 << 20)) ]] || limit=$made
    fi
    echo "message_size_limit = $limit"
    mailbox=$(postconf_now -xh mailbox_size_limit)
    made=$(set_in "$(saved installed/main.cf)" mailbox_size_limit)
    if [ -n "$made" ] || [[ $mailbox =~ ^[1-9][0-9]*$ && $mailbox -lt $limit ]]; then
        echo "mailbox_size_limit = $((limit > made ? limit : made))"
    fi
}

# configured KEY: its value in relay-config.json; nothing while that is the example's. The account reads the file.
configured() {
    [ ! -f "$RELAY_HOME/relay-config.json" ] || fed "$PROJECT/relay-config.json.example" "$ACCOUNT" timeout 10 "$PYTHON" -I -c '
import json, sys
found, example = (json.load(file).get(sys.argv[1]) for file in (open(sys.argv[2], "rb"), sys.stdin))
print("" if found == example else found)' "$1" "$RELAY_HOME/relay-config.json" 2>/dev/null || true
}

# take_root_to: where mail to root goes. The option is remembered; without it, the configured address is used.
take_root_to() {
    local note=installed/root-to
    [ -n "$ROOT_TO" ] || ROOT_TO=$(cat "$(saved $note)" 2>/dev/null) || ROOT_TO=''
    if [ -n "$ROOT_TO" ]; then
        echo "$ROOT_TO" >"$SCRATCH/$note"
    else
        ROOT_TO=$(configured ADMIN_NOTIFICATION_EMAIL)
    fi
    [[ $ROOT_TO =~ ^$ADDRESS$ ]] || ROOT_TO=''
}

# root_settings: an alias would change only the envelope, and the relay refuses mail whose header names none of its
# recipients. These settings change both, for every account of this host.
root_settings() {
    local name entries=''
    [ -n "$ROOT_TO" ] || return 0
    while IFS= read -r name; do
        entries+="${entries:+, }$name=$ROOT_TO"
    done < <(own_names)
    # shellcheck disable=SC2016
    echo 'myorigin = $myhostname'
    echo "recipient_canonical_maps = inline:{$entries}"
    echo "$LOCAL_TO = To: $ROOT_TO"
}

# own_names: the addresses that programs on this host write to, as keys of a table, each only once.
own_names() {
    # shellcheck disable=SC2016
    local address host domain name accounts='@$myhostname'
    host=$(postconf_now -xh myhostname)
    domain=$(postconf_now -xh mydomain)
    for address in "$ROOT_TO" "$(configured DEFAULT_FROM_ADDRESS)"; do
        # If this host has the name of the site's domain, its other addresses are the site's mailboxes.
        [ "${address##*@}" != "$host" ] || accounts=root
    done
    # Postfix may append $mydomain to domains without a dot, and so to localhost.
    # shellcheck disable=SC2016
    printf '%s\n' "$accounts" @localhost '@localhost.$mydomain'
    for name in localhost.localdomain "${host%%.*}"; do
        case $name in
            "$host" | localhost | "localhost.$domain") ;;
            *) echo "@$name" ;;
        esac
    done
}

put_settings() {
    local line name current wanted=() shown=''
    MYNETWORKS=$(allowed_networks)
    { wanted_settings && root_settings && urgent_settings; } >"$SCRATCH/settings"
    # Only --networks says which networks may send; otherwise they stay as they are.
    grep -v '^mynetworks ' "$SCRATCH/settings" >"$SCRATCH/installed/main.cf"
    while IFS= read -r line; do
        name=${line%% =*}
        current=$(postconf_now -nh "$name")
        if [ "$name = $current" = "$line" ] || is_own_setting "$name" "$current" "$line"; then
            continue
        fi
        wanted+=("$line")
        shown+=$'\n'"    $name: $(old_value "$name" "$current") -> ${line#*= }"
        postfix_has_to "$(taken_up_by "$name")"
    done <"$SCRATCH/settings"
    if [ ${#wanted[@]} -gt 0 ]; then
        change_postfix "set in $POSTFIX_CONFIG/main.cf:$shown" edit_postfix -e "${wanted[@]}"
    fi
    drop_setting undisclosed_recipients_header
}

# drop_setting NAME: removes what an older version set and this one does not.
drop_setting() {
    local made
    made=$(set_in "$(saved installed/main.cf)" "$1")
    [ -z "$made" ] || [ "$(postconf_now -nh "$1")" != "$made" ] ||
        change_postfix "remove $1 from $POSTFIX_CONFIG/main.cf" edit_postfix -X "$1"
}

# taken_up_by NAME: what makes Postfix use a new value of a parameter.
taken_up_by() {
    case $1 in
        inet_interfaces) echo restart ;;
        *) echo reload ;;
    esac
}

# is_own_setting NAME VALUE LINE: whether the administrator has set the parameter to VALUE since the installation; if
# so, it says so.
is_own_setting() {
    local made
    made=$(set_in "$(saved installed/main.cf)" "$1")
    # A table that was there before the installation is the administrator's as well.
    [ -n "$made" ] || [ "$1" = recipient_canonical_maps ] || return
    [ -n "$2" ] && [ "$2" != "$made" ] || return
    echo "kept: $1 = $2 in main.cf, changed since the installation; if that was a mistake: postconf -e ${3@Q}"
}

# old_value NAME VALUE: a parameter's present value, for display.
old_value() {
    local default
    default=$(postconf_now -xh "$1")
    echo "${2:-(default) $default}"
}

# remember: notes what was set, so that the next run can tell it from what the administrator has set since.
remember() {
    diff -rq "$SCRATCH/installed" "$(saved installed)" >/dev/null 2>&1 ||
        change "record in $(saved) what was set" "$(space_fix "$POSTFIX_CONFIG")" copy_notes
}

copy_notes() {
    local file
    for file in "$SCRATCH/installed"/*; do
        copy "$file" "$(saved "installed/${file##*/}")" || return
    done
}

# ------------------------------------------------ the running Postfix

run_postfix() {
    local pending
    [ -n "$DRY_RUN" ] || check_postfix
    pending=$(cat "$(saved pending)" 2>/dev/null) || true
    [ -z "$pending" ] || postfix_has_to "$pending"
    if is_postfix_running; then
        [ -z "$WANTED_OF_POSTFIX" ] || make_postfix "$WANTED_OF_POSTFIX"
    elif [ -z "$UNINSTALL" ]; then
        make_postfix start
    fi
}

# make_postfix start|restart|reload: if that fails, for example because another program has the port, an installation
# continues to the check, which reports it, and an uninstallation ends.
make_postfix() {
    if [ -n "$DRY_RUN$UNINSTALL" ]; then
        change "$1 Postfix" 'see its log' tell_postfix "$1"
        return
    fi
    CHANGES=$((CHANGES + 1))
    echo "$1 Postfix"
    quietly tell_postfix "$1" && return
    LEFT=yes
    echo "${0##*/}: could not $1 Postfix ($(reason)): see its log, then run this again" >&2
}

start_at_boot() {
    if has_systemd && ! systemctl -q is-enabled postfix; then
        change 'start Postfix at every boot' 'see systemctl(1)' systemctl enable postfix
    fi
}

# Before an uninstallation Postfix itself may have been removed.
check_postfix() {
    is_there postfix || return 0
    quietly postfix -c "$POSTFIX_CONFIG" check ||
        fail "postfix check: $(reason): fix that, then run this again"
}

is_postfix_running() {
    is_there postfix && postfix -c "$POSTFIX_CONFIG" status >/dev/null 2>&1
}

has_systemd() {
    [ -d /run/systemd/system ] && [ "$POSTFIX_CONFIG" = /etc/postfix ]
}

# tell_postfix start|restart|reload
tell_postfix() {
    if has_systemd; then
        systemctl "$1" postfix
    elif [ "$1" = restart ]; then
        postfix -c "$POSTFIX_CONFIG" stop && postfix -c "$POSTFIX_CONFIG" start
    else
        postfix -c "$POSTFIX_CONFIG" "$1"
    fi && rm -f "$(saved pending)"
}

# ---------------------------------------------------------------- uninstallation

# restore NAME: puts main.cf or master.cf back.
restore() {
    local file=$POSTFIX_CONFIG/$1 original aside what
    original=$(saved "original/$1")
    [ -e "$original" ] && ! cmp -s "$original" "$file" || return 0
    aside=$file.removed.$(date +%Y%m%dT%H%M%S)
    what="put $file back as it was before the installation"
    [ ! -e "$file" ] || what+=", and keep the present one as ${aside##*/}"
    postfix_has_to restart
    change "$what" "$(space_fix "$POSTFIX_CONFIG")" put_back "$original" "$file" "$aside"
}

# put_back ORIGINAL FILE ASIDE
put_back() {
    { [ ! -e "$2" ] || copy "$2" "$3"; } && note_pending && copy "$1" "$2"
}

# show_edits: which parameters and services the administrator has changed since the installation.
show_edits() {
    local file names
    for file in "$(saved original)" "$POSTFIX_CONFIG"/{main,master}.cf; do
        [ -e "$file" ] || return 0
    done
    names=$(edited -n; edited -M)
    [ -z "$names" ] || echo "note: changed since the installation, and not in the restored files: ${names//$'\n'/ }"
}

# edited -n|-M: the names of parameters or services that differ, except the relay's own.
edited() {
    comm -3 <(listed "$(saved original)" "$1") <(listed "$POSTFIX_CONFIG" "$1") | tr -d '\t' | sed 's/ .*//' |
        sort -u | grep -vxFf <(of_the_relay) || true
}

# of_the_relay: names that differ without an edit, including those with the value that this script has set.
of_the_relay() {
    printf '%s\n' config_directory mynetworks apirelay "$URGENT_TRANSPORT" pickup "$LOCAL_CLEANUP"
    listed "$POSTFIX_CONFIG" -n | grep -xFf "$(saved installed/main.cf)" | sed 's/ .*//'
}

listed() {
    postconf -c "$1" "$2" 2>/dev/null | sort
}

# is_used_without_us: whether the master.cf that stays runs the script.
is_used_without_us() {
    local master
    master=$(saved original/master.cf)
    [ -e "$master" ] || master=$POSTFIX_CONFIG/master.cf
    grep -sv '^[[:space:]]*#' "$master" | grep -F "$RELAY_HOME/$SCRIPT" >/dev/null
}

# close_home: root's cron, for example, may start whatever the account puts there after the removal.
close_home() {
    local owner mode
    read -r owner mode < <(stat -c '%U:%G %a' "$RELAY_HOME" 2>/dev/null) || return 0
    case $owner in
        root:*) [ "${owner#*:}" = "$(group "$ACCOUNT")" ] && ((8#$mode & 8#022)) || return 0 ;;
        "$ACCOUNT":*) ;;
        *) return 0 ;;
    esac
    change "let only root write in $RELAY_HOME" 'see chmod(1)' take_home
}

take_home() {
    chown root "$RELAY_HOME" && chmod 00750 "$RELAY_HOME"
}

remove_script() {
    ! is_something "$RELAY_HOME/$SCRIPT" ||
        change "remove $RELAY_HOME/$SCRIPT" "$(space_fix "$RELAY_HOME")" remove_program "$RELAY_HOME/$SCRIPT"
}

# remove_program FILE: the compiled form first, so that another run finds what is left. rm(1) follows no link, even if
# one replaces a directory meanwhile.
remove_program() {
    rm -rf "${1%/*}/__pycache__" && rm -rf "$1"
}

forget() {
    [ ! -e "$(saved)" ] || change "remove $(saved)" "$(space_fix "$POSTFIX_CONFIG")" rm -r "$(saved)"
}

# ---------------------------------------------------------------- the closing messages

conclude() {
    if [ "$CHANGES" -eq 0 ]; then
        echo 'nothing to change'
    elif [ -n "$DRY_RUN" ]; then
        echo "dry run: none of these changes was made"
    fi
}

show_networks() {
    echo "May send without a password: $MYNETWORKS"
    [ -z "$OPEN" ] || echo "They were not checked, as you wished: close port 25 to everyone else."
}

show_urgent() {
    local what=${URGENT#none}
    what=${what:+mail of ${what//,/, }}
    [ "$BY_HEADER" != yes ] || what+="${what:+, and }mail that says so in its header"
    ! has_urgent || echo "Goes ahead of all waiting mail: $what"
}

# The relay's own check of the whole chain.
check_command() {
    echo "$RELAY_HOME/$SCRIPT --home $RELAY_HOME --check --postfix-config $POSTFIX_CONFIG"
}

# send_command ADDRESS: sends one message through Postfix.
send_command() {
    echo "$RELAY_HOME/$SCRIPT --home $RELAY_HOME --send-test $1 --through-postfix" \
        "--postfix-config $POSTFIX_CONFIG"
}

check_relay() {
    local command
    read -r -a command < <(check_command)
    if "${command[@]}" </dev/null; then
        [ -n "$LEFT" ] || echo "The relay is ready."
        return
    fi
    LEFT=yes
    cat <<END
The installation is complete; what the check found is still to be done:
 1. Edit $RELAY_HOME/$SECRETS (the provider and its credentials) and
    $RELAY_HOME/relay-config.json (who may send as whom, and who is notified);
    the first one as its owner: sudoedit -u $ACCOUNT FILE
 2. Check again: sudo $(check_command)
 3. Send one message through Postfix: sudo $(send_command ADDRESS)
END
}

send_test() {
    local command
    read -r -a command < <(send_command "$SEND_TEST")
    "${command[@]}" </dev/null || LEFT=yes
}

show_root_mail() {
    if [[ -n $ROOT_TO && $(postconf_now -nh recipient_canonical_maps) == *"=$ROOT_TO"* ]]; then
        echo "Mail to root and to this machine's other accounts goes to $ROOT_TO"
    elif [ -z "$ROOT_TO" ]; then
        echo "Mail to root still reaches nobody: name an address with --root-to, or run this again once" \
            "ADMIN_NOTIFICATION_EMAIL is configured"
    fi
}

show_kept() {
    [ ! -e "$RELAY_HOME" ] || is_used_without_us || cat <<END
Kept: $RELAY_HOME with configuration, secrets and log; the account $ACCOUNT; the packages; the dated copies of
main.cf and master.cf. To remove the first two as well: rm -r $RELAY_HOME && userdel $ACCOUNT
END
    [ -z "$(queued)" ] ||
        echo "Mail is still in the queue, and leaves as the restored main.cf says: see postqueue -p"
}

queued() {
    ! is_there postqueue || postqueue -c "$POSTFIX_CONFIG" -j 2>/dev/null || true
}

main "$@"
