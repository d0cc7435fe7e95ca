# Installs the tools that build packages. pip checks the hashes of uv, uv those of everything else.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
python3 -m venv /opt/build
/opt/build/bin/pip install --quiet --require-hashes --only-binary=:all: \
    --requirement /run/build-requirements.txt
/opt/build/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/build/lib
same_time /opt/build
