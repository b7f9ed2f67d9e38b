#!/bin/bash
# Builds the module:
#     selinux/build.sh OUTPUT_DIR [HOME]
# makes OUTPUT_DIR/postfix-relay.pp, for a relay in the directory HOME (default: /opt/postfix-relay).
set -euo pipefail

MODULE=postfix-relay
SHIPPED_HOME=/opt/postfix-relay
PATH=$PATH:/usr/sbin:/sbin

if [ $# -lt 1 ] || [ $# -gt 2 ] || [ ! -d "$1" ] || [[ ${2-/} != /* ]]; then
    echo "usage: ${0##*/} OUTPUT_DIR [HOME], where HOME is an absolute path" >&2
    exit 2
fi
sources=$(dirname "$(readlink -f "$0")")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The contexts are regular expressions; sed removes one backslash of two.
home=${2:-$SHIPPED_HOME}
home=$(printf '%s' "${home%/}" | sed 's/[][\.*^$+?(){}|]/\\\\&/g')
sed "s#^$SHIPPED_HOME#$home#" "$sources/$MODULE.fc" >"$scratch/$MODULE.fc"
# checkmodule wants the output file to have the module's name.
checkmodule -M -m -o "$scratch/$MODULE.mod" "$sources/$MODULE.te"
semodule_package -o "$1/$MODULE.pp" -m "$scratch/$MODULE.mod" -f "$scratch/$MODULE.fc"
