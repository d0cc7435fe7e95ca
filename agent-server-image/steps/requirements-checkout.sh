# Reads from uv.lock what the checkout needs of other packages.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
# The checkout's own settings name its indexes, and uv compares them with the lock: no mirrors here.
unset UV_NO_CONFIG UV_CONFIG_FILE UV_DEFAULT_INDEX UV_INDEX UV_INDEX_URL UV_EXTRA_INDEX_URL
mkdir /requirements
cd /run/manifests
/opt/build/bin/python /run/indexes.py >/requirements/indexes
set -- --all-packages --no-default-groups --no-emit-workspace
! grep -q '^boto3 *=' openhands-sdk/pyproject.toml || set -- "$@" --extra boto3
is_off "${ENABLE_VERTEX-}" || set -- "$@" --extra vertex
if ! uv export --quiet --no-cache --locked --python /opt/build/bin/python --no-annotate --no-header \
    --output-file /requirements/others.txt "$@"
then
    path=$(sed -n -E 's/^source = \{ (path|directory) = "([^"]*)".*/\2/p' uv.lock | paste -sd ' ')
    members=$(sed -n '/^members = \[/,/\]/s/^ *"\([^"]*\)".*/\1/p' uv.lock)
    for member in $members; do
        [ -d "$member" ] || grep -q "^name *= *[\"']${member}[\"']" pyproject.toml ||
            fail "uv.lock is for a workspace with $member, and the server's is built of its four \
packages: take $member out of the members"
    done
    [ -z "$path" ] || fail "uv.lock takes packages from $path, but only manifests are read here: name a \
release or the URL of an archive"
    exit 1
fi
# Packages are installed by their hashes.
git=$(sed -n 's/^\([^ ]*\) @ git+.*/\1/p' /requirements/others.txt | paste -sd ' ')
[ -z "$git" ] ||
    fail "uv.lock takes $git from git, which gives no hashes: name a release or the URL of an archive"
