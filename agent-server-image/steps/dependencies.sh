# Installs what the server's packages need: what is big and changes seldom.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
export UV_BUILD_CONSTRAINT=/run/build-requirements.txt
set --
# Hashes hold, so another index can give nothing else.
while read -r index; do
    set -- "$@" --index "$index"
done </run/indexes
[ $# = 0 ] || set -- --index-strategy unsafe-best-match "$@"
uv venv --quiet --python /agent-server/python/bin/python3 /agent-server/.venv
uv pip sync --quiet --python /agent-server/.venv --require-hashes "$@" /run/others.txt
echo /agent-server/packages >"$(echo /agent-server/.venv/lib/python3.*/site-packages)/openhands.pth"
# Columns of tracebacks mark nothing where the line is not shown.
/opt/build/bin/python -X no_debug_ranges /run/trim.py /run/trim.txt /agent-server /sources
same_time /agent-server /sources
