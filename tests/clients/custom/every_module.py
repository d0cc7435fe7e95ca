"""Imports all of the standard library and one module of every installed package, finds the code of
every provider of models, says what of that failed, and ends the server that imports this."""

import importlib
import os
import pkgutil
import sys
import sysconfig
from importlib.metadata import distributions

# Of other systems, what needs a display, and what does something when it is imported.
UNUSED = {
    "_overlapped", "_scproxy", "_winapi", "_wmi", "_ios_support", "_android_support",
    "msvcrt", "nt", "winreg", "winsound",
    "_tkinter", "idlelib", "tkinter", "turtle", "turtledemo",
    "antigravity", "test", "this",
}  # fmt: skip
UNUSED_PARTS = (
    "windows", "win32", "mbcs", "oem", "macholib", "wintypes",
    "__main__",
    "_minimal_curses",  # a stand-in for curses in Python's own prompt
)  # fmt: skip

modules = {name for name in sys.stdlib_module_names if name not in UNUSED}
for found in pkgutil.walk_packages([sysconfig.get_path("stdlib")], onerror=lambda name: None):
    if found.name.split(".")[0] in modules and not any(w in found.name for w in UNUSED_PARTS):
        modules.add(found.name)
for distribution in distributions():
    for path in distribution.files or ():
        if path.name == "__init__.py" and len(path.parts) == 2 and path.parts[0].isidentifier():
            modules.add(path.parts[0])
modules |= {"docker", "sqlalchemy", "openhands.workspace", "openhands.workspace.docker"}

failed = []
for name in sorted(modules):
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed.append(f"{name} ({type(error).__name__}: {error})")

import litellm
from litellm.utils import ProviderConfigManager

# These sign in first, or take no such name of a model.
elsewhere = {"chatgpt", "github_copilot", "ragflow"}
routes = sorted({route.value for route in litellm.LlmProviders} - elsewhere)
for route in routes:
    try:
        litellm.get_llm_provider(f"{route}/model", api_base="http://127.0.0.1/v1", api_key="key")
        ProviderConfigManager.get_provider_chat_config("model", litellm.LlmProviders(route))
    except BaseException as error:
        failed.append(f"litellm {route} ({error!r})")
print(f"{len(modules)} modules, {len(routes)} routes")
print("failed:", ", ".join(failed) or "none", flush=True)
os._exit(0)
