#!/usr/bin/env bash
# Installs what tools/debian_packages.txt names and this machine lacks. Does nothing, in a moment, when
# all is there. Packages after the line that says "optional" may fail: what lacks then is said.
set -euo pipefail
cd "$(dirname "$0")"

missing() {
  while read -r package; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
  done
}

needed=$(sed '/optional/,$d' debian_packages.txt | grep -v '^#' || true)
optional=$(sed '1,/optional/d' debian_packages.txt | grep -v '^#' || true)

if ! command -v dpkg-query >/dev/null; then
  echo "setup: no Debian or Ubuntu here; these must be there by other means:" $needed >&2
  exit 0
fi

needed=$(missing <<<"$needed")
optional=$(missing <<<"$optional")
compiler_major=$(c++ -dumpversion 2>/dev/null | cut -d. -f1 || true)
# Ubuntu 22.04: its g++ is 11, which is too old; g++-12 stands beside it.
if [ -z "$needed" ] && [ "${compiler_major:-0}" -lt 12 ] && ! command -v g++-12 >/dev/null; then
  needed=g++-12
fi
[ -n "$needed$optional" ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: neither root nor sudo; ask an administrator for: apt-get install" $needed $optional >&2
    [ -z "$needed" ]
    exit
  fi
  as_root=(sudo)
fi
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

echo "setup: installing" $needed $optional
"${as_root[@]}" apt-get update || echo "setup: apt-get update failed; going on with the old lists" >&2
if [ -n "$needed" ]; then install $needed; fi
for package in $optional; do
  install "$package" || echo "setup: going on without the optional $package" >&2
done
# The first run may have brought a g++ that is too old.
compiler_major=$(c++ -dumpversion | cut -d. -f1)
if [ "$compiler_major" -lt 12 ] && ! command -v g++-12 >/dev/null; then install g++-12; fi
