# The SDK as people edit it: the sdists of the pinned release, put together as a uv workspace. They
# come from PyPI each time, and none of them is kept in this repository.
FROM debian:trixie-slim AS maker
SHELL ["/bin/sh", "-euc"]
RUN apt-get -qq update && \
    apt-get -qq install --yes --no-install-recommends ca-certificates python3-venv
COPY build-requirements.txt requirements.txt /
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore UV_PYTHON_DOWNLOADS=never
RUN --mount=type=secret,id=ca-certificates <<'RUN'
ca=/run/secrets/ca-certificates
[ ! -s "$ca" ] || export PIP_CERT="$ca" SSL_CERT_FILE="$ca"
python3 -m venv /tools
/tools/bin/pip install --quiet --require-hashes --requirement /build-requirements.txt
fetch() { /tools/bin/pip download --quiet --no-deps "$@"; }

# The parts, without what only an sdist has.
mkdir -p /sdists /out/checkout
cd /out/checkout
for package in $(sed -n 's/^\(openhands-[a-z-]*==[^ ]*\) .*/\1/p' /requirements.txt); do
    fetch --no-binary=:all: --no-build-isolation --dest /sdists "$package"
    mkdir "${package%==*}"
    tar -xzf "/sdists/$(echo "${package%==*}" | tr - _)-${package#*==}.tar.gz" \
        --no-same-owner --strip-components=1 --directory "${package%==*}"
    rm -r "${package%==*}/PKG-INFO" "${package%==*}/setup.cfg" "${package%==*}"/*.egg-info
done

# The root. Versions of others are the pinned ones but for one, to see whose lock decides.
{
    echo '[tool.uv.workspace]'
    echo 'members = ["openhands-*"]'
    echo '[tool.uv.sources]'
    printf '%s = { workspace = true }\n' openhands-*
    echo '[tool.uv]'
    echo 'constraint-dependencies = ['
    awk '/^[^ #]/ && !/^(openhands-|wsproto=)/ { print "    \"" $1 "\"," }' /requirements.txt
    echo '    "wsproto==1.2.0",'
    echo ']'
} >pyproject.toml
{
    echo 'include pyproject.toml uv.lock'
    printf 'graft %s\n' openhands-*
    echo 'global-exclude *.pyc'
} >MANIFEST.in
printf '.venv\n*.egg-info\n' >.gitignore
/tools/bin/uv lock --quiet
/tools/bin/uv build --quiet --sdist --out-dir /out/archive
rm -r UNKNOWN.egg-info
RUN
FROM scratch
COPY --from=maker /out /
