# Fetches the packages of the pinned release, each to the folder that it has in a checkout.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
/opt/build/bin/python -m pip download --quiet --no-deps --no-build-isolation --require-hashes \
    --dest /run/tmp/packages --requirement /run/server.txt
for archive in /run/tmp/packages/*; do
    package=${archive##*/}
    package=/$(echo "${package%%-[0-9]*}" | tr _ -)
    mkdir "$package"
    cp "$archive" "$package"
done
# The catalog of ACP providers, where a checkout has it.
cd /openhands-sdk
/opt/build/bin/python -m zipfile -e ./*.whl /run/tmp/sdk
catalog=openhands/sdk/settings/acp_install_catalog.py
[ ! -f "/run/tmp/sdk/$catalog" ] || install -D -m 644 "/run/tmp/sdk/$catalog" "$catalog"
same_time /openhands-*
