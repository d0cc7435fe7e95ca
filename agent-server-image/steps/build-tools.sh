# Installs the tools that build packages. pip checks the hashes of uv, uv those of everything else.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
# The pip that Python brings is ready when it is unpacked. `ensurepip` would take four seconds more.
python3 -m venv --without-pip /opt/build
site=$(echo /opt/build/lib/python3.*/site-packages)
wheel=$(find / -xdev -name 'pip-*.whl' | head -n 1)
[ "$wheel" ] || fail "the Python of BUILDER_IMAGE brings no pip"
python3 -m zipfile -e "$wheel" "$site"
# Bytecode holds the time of its source.
same_time "$site"
PYTHONDONTWRITEBYTECODE='' /opt/build/bin/python -m pip install --quiet --require-hashes \
    --only-binary=:all: --requirement /run/build-requirements.txt
/opt/build/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$site"
same_time /opt/build
