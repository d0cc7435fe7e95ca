# Installs what the server's own tools call (every Debian has the rest), and adds the user.
# shellcheck shell=sh
# shellcheck source=apt.sh
. /run/apt.sh
remedy='use the target overlay, which needs nothing of the base image'
command -v apt-get >/dev/null || fail "the base image has no apt-get; $remedy"
if ! apt_install ca-certificates git 'tini?' tmux; then
    # shellcheck disable=SC1091
    release=$(. /etc/os-release && echo "${PRETTY_NAME-}") || release=
    fail "apt can't install git and tmux on ${release:-the base image}; $remedy"
fi
[ -e /usr/bin/tini ] || ln -sf /agent-server/bin/tini /usr/bin
is_off "${UPGRADE_PACKAGES-}" || run_apt get upgrade --yes

# The user is written by hand: a base image may lack adduser, hold the name under another number, or
# the number under another name. It comes ahead of all others but root, so that 10001 reads as
# `openhands`.
for file in passwd group shadow gshadow; do
    [ ! -f "/etc/$file" ] || sed -i '/^openhands:/d' "/etc/$file"
done
sed -i '1a openhands:x:10001:10001:OpenHands:/home/openhands:/bin/bash' /etc/passwd
sed -i '1a openhands:x:10001:' /etc/group
[ ! -f /etc/shadow ] || sed -i '1a openhands:!::0:99999:7:::' /etc/shadow
[ ! -f /etc/gshadow ] || sed -i '1a openhands:!::' /etc/gshadow

# An earlier server would be mixed with ours.
rm -rf /agent-server /acp-node /openhands/.openvscode-server

# Layers that come later are the same on every base, so they would put a folder in place of a link.
# A folder with a link to each file keeps what is there.
for folder in /usr/bin /usr/local /usr/local/bin /usr/local/lib /usr/local/lib/docker \
    /usr/local/lib/docker/cli-plugins /etc/docker /etc/init.d /etc/claude-code /openhands /acp-node
do
    [ -L "$folder" ] || continue
    target=$(readlink -m "$folder")
    rm "$folder"
    mkdir "$folder"
    for entry in "$target"/* "$target"/.[!.]*; do
        [ ! -e "$entry" ] || ln -s "$entry" "$folder"
    done
done

# Any user may write to the home and the workspace: nobody here knows whom `docker run --user` names.
# A new volume takes the owner and mode of the folder that it covers. What a base image has in its
# workspace belongs to the agent.
mkdir -p /tmp || fail "/tmp of the base image is no folder"
chmod 1777 /tmp/.
for folder in /home/openhands /home/openhands/.openhands /workspace /workspace/project; do
    target=$(readlink -m "$folder")
    case $target in
        / | /bin | /boot | /etc | /home | /lib | /lib32 | /lib64 | /root | /sbin | /usr | /usr/*bin | /usr/lib* | /var | \
            /dev | /dev/* | /proc | /proc/* | /run | /run/* | /sys | /sys/*)
            fail "$folder of the base image leads to $target, which is the system's"
            ;;
    esac
    mkdir -p "$target" || fail "$folder of the base image is no folder"
    chown 10001:10001 "$folder/."
    chmod 1777 "$folder/."
done
# As useradd does: installers add to profiles that exist. Some versions fail where a file is there.
[ ! -d /etc/skel ] || cp -Rn /etc/skel/. /home/openhands 2>/dev/null || :
# What a link there leads to is meant for the agent as well, unless it is the system.
set --
for link in /workspace/* /workspace/project/*; do
    [ -L "$link" ] && [ -d "$link" ] || continue
    case $(readlink -f "$link")/ in
        // | /bin/* | /dev/* | /etc/* | /lib*/* | /proc/* | /run/* | /sbin/* | /sys/* | /usr/* | /var/*) ;;
        *) set -- "$@" "$link/." ;;
    esac
done
set -- /workspace/. /workspace/project/. "$@"
find /home/openhands/. "$@" -xdev ! -user 10001 -exec chown -h 10001:10001 {} +
# Nor does a closed folder above stop the agent.
for folder; do
    folder=$(readlink -f "$folder")
    while [ "$folder" != / ]; do
        chmod a+x "$folder"
        folder=$(dirname "$folder")
    done
done

# No human can answer prompts.
install -D -m 644 /run/managed-settings.json /etc/claude-code/managed-settings.json
