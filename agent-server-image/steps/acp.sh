# Installs the ACP providers in INSTALL_ACP_PROVIDERS, and npx for MCP servers.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
mkdir -p /out/acp-node/bin /out/acp-node/lib/node_modules /out/usr/local/bin
cp -R /run/lock /out/acp-node/providers
cd /out/acp-node/providers
find . -type f -exec chmod 644 {} +
# Makes the folders fit the catalog, and says how npm is to install them.
how=$(/opt/build/bin/python /run/acp_plan.py)
set --
for provider in $(echo "$INSTALL_ACP_PROVIDERS" | tr , ' '); do
    set -- "$@" "--workspace=$provider"
done
npm "$how" --cache /run/tmp/npm --ignore-scripts "$@"
node /run/acp_programs.js >/run/tmp/programs
# These name the registry.
rm package-lock.json node_modules/.package-lock.json

# What is for other systems, or for those who develop the packages.
find . -type d -path '*/prebuilds/*' ! -name 'linux-*' -prune -exec rm -r {} +
find . -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.pdb' \) -delete
rm -rf node_modules/opencode-linux-*-baseline node_modules/opencode-linux-*-musl

# Node starts them by its own path, so that PATH stays the base image's for what they start.
node=/acp-node/bin/node
ln -s /openhands/node/bin/node "/out$node"
while read -r name path; do
    # This one is a stub, which a script of its package would replace.
    [ "$name" != opencode ] || path=$(echo node_modules/opencode-linux-*/bin/opencode)
    [ -e "$path" ] || fail "npm has no $name for $(uname -m): leave it out of INSTALL_ACP_PROVIDERS"
    sed -i "1s|^#!/usr/bin/env \(-S \)\?node|#!$node|" "$path"
    chmod 755 "$path"
    ln -s "/acp-node/providers/$path" "/out/acp-node/bin/$name"
done </run/tmp/programs
while read -r name; do
    [ -L "/out/acp-node/bin/$name" ] || fail "no package of the ACP providers has $name"
    ln -s "/acp-node/bin/$name" "/out/usr/local/bin/$name"
done </run/tmp/wrappers
cp /run/tmp/wrappers /out/acp-node/acp-wrappers.txt

cp -R /opt/node/npm /out/acp-node/lib/node_modules
rm -r /out/acp-node/lib/node_modules/npm/docs /out/acp-node/lib/node_modules/npm/man
for name in npm npx; do
    path=lib/node_modules/npm/bin/$name-cli.js
    sed -i "1s|^#!/usr/bin/env node|#!$node|" "/out/acp-node/$path"
    chmod 755 "/out/acp-node/$path"
    ln -s "../$path" "/out/acp-node/bin/$name"
done
same_time /out
