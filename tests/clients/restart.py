"""Conversations and settings on volumes, as the real client finds them after its container was
killed: `restart.py IMAGE TARGET`."""

import time
import uuid

from openhands.sdk.event import LLMConvertibleEvent

from client import IMAGE, Talk, start
from model import Model
from runtime import docker


def events_of(talk):
    """What a conversation consists of, but for what the server says of its own state."""
    events = talk.conversation.state.events
    return [event.id for event in events if isinstance(event, LLMConvertibleEvent)]


def profile(workspace, method):
    """The status of a request on a profile of a model, which the server keeps in the home."""
    body = {"llm": {"model": "openai/scripted", "api_key": "unused"}} if method == "POST" else None
    return workspace.client.request(method, "/api/profiles/kept", json=body).status_code


def wait_for_lease(workspace, number):
    """A server that was killed has given nothing back: its conversations wait 45 s for it."""
    path = f"/api/conversations/{number}/events/search"
    deadline = time.monotonic() + 90
    while (status := workspace.client.get(path).status_code) != 200:
        assert time.monotonic() < deadline, status
        time.sleep(1)


def main():
    home = docker("run", "--rm", "--entrypoint=sh", IMAGE, "-c", "echo ~")
    volumes = {uuid.uuid4().hex: folder for folder in ("/workspace", f"{home}/.openhands")}
    options = [f"--volume={name}:{folder}" for name, folder in volumes.items()]
    model = Model(("terminal", {"command": "echo one >/workspace/project/one; pwd"}))
    try:
        with start(*options) as (workspace, runtime):
            talk = Talk(workspace, runtime, model)
            talk.run()
            number = talk.conversation.id
            events = events_of(talk)
            assert len(events) > 4, events
            assert profile(workspace, "POST") < 300, profile(workspace, "POST")
            docker("kill", runtime.container)
            talk.conversation.close()
        model.calls = (("terminal", {"command": "cat /workspace/project/one"}),)
        with start(*options) as (workspace, runtime):
            assert profile(workspace, "GET") == 200, profile(workspace, "GET")
            wait_for_lease(workspace, number)
            talk = Talk(workspace, runtime, model, attach=number)
            assert events_of(talk) == events, (events, events_of(talk))
            (one,) = talk.run("Go on")
            assert one.text.startswith("one") and one.exit_code == 0, one
            talk.conversation.close()
    finally:
        docker("volume", "rm", "--force", *volumes)


if __name__ == "__main__":
    main()
