# Installs what the server's packages need: what is big and changes seldom.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
export UV_BUILD_CONSTRAINT=/run/build-requirements.txt
set --
# Hashes hold, so another index can give nothing else.
while read -r option index; do
    set -- "$@" "$option" "$index"
done </run/indexes
[ $# = 0 ] || set -- --index-strategy unsafe-best-match "$@"
# Installed in memory, if there is a gigabyte: what does not stay never reaches the disk, which takes
# longer to make a file than Python to compile one.
work=/run/tmp/work venv=/agent-server/.venv
[ "$(df --output=avail /run/tmp | tail -n 1)" -gt 1000000 ] || work=/work
mkdir -p $work/venv
ln -s $work/venv $venv
uv venv --quiet --allow-existing --python /agent-server/python/bin/python3 $venv
uv pip sync --quiet --python $venv --require-hashes "$@" /run/others.txt
# Before what somebody installs later: that may need another release of them.
echo 'import sys; sys.path.insert(0, "/agent-server/packages")' \
    >"$(echo $venv/lib/python3.*/site-packages)/openhands.pth"
# Columns of tracebacks mark nothing where the line is not shown.
/opt/build/bin/python -X no_debug_ranges /run/trim.py /run/trim.txt /agent-server $work/sources
rm $venv
mkdir $venv
set -- --create --sort=name --mtime="@$SOURCE_DATE_EPOCH" --directory
tar "$@" $work/sources --file /sources.tar .
tar "$@" $work/venv . | tar --extract --directory $venv
rm -r $work
same_time /agent-server/python
touch --date="@$SOURCE_DATE_EPOCH" /agent-server
