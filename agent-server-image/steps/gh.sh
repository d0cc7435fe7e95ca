# Installs gh with its own libraries: older releases of Debian and Ubuntu have none.
# shellcheck shell=sh
# shellcheck source=apt.sh
. /run/apt.sh
PATH=$PATH:/opt/build/bin
apt_install gh
home=/openhands/gh
mkdir -p "/out$home/bin" /out/usr/local/bin
cp /usr/bin/gh "/out$home/bin"
make_portable "$home" "/out$home/bin/gh"
ln -s "$home/bin/gh" /out/usr/local/bin
cp /opt/build/bin/uv /opt/build/bin/uvx /out/usr/local/bin
same_time /out
