"""What the scripts share: a workspace on an image's server, and conversations in it with a model
that plays a script."""

import os
import sys
from contextlib import contextmanager

os.environ["OPENHANDS_SUPPRESS_BANNER"] = "1"
os.environ["LOG_LEVEL"] = "ERROR"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from openhands.sdk import LLM, Conversation
from openhands.sdk.event import AgentErrorEvent, ObservationEvent
from openhands.sdk.event.conversation_error import ConversationErrorEvent
from openhands.tools.preset.default import get_default_agent
from openhands.workspace import APIRemoteWorkspace

from model import Model
from runtime import Runtime

# The arguments of every script.
IMAGE, TARGET = sys.argv[1:3]


@contextmanager
def start(*options):
    """A remote workspace in a new container, with the runtime that runs it."""
    kind = "source" if TARGET.startswith("source") else "binary"
    with Runtime(*options) as runtime:
        workspace = APIRemoteWorkspace(
            runtime_api_url=runtime.url,
            runtime_api_key="unused",
            server_image=IMAGE,
            target_type=kind,
        )
        with workspace:
            # Both sides close a connection that was idle for 5 s, and a busy machine can take as
            # long: a request on one that the server is just closing would fail.
            workspace.client.headers["Connection"] = "close"
            yield workspace, runtime


class Talk:
    """A conversation with the agent that most clients start, of which all events are kept."""

    def __init__(self, workspace, runtime, model, browser=False, attach=None, mcp=None):
        self.events = []
        url = f"http://{runtime.host_address}:{model.port}/v1"
        llm = LLM(usage_id="agent", model="openai/scripted", api_key="unused", base_url=url)
        agent = get_default_agent(llm=llm, cli_mode=not browser)
        self.conversation = Conversation(
            agent=agent.model_copy(update={"mcp_config": mcp or {}}),
            workspace=workspace,
            conversation_id=attach,
            callbacks=[self.events.append],
            visualizer=None,
        )

    def run(self, text="Go"):
        """Sends `text`, and returns what the tools observed since, in the order of their calls."""
        known = len(self.events)
        self.conversation.send_message(text)
        self.conversation.run()
        events = self.events[known:]
        failed = [e for e in events if isinstance(e, AgentErrorEvent | ConversationErrorEvent)]
        assert not failed, [getattr(event, "error", event) for event in failed]
        return [event.observation for event in events if isinstance(event, ObservationEvent)]


def use_tools(workspace, runtime, *calls, **options):
    """What the tools observe in a conversation in which a model makes these calls."""
    talk = Talk(workspace, runtime, Model(*calls), **options)
    try:
        observed = talk.run()
    finally:
        talk.conversation.close()
    assert len(observed) == len(calls), observed
    return observed


def bash(workspace, command):
    """What a command writes that the server runs beside all conversations."""
    ended = workspace.execute_command(command, timeout=300)
    assert ended.exit_code == 0, ended
    return ended.stdout.strip()
