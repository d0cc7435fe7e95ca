# Makes the layer of debian:trixie-slim: `base.sh FOLDER PROGRAMS DEB...`, in namespaces of its own.
# FOLDER gets layer.tar.gz, and a file with the digests of the layer and of its archive. With
# PROGRAMS, that folder gets a copy of /usr.
#
# The same packages give the same bytes on every machine: each file has the same time, and what
# tells of the machine or of the moment is removed.
set -eu
umask 022
folder=$1 programs=$2
shift 2
mount -n -t tmpfs -o mode=755 tmpfs "$folder/root"
root=$folder/root/debian
mkdir "$root"

# dpkg needs most of these packages to install the first one. They are installed over that.
printf '%s\n' "$@" | xargs -d '\n' -n 1 -P "$(nproc)" sh -c 'dpkg-deb --extract "$1" "$0"' "$root"
(
    cd "$root/usr/share"
    rm -rf info/* locale/* man/*
    find doc ! -type d ! -name copyright -delete
)
# Others unpack there at the same time, which cp does not bear.
if [ "$programs" ]; then tar -c -C "$root" usr | tar -x -p -C "$programs"; fi
cat > "$root/etc/dpkg/dpkg.cfg.d/slim" <<'END'
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
path-include=/usr/share/doc/*/copyright
END
: > "$root/var/lib/dpkg/status"
mount -n --rbind /dev "$root/dev"
mount -n -t proc proc "$root/proc"
clean() {
    env -i PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" "$@"
}
# The host's own dpkg unpacks, as an emulated one takes half a minute more.
# shellcheck disable=SC2046
clean dpkg --root="$root" --log=/dev/null $(sed s/^/--/ "$root/etc/dpkg/dpkg.cfg.d/slim") \
    --force-architecture --force-depends --force-unsafe-io --unpack "$@"
clean chroot "$root" dpkg --force-depends --force-unsafe-io --configure --pending
umount -n -l "$root/dev" "$root/proc"

cd "$root"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
for suite in debian:trixie debian:trixie-updates debian-security:trixie-security; do
    echo "deb [signed-by=$keys] http://deb.debian.org/${suite%:*} ${suite#*:} main"
done > etc/apt/sources.list
find usr/share/doc -type d -empty -delete
rm -f etc/*- var/cache/apt/*.bin var/cache/debconf/*-old var/cache/ldconfig/* \
    var/lib/dpkg/*-old var/lib/dpkg/lock* var/log/*.log
tar --create --file ../layer.tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner .
cd ..
# Without the name and time that would make each archive different.
gzip -1 --no-name < layer.tar > "$folder/layer.tar.gz" &
sha256sum < layer.tar > "$folder/digests"
wait $!
sha256sum < "$folder/layer.tar.gz" >> "$folder/digests"
