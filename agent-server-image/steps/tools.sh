# Installs what an agent works with.
# shellcheck shell=sh
# shellcheck source=apt.sh
. /run/apt.sh
lsb='lsb-release'
if [ -e /usr/bin/python3 ] && ! dpkg -S /usr/bin/python3 >/dev/null 2>&1; then
    lsb=
    warn 'left out lsb-release: its Python would take the place of /usr/bin/python3, which is no package'
fi
apt_install build-essential curl file gnupg jq less ${lsb:+"$lsb"} openssh-client patch pkg-config \
    procps 'ripgrep?' rsync sudo unzip vim-tiny wget xz-utils zip ||
    fail 'apt can not install the tools of the agent; use the target overlay or binary-minimal'
# By number, as the number may have a second name in the base image.
echo '#10001 ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/openhands
chmod 0440 /etc/sudoers.d/openhands
# dockerd gives its socket to this group.
[ -n "${NO_DOCKER-}" ] || getent group docker >/dev/null || groupadd --system docker
# Where other images have uv. /bin is mostly a link to /usr/bin.
ln -sf /usr/local/bin/uv /usr/local/bin/uvx /bin
