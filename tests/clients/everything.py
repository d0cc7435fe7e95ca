"""What only `binary` has for an agent: a browser, and servers of the Model Context Protocol by npx:
`everything.py IMAGE TARGET`."""

from os.path import exists

from openhands.sdk.mcp.config import MCPServer

from client import bash, start, use_tools

# npm trusts what this machine trusts.
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
SITE = "/workspace/project/site"
PAGE = "<title>A page</title><p id=x>plain</p><script>x.textContent = 6 * 7</script>"


def browser(workspace, runtime):
    server = "nohup /agent-server/.venv/bin/python -m http.server 8123 >/dev/null 2>&1"
    bash(workspace, f"mkdir {SITE} && cd {SITE} && echo '{PAGE}' >index.html && ({server} &)")
    navigated, content = use_tools(
        workspace,
        runtime,
        ("browser_navigate", {"url": "http://127.0.0.1:8123/"}),
        ("browser_get_content", {}),
        browser=True,
    )
    assert not navigated.is_error, navigated
    assert "42" in content.text, content


def protocol(workspace, runtime):
    package = "@modelcontextprotocol/server-everything@2026.1.26"
    trust = {"NODE_EXTRA_CA_CERTS": BUNDLE}
    # A tool has 30 s to start, which a download on a busy machine can take.
    bash(workspace, f"NODE_EXTRA_CA_CERTS={BUNDLE} npx -y --package={package} true")
    server = MCPServer(command="npx", args=["-y", package], env=trust)
    [echoed] = use_tools(
        workspace,
        runtime,
        ("echo", {"message": "over the protocol"}),
        mcp={"everything": server},
    )
    assert "over the protocol" in echoed.text, echoed


def main():
    with start(*([f"--volume={BUNDLE}:{BUNDLE}:ro"] if exists(BUNDLE) else [])) as (
        workspace,
        runtime,
    ):
        browser(workspace, runtime)
        protocol(workspace, runtime)


if __name__ == "__main__":
    main()
