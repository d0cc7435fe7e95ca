# Today's way: the layering of the Dockerfile that the server's package ships, on the Debian that
# `cargo xtask image --variant debian` takes. One COPY of all sources comes before one `uv sync`, and
# PyInstaller reads everything.
ARG BASE_IMAGE=debian:trixie-slim
FROM debian:trixie-slim AS builder
RUN apt-get -qq update && apt-get -qq install --yes --no-install-recommends \
    binutils ca-certificates libpython3.13 python3-venv
RUN --mount=type=secret,id=ca-certificates \
    --mount=type=bind,source=build-requirements.txt,target=/run/build-requirements.txt <<'RUN'
ca=/run/secrets/ca-certificates
[ ! -s "$ca" ] || export PIP_CERT="$ca"
python3 -m venv /tools
/tools/bin/pip install --quiet --requirement /run/build-requirements.txt
RUN
WORKDIR /agent-server
COPY pyproject.toml uv.lock ./
COPY openhands-sdk ./openhands-sdk
COPY openhands-tools ./openhands-tools
COPY openhands-workspace ./openhands-workspace
COPY openhands-agent-server ./openhands-agent-server
RUN --mount=type=secret,id=ca-certificates --mount=type=cache,target=/root/.cache <<'RUN'
set -e
ca=/run/secrets/ca-certificates
[ ! -s "$ca" ] || export SSL_CERT_FILE="$ca"
export UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy
/tools/bin/uv venv --quiet --python /usr/bin/python3 .venv
/tools/bin/uv sync --quiet --frozen --no-editable --all-packages --extra boto3
RUN

FROM builder AS binary-builder
RUN --mount=type=secret,id=ca-certificates --mount=type=cache,target=/root/.cache <<'RUN'
set -e
ca=/run/secrets/ca-certificates
[ ! -s "$ca" ] || export SSL_CERT_FILE="$ca"
/tools/bin/uv pip install --quiet --python .venv pyinstaller==6.22.3
set --
for package in openhands.agent_server openhands.sdk openhands.tools openhands.workspace tiktoken \
    tiktoken_ext litellm fastmcp fakeredis lupa rich; do
    set -- "$@" --collect-submodules "$package"
done
for package in openhands.agent_server openhands.sdk openhands.tools tiktoken litellm fastmcp mcp \
    binaryornot browser_use fakeredis lmnr; do
    set -- "$@" --collect-data "$package"
done
for package in openhands-agent-server openhands-sdk openhands-tools openhands-workspace fastmcp \
    litellm; do
    set -- "$@" --copy-metadata "$package"
done
for package in tkinter matplotlib numpy scipy pandas IPython jupyter notebook mcp.cli; do
    set -- "$@" --exclude-module "$package"
done
# fakeredis reads its data from `model/../commands.json`.
model=$(echo "$PWD"/.venv/lib/python3.*/site-packages/fakeredis/model/__init__.py)
.venv/bin/pyinstaller "$@" --add-data "$model:fakeredis/model" --onefile --strip --log-level WARN \
    --name openhands-agent-server openhands-agent-server/openhands/agent_server/__main__.py
RUN

FROM ${BASE_IMAGE} AS base-image-minimal
RUN apt-get -qq update && apt-get -qq install --yes --no-install-recommends \
    ca-certificates git python3 tini tmux
RUN useradd --uid 10001 --create-home openhands && install -d -o openhands /workspace
ENV LANG=C.UTF-8 LC_ALL=C.UTF-8 LITELLM_LOCAL_MODEL_COST_MAP=True OH_ENABLE_VSCODE=false
WORKDIR /
USER openhands

FROM base-image-minimal AS source-minimal
COPY --chown=openhands --from=builder /agent-server /agent-server
ENTRYPOINT ["/usr/bin/tini", "--", "/agent-server/.venv/bin/python", "-m", "openhands.agent_server"]

FROM base-image-minimal AS binary-minimal
COPY --chown=openhands --from=binary-builder /agent-server/dist/openhands-agent-server /usr/local/bin/
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/openhands-agent-server"]
