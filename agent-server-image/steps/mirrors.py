"""Prints, for a shell, what the caller's pip.conf and uv.toml say of indexes, and nothing else of them: the rest
is for the caller's machine. A main index or trusted hosts that only one of pip and uv is told serve both."""

import configparser
import json
import os
import pathlib
import re
import shlex
import sys
import tomllib
import urllib.parse

PIP = ["index-url", "extra-index-url", "trusted-host"]
UV = ["index-url", "extra-index-url", "index", "index-strategy", "allow-insecure-host"]


def pip_conf(text):
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    sections = [parser[name] for name in ("global", "install") if name in parser]
    pairs = [pair for section in sections for pair in section.items()]
    return {key.replace("_", "-"): " ".join(value.split()) for key, value in pairs}


def uv_toml(text):
    found = tomllib.loads(text)
    found |= found.get("pip", {})
    # Addresses on the caller's loopback were cut out.
    found["index"] = [index for index in found.get("index", []) if index.get("url")]
    found["extra-index-url"] = [url for url in found.get("extra-index-url", []) if url]
    return found


def read(name, parse, keys):
    """Form feeds end the files that were joined. The later ones override, and their lists come first."""
    values = {}
    path = pathlib.Path("/run/secrets", name)
    for text in path.read_text("utf-8-sig").split("\f") if path.exists() else []:
        try:
            found = parse(text)
        except (configparser.Error, ValueError):
            # The error itself may quote a password.
            print(f"warning: skipped a {name} that is not valid", file=sys.stderr)
            continue
        for key in keys:
            value = found.get(key)
            if isinstance(value, list):
                value += values.get(key, [])
            if value:
                values[key] = value
    return values


def toml(value):
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {toml(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def main_index(env, uv):
    """The address of uv's main index, with the login that variables have for an index of its name."""
    defaults = [index for index in uv.get("index", []) if index.get("default")]
    configured = [f"{index.get('name', '')}={index['url']}" for index in defaults]
    configured.append(uv.get("index-url", ""))
    given = env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL") or configured[0]
    name, url = re.fullmatch(r"(?:([\w.-]*)=)?(.*)", given).groups()
    key = re.sub("[^A-Z0-9]", "_", (name or "").upper())
    login = [env.get(f"UV_INDEX_{key}_{part}", "") for part in ("USERNAME", "PASSWORD")]
    if login[1] and "@" not in url:
        login = ":".join(urllib.parse.quote(part, safe="") for part in login)
        url = url.replace("://", f"://{login}@", 1)
    return url


pip, uv = read("pip.conf", pip_conf, PIP), read("uv.toml", uv_toml, UV)
env = {f"PIP_{key.upper().replace('-', '_')}": value for key, value in pip.items()} | os.environ
if uv:
    env["UV_CONFIG_FILE"] = "/run/tmp/uv.toml"
    text = "".join(f"{key} = {toml(value)}\n" for key, value in uv.items())
    pathlib.Path(env["UV_CONFIG_FILE"]).write_text(text)
index, hosts = main_index(env, uv), " ".join(uv.get("allow-insecure-host", []))
for pips, uvs, value in (
    ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", index),
    ("PIP_TRUSTED_HOST", "UV_INSECURE_HOST", env.get("UV_INSECURE_HOST") or hosts),
):
    if not value:
        env[uvs] = env.get(pips)
    env.setdefault(pips, value)
for name, value in env.items():
    if value and value != os.environ.get(name):
        print(f"export {name}={shlex.quote(value)}")
