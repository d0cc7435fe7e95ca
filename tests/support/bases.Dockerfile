# Root file systems of several kinds, as far as Debian's packages give them: a target each.
FROM debian:trixie-slim AS maker
RUN apt-get -qq update && apt-get -qq install --yes --no-install-recommends \
    busybox-static ca-certificates mmdebstrap musl

# The packages' files only: nothing is configured, so nothing has to be mounted for it.
FROM maker AS unpacked
ARG SUITE
RUN mmdebstrap --quiet --mode=root --variant=extract --include='?essential' $SUITE /root.tar \
    http://deb.debian.org/debian && mkdir /base && tar -xf /root.tar -C /base
FROM scratch AS debian
COPY --from=unpacked /base /
CMD ["bash"]

# A user with number and home, tools of its own, of which tmux warns as where LD_LIBRARY_PATH leads it
# to other libraries, and a configuration that leads elsewhere.
FROM debian:trixie-slim AS ubuntu-like
RUN apt-get -qq update && apt-get -qq install --yes --no-install-recommends git tmux && \
    sed -i 's/^ID=.*/ID=ubuntu/' /etc/os-release && useradd --create-home --shell /bin/bash ubuntu && \
    printf '#!/bin/sh\necho tmux: no version information >&2\nexec /usr/bin/tmux "$@"\n' \
        >/usr/local/bin/tmux && chmod 755 /usr/local/bin/tmux
ENV LD_LIBRARY_PATH=/opt/lib
USER ubuntu
WORKDIR /home/ubuntu
ENTRYPOINT ["/bin/false"]

# Libraries in /usr/lib64, certificates in /etc/pki, names by systemd; neither apt nor dpkg.
FROM maker AS fedora
COPY --from=debian:trixie-slim / /base
RUN cd /base && mv usr/lib/*-linux-gnu/* usr/lib64 && rm -r usr/lib/*-linux-gnu && \
    rm -r etc/apt etc/debian_version etc/dpkg var/lib/apt var/lib/dpkg && \
    find . -xdev -name 'apt*' -prune -exec rm -r {} + -o -name 'dpkg*' -prune -exec rm -r {} + && \
    ln -sf bash usr/bin/sh && mkdir -p etc/pki/tls/certs && \
    cp /etc/ssl/certs/ca-certificates.crt etc/pki/tls/certs/ca-bundle.crt && \
    echo /usr/lib64 >etc/ld.so.conf && ldconfig -r . && \
    echo 'passwd: files systemd' >etc/nsswitch.conf && \
    echo 'hosts: files myhostname resolve [!UNAVAIL=return] dns' >>etc/nsswitch.conf && \
    printf 'ID=fedora\nNAME="Fedora Linux"\n' >etc/os-release
FROM scratch AS fedora-like
COPY --from=fedora /base /
CMD ["/bin/bash"]

# No glibc and no bash. What it preloads is of its own C library.
FROM maker AS alpine
RUN mkdir -p /base/bin /base/etc /base/lib /base/tmp && chmod 1777 /base/tmp && \
    cp /bin/busybox /base/bin && chroot /base /bin/busybox --install -s /bin && \
    cp --dereference /lib/ld-musl-*.so.1 /base/lib && echo ID=alpine >/base/etc/os-release && \
    cp /base/lib/ld-musl-*.so.1 /base/lib/preloaded.so && \
    echo /lib/preloaded.so >/base/etc/ld.so.preload
FROM scratch AS alpine-like
COPY --from=alpine /base /
CMD ["/bin/sh"]

# No program at all.
FROM scratch AS bare
COPY --from=maker /etc/debian_version /data/file
