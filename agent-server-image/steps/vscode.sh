# Installs VS Code's own server, as npm's code-server brings it. lock/vscode pins that and what it
# loads. Left out are packages for other systems, for Copilot, and for proxies that ask for Kerberos.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
read -r _ archive </run/lock/code-server.sha512
root=/vscode/openhands/.openvscode-server
mkdir -p "$root/bin/remote-cli" "$root/bin/helpers" /vscode/usr/local/bin /run/tmp/modules
cd /run/tmp
version=${archive#code-server-}
npm pack --cache /run/tmp/npm "code-server@${version%.tgz}"
sha512sum --check --quiet /run/lock/code-server.sha512
tar -xzf "$archive" --no-same-owner
cd package/lib/vscode
mv out extensions package.json product.json "$root"
cd /run/tmp/modules
cp /run/lock/*.json .
npm ci --cache /run/tmp/npm --ignore-scripts
npm_config_nodedir=/opt/node JOBS=max npm rebuild --ignore-scripts=false \
    @vscode/native-watchdog @vscode/spdlog
for module in native-watchdog spdlog; do
    cd "/run/tmp/modules/node_modules/@vscode/$module"
    mv build/Release/*.node .
    rm -r build && rm -rf deps src
    mkdir -p build/Release && mv ./*.node build/Release
done
cd /run/tmp/modules
rm node_modules/.package-lock.json
mv node_modules "$root"
cd "$root"

# TypeScript is where the extensions seek it; their own script takes off what they do not use.
mkdir extensions/node_modules
mv node_modules/typescript extensions/node_modules
rm node_modules/.bin/tsc node_modules/.bin/tsserver
node extensions/postinstall.mjs >/dev/null
rm -r extensions/node_modules/typescript/lib/*/

# What is for other systems, for those who develop the packages, or needs an account.
system=linux-$(node -p process.arch)
rm -r extensions/copilot extensions/microsoft-authentication extensions/*.json extensions/*.mjs
find node_modules -type d -path '*/prebuilds/*' ! -name "$system" -prune -exec rm -r {} +
find node_modules/@vscode/ripgrep-universal/bin -mindepth 1 -maxdepth 1 ! -name "$system" \
    -exec rm -r {} +
find node_modules -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.md' \) -delete
rm -r node_modules/node-pty/third_party

# Programs for Node, so that they need no shell of the base image.
ln -s /openhands/node/bin/node node
install -m 755 /run/vscode/openvscode-server bin
install -m 755 /run/vscode/remote-code bin/remote-cli/code
install -m 755 /run/vscode/browser.sh bin/helpers
install -m 755 /run/vscode/code /vscode/usr/local/bin
# The server keeps its list of extensions beside them, and users install others there.
chown 10001:10001 extensions
chmod 1777 extensions
same_time /vscode
