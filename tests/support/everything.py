"""Imports what custom tools may import, prints as JSON what can't be imported, and ends."""

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
print()
print(json.dumps({"installed": len(installed), "failed": failed}), flush=True)
os._exit(0)
