# Installs Docker with its own libraries.
# shellcheck shell=sh
# shellcheck source=apt.sh
. /run/apt.sh
apt_install docker-buildx docker-cli docker-compose docker.io iptables
home=/openhands/docker
programs=/out/usr/local/bin plugins=/out/usr/local/lib/docker/cli-plugins
mkdir -p "/out$home/bin" "$programs" "$plugins" /out/etc/docker /out/etc/init.d
for program in containerd containerd-shim-runc-v2 ctr docker docker-init docker-proxy dockerd runc
do
    cp "$(command -v "$program")" "/out$home/bin"
    ln -s "$home/bin/$program" "$programs/$program"
done
for plugin in docker-buildx docker-compose; do
    cp "$(readlink -f "/usr/libexec/docker/cli-plugins/$plugin")" "/out$home/bin/$plugin"
    ln -s "$home/bin/$plugin" "$plugins/$plugin"
done
ln -s "$home/bin/docker-compose" "$programs/docker-compose"
# What dockerd calls. Its modules are found by a variable only.
cp /usr/sbin/xtables-nft-multi "/out$home/bin"
cp -R /usr/lib/*-linux-gnu/xtables "/out$home/xtables"
for program in iptables ip6tables; do
    install -m 755 /run/iptables "$programs/$program"
done
make_portable "$home" "/out$home"/bin/*
# Containers may not raise limits.
sed -e 's|^\(DOCKERD=\).*|\1/usr/local/bin/dockerd|' -e 's/^\s*ulimit .*/& || :/' /etc/init.d/docker \
    >/out/etc/init.d/docker
chmod 755 /out/etc/init.d/docker
# Networks of sandboxes often carry less than 1500 bytes a packet.
echo '{"mtu": 1450}' >/out/etc/docker/daemon.json
same_time /out
