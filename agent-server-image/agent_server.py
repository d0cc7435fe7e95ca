"""Entry point of the frozen server."""

import os

# PyInstaller's bootloader puts the frozen libraries into LD_LIBRARY_PATH, and whatever the server starts
# would inherit it: git or a compiler of the base image would then load libraries that were made for another
# system. This process has already read the variable, so what was there before can be put back at once.
original = os.environ.pop("LD_LIBRARY_PATH_ORIG", "")
os.environ.pop("LD_LIBRARY_PATH", None)
if original:
    os.environ["LD_LIBRARY_PATH"] = original
# Notes of the bootloader to itself, which would mislead a frozen program that the agent runs.
for name in [name for name in os.environ if name.startswith("_PYI_")]:
    del os.environ[name]

from openhands.agent_server.__main__ import main  # noqa: E402

main()
