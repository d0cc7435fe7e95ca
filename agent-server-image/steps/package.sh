# Installs the package in /src in /out, as the image has it. $1 is its name.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
packages=/out/agent-server/packages
set -- /src
[ -f /src/pyproject.toml ] || set -- /src/*.whl
# setuptools takes up what an earlier build has left.
rm -rf /src/build /src/*.egg-info
/opt/build/bin/uv pip install --quiet --no-cache --no-deps --no-build-isolation \
    --python /opt/build --target "$packages" "$@"

# uv's notes on when and where it was built differ from machine to machine, and scripts name the
# Python that built them.
rm -f "$packages/.lock"
for info in "$packages"/*.dist-info; do
    rm -f "$info/direct_url.json" "$info"/uv_*.json
    sed -i '/^bin\/\|\/direct_url\.json,\|\/uv_[a-z]*\.json,/d' "$info/RECORD"
done
if [ -d "$packages/bin" ]; then
    mkdir -p /out/agent-server/.venv
    sed -i '1s|^#!/opt/build/.*|#!/agent-server/.venv/bin/python|' "$packages"/bin/*
    mv "$packages/bin" /out/agent-server/.venv/bin
fi
find "$packages" -type d -exec chmod 755 {} +
find "$packages" -type f -exec chmod 644 {} +
# Sources stay beside the bytecode: tracebacks show their lines.
/opt/build/bin/python -m compileall -q -s /out --invalidation-mode unchecked-hash "$packages" ||
    warn "modules that are not Python, such as templates, stay as they are"

# The launcher comes with the server's own package.
if [ -e /run/start.py ]; then
    install -D -m 755 /run/openhands-agent-server /out/usr/local/bin/openhands-agent-server
    install -m 644 /run/start.py /out/agent-server/start.py
fi
same_time /out
