# Copies Python with its loader and everything that it loads, and two static programs that start it.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
/opt/build/bin/python /run/copy_python.py
mkdir /agent-server/bin /agent-server/packages
cp /usr/bin/tini-static /agent-server/bin/tini
cp "$(command -v busybox)" /agent-server/bin
chmod 755 /agent-server/bin/*
# /bin/uv is where other images copy uv from.
ln -s /opt/build/bin/uv /opt/build/bin/uvx /usr/bin
same_time /agent-server
