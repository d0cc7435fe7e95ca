# Reads what the pinned release needs of other packages.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
mkdir /requirements
cd /requirements
set -- /run/requirements.txt
is_off "${ENABLE_VERTEX-}" || set -- "$@" /run/vertex.txt
awk '/^[^ #]/ { file = /^openhands-/ ? "server.txt" : "others.txt" }
    /^[^ #]/ || /^ *--hash/ { print >file }' "$@"
: >indexes
