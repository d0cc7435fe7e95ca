# Installs what builds the packages of a checkout, where that is not setuptools.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
/opt/build/bin/python /run/backends.py >/run/tmp/backends.txt
[ ! -s /run/tmp/backends.txt ] || uv pip install --quiet --no-cache --python /opt/build \
    --requirement /run/tmp/backends.txt
