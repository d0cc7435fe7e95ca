"""An agent's tools, as the real client sees them: `agent.py IMAGE TARGET`."""

import asyncio
import json
import tempfile
from pathlib import Path

import websockets

from client import bash, start, use_tools

REPOSITORY = "/workspace/project/repository"
GIT = "git -c user.name=a -c user.email=a@b.c"


def terminal(workspace, runtime):
    # In tmux the server ends what timed out by itself, elsewhere on C-c.
    observed = use_tools(
        workspace,
        runtime,
        ("terminal", {"command": "echo 'grüße 漢字 🦀' && printf '%s' \"$LANG\""}),
        ("terminal", {"command": "seq 1 8000"}),
        ("terminal", {"command": "cd /tmp && exit_with() { return $1; }; exit_with 7"}),
        ("terminal", {"command": "pwd; echo $?"}),
        ("terminal", {"command": "sleep 300", "timeout": 2}),
        ("terminal", {"command": "C-c", "is_input": True}),
        ("terminal", {"command": "echo after"}),
        ("terminal", {"command": "true", "reset": True}),
        ("terminal", {"command": "pwd"}),
    )
    utf8, long, seven, moved, timeout, _, after, _, fresh = observed
    assert "grüße 漢字 🦀\nC.UTF-8" in utf8.text and utf8.exit_code == 0, utf8
    assert len(long.text) > 20_000 and long.exit_code == 0, long
    assert "1\n2\n3\n" in long.text and "\n7999\n8000" in long.text, long
    assert seven.exit_code == 7, seven
    assert "/tmp\n0" in moved.text, moved
    assert timeout.exit_code == -1 and "timed out" in timeout.metadata.suffix, timeout
    assert "after" in after.text and after.exit_code == 0, after
    assert workspace.working_dir in fresh.text, fresh


def pagers_and_editors(workspace, runtime):
    """None of them waits for a key: that would take 30 s and spoil what comes after."""
    commits = f"for i in $(seq 300); do {GIT} commit --quiet --allow-empty --message=n$i; done"
    bash(workspace, f"git init --quiet {REPOSITORY} && cd {REPOSITORY} && {commits}")
    commands = (
        f"cd {REPOSITORY} && git log",
        "git --paginate log --oneline --decorate",
        f"{GIT} commit --amend --allow-empty && echo amended",
        f"{GIT} commit --allow-empty -m x && {GIT} revert --no-commit HEAD; echo reverted",
        f"{GIT} rebase --interactive HEAD~2 && echo rebased",
        f"{GIT} tag --annotate --message=x v1 && git show v1 | cat && $EDITOR . ; echo edited",
        "git config --get core.pager; git branch --list; git diff HEAD~5; echo last",
    )
    observed = use_tools(workspace, runtime, *(("terminal", {"command": c}) for c in commands))
    for command, observation in zip(commands, observed):
        assert observation.exit_code == 0, (command, observation)
    words = ("n1\n", "n1\n", "amended", "reverted", "rebased", "edited", "last")
    for word, observation in zip(words, observed):
        assert word in observation.text + "\n", (word, observation)


def file_editor(workspace, runtime):
    path = "/workspace/project/text.md"

    def edit(command, **arguments):
        return "file_editor", {"command": command, "path": path, **arguments}

    observed = use_tools(
        workspace,
        runtime,
        edit("create", file_text="eins\nzwei ü\n"),
        edit("str_replace", old_str="zwei", new_str="2"),
        edit("insert", insert_line=1, new_str="neu"),
        edit("view"),
        edit("undo_edit"),
        edit("view", path="/workspace/project"),
        edit("view", path="/workspace/project/none"),
    )
    *edits, none = observed
    assert not any(observation.is_error for observation in edits), edits
    assert none.is_error, none
    assert all(word in observed[3].text for word in ("eins", "neu", "2 ü")), observed[3]
    assert "text.md" in observed[5].text, observed[5]
    assert bash(workspace, f"cat {path}") == "eins\n2 ü"


def task_tracker(workspace, runtime):
    tasks = [{"title": "build", "status": "done"}, {"title": "test", "notes": "all"}]
    plan, view = use_tools(
        workspace,
        runtime,
        ("task_tracker", {"command": "plan", "task_list": tasks}),
        ("task_tracker", {"command": "view"}),
    )
    assert [task.status for task in view.task_list] == ["done", "todo"], (plan, view)


def commands(workspace):
    for folder in ("/workspace", "/workspace/project"):
        ended = workspace.execute_command("pwd; echo error >&2; exit 3", cwd=folder)
        assert (ended.exit_code, ended.stdout) == (3, f"{folder}\n"), ended
        assert ended.stderr == "error\n", ended
    ended = workspace.execute_command("sleep 300", timeout=2)
    # Whether the client or the server sees it first is a race, which `timeout_occurred` tells.
    assert ended.exit_code == -1, ended
    many = workspace.execute_command("seq 1 200000")
    assert many.stdout == "".join(f"{n}\n" for n in range(1, 200_001)), len(many.stdout)


def files(workspace, folder):
    data = bytes(range(256)) * 20_000
    (folder / "sent").write_bytes(data)
    target = "/workspace/project/new folder/ü.bin"
    assert workspace.file_upload(folder / "sent", target).success
    assert workspace.file_download(target, folder / "received").success
    assert (folder / "received").read_bytes() == data
    assert bash(workspace, f"stat -c %u '{target}'") == "10001"
    assert not workspace.file_download("/workspace/none", folder / "none").success


def git_changes(workspace):
    at = "/workspace/project/changes"
    bash(workspace, f"git init --quiet {at} && cd {at} && echo a >a && echo b >b && git add .")
    bash(workspace, f"cd {at} && {GIT} commit --quiet -m a && echo c >a && rm b && echo ü >new")
    changes = {str(c.path): c.status.value for c in workspace.git_changes(at)}
    assert changes == {"a": "UPDATED", "b": "DELETED", "new": "ADDED"}, changes
    diff = workspace.git_diff(f"{at}/a")
    assert (diff.original, diff.modified) == ("a", "c"), diff


def sockets(workspace):
    url = workspace.host.replace("http", "ws") + "/sockets/bash-events"

    async def listen(key):
        async with websockets.connect(url) as socket:
            await socket.send(json.dumps({"type": "auth", "session_api_key": key}))
            command = workspace.start_command("echo over the socket")
            async for message in socket:
                event = json.loads(message)
                if event.get("command_id") == command and event.get("stdout"):
                    return event["stdout"]

    assert asyncio.run(listen("secret")) == "over the socket\n"
    try:
        assert asyncio.run(listen("wrong")) is None
    except websockets.ConnectionClosedError as closed:
        assert closed.rcvd.code == 4001, closed
    else:
        raise AssertionError("a socket must be closed to those without the key")


def main():
    with start() as (workspace, runtime), tempfile.TemporaryDirectory() as folder:
        commands(workspace)
        files(workspace, Path(folder))
        git_changes(workspace)
        sockets(workspace)
        terminal(workspace, runtime)
        pagers_and_editors(workspace, runtime)
        file_editor(workspace, runtime)
        task_tracker(workspace, runtime)


if __name__ == "__main__":
    main()
