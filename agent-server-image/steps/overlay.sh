# Copies what a base image may lack, to folders of its own. Nothing there uses the base's libraries.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh
PATH=$PATH:/opt/build/bin
tools=/agent-server/tools
mkdir -p "/out$tools" && cd "/out$tools"
mkdir -p bin lib share
# A static shell ignores LD_PRELOAD, which may name a library for another C library.
cp /bin/bash-static bin/bash
cp /usr/bin/tmux .
ln -s bash bin/sh
cp -R /usr/lib/git-core git
rm git/git-daemon git/git-http-backend git/git-http-push git/git-imap-send git/git-shell git/scalar
cp -R /usr/share/git-core/templates share
for folder in /lib/terminfo /usr/share/terminfo; do
    [ ! -d "$folder" ] || cp -R "$folder" share
done

# The loader and the C library are those of Python.
python=/agent-server/python/lib
for program in tmux git/*; do
    # Neither the links among them nor the scripts.
    [ ! -L "$program" ] || continue
    loader=$(patchelf --print-interpreter "$program" 2>/dev/null) || continue
    ldd "$program" | sed -n 's/.* => \(.*\) (.*/\1/p' >>/run/tmp/libraries
    patchelf --set-interpreter "$python/${loader##*/}" --force-rpath \
        --set-rpath "$tools/lib:$python" "$program"
done
sort -u /run/tmp/libraries | while read -r library; do
    [ -e "$python/${library##*/}" ] || cp --dereference "$library" lib
done
install -m 755 /run/git /run/tmux bin

# Of what every Debian has, the most common that busybox has too: for base images that have next to
# nothing.
common='awk|base64|basename|cat|chmod|chown|cmp|cp|cut|date|dd|df|diff|dirname|du|env|expr|false'
common="$common|find|grep|gunzip|gzip|head|hostname|id|kill|ln|ls|md5sum|mkdir|mktemp|mv|od|paste"
common="$common|printf|ps|pwd|readlink|realpath|rm|rmdir|sed|seq|sha256sum|sleep|sort|stat|stty"
common="$common|tail|tar|tee|test|timeout|touch|tr|true|tty|uname|uniq|wc|which|who|whoami|xargs"
common="$common|yes|zcat"
for name in $(busybox --list | grep --line-regexp --extended-regexp "$common"); do
    ln -s /agent-server/bin/busybox "bin/$name"
done

set -- ../home ../home/.openhands /out/workspace /out/workspace/project
mkdir -p "$@"
chown 10001:10001 "$@"
chmod 1777 "$@"
install -D -m 644 /run/managed-settings.json /out/etc/claude-code/managed-settings.json
same_time /out
