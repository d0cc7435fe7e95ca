# Copies the extensions for VS Code that come with the server.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
extensions=/out/openhands/.openvscode-server/extensions
install -d --mode=1777 --owner=10001 --group=10001 "$extensions"
cp -R /run/extensions/* "$extensions"
same_time /out
