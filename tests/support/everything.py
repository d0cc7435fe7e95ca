"""Imports what custom tools may import, finds the code of every provider of models, prints as JSON
what of that failed, and ends."""

import importlib
import json
import os
import pkgutil
import sys

# Python has these for other systems, or for a display; the last opens a browser.
ELSEWHERE = {
    "_android_support", "_apple_support", "_ios_support", "_osx_support", "_overlapped", "_scproxy",
    "_tkinter", "_winapi", "_wmi", "idlelib", "msvcrt", "nt", "tkinter", "turtle", "turtledemo",
    "winreg", "winsound", "antigravity",
}  # fmt: skip

folders = [path for path in sys.path if path.endswith(("/site-packages", "/agent-server/packages"))]
installed = {module.name for module in pkgutil.iter_modules(folders)}
names = sorted(sys.stdlib_module_names - ELSEWHERE | installed)
failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = repr(error)

import litellm  # noqa: E402
from litellm.utils import ProviderConfigManager  # noqa: E402

# These sign in first, or take no such name of a model.
elsewhere = {"chatgpt", "github_copilot", "ragflow"}
routes = sorted({route.value for route in litellm.LlmProviders} - elsewhere)
for route in routes:
    try:
        litellm.get_llm_provider(f"{route}/model", api_base="http://127.0.0.1/v1", api_key="key")
        ProviderConfigManager.get_provider_chat_config("model", litellm.LlmProviders(route))
    except BaseException as error:
        failed[f"litellm {route}"] = repr(error)
print()
result = {"installed": len(installed), "routes": len(routes), "failed": failed}
print(json.dumps(result), flush=True)
os._exit(0)
