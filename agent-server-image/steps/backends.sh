# Installs what builds the packages of a checkout, where that is not setuptools.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
/opt/build/bin/python /run/backends.py >/run/tmp/backends.txt
cd /run/manifests
/opt/build/bin/python /run/indexes.py >/run/tmp/indexes
set --
while read -r option index; do
    set -- "$@" "$option" "$index"
done </run/tmp/indexes
# Nothing has a hash here: a name that the workspace's own indexes have comes from nowhere else, unless
# they lack the version.
[ $# = 0 ] || set -- --index-strategy unsafe-first-match "$@"
[ ! -s /run/tmp/backends.txt ] || uv pip install --quiet --no-cache --python /opt/build "$@" \
    --requirement /run/tmp/backends.txt
