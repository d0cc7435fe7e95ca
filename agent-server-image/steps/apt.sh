# Installs packages: those that the step names, or what a step that sources this file passes to
# apt_install.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh

# Lists, archives and sources lie on the tmpfs of the step, so there is nothing to clean up. A cache
# mount would have to be locked, and hundreds of base images would wait for it.
apt=/run/tmp/apt
run_apt() {
    program=apt-$1
    shift
    # What a step leaves is safe on disk when its layer is: nothing waits for single files.
    "$program" -qq -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt" \
        -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/sources" \
        -o "Dir::Etc::netrc=$apt/auth" -o Acquire::Retries=5 -o Acquire::Languages=none \
        -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
        ${SSL_CERT_FILE:+-o "Acquire::https::CAInfo=$SSL_CERT_FILE"} "$@"
}

# An address has its login percent-encoded, and apt's auth.conf has it as it is.
decode() {
    printf '%s\n' "$1" | awk '{
        hex = "0123456789abcdef"
        while (match($0, /%[0-9A-Fa-f][0-9A-Fa-f]/)) {
            code = tolower(substr($0, RSTART + 1, 2))
            code = 16 * index(hex, substr(code, 1, 1)) + index(hex, substr(code, 2)) - 17
            printf "%s%c", substr($0, 1, RSTART - 1), code
            $0 = substr($0, RSTART + 3)
        }
        print
    }'
}

# Copies the sources, with APT_MIRROR in place of Debian's own mirror. A password goes to a file,
# because apt prints addresses.
copy_sources() {
    mkdir -p "$apt/sources" "$apt/lists/partial" "$apt/archives/partial"
    : >"$apt/sources.list"
    [ ! -f /etc/apt/sources.list ] || cp /etc/apt/sources.list "$apt"
    [ ! -d /etc/apt/sources.list.d ] || cp -RL /etc/apt/sources.list.d/. "$apt/sources"
    [ ! -f /etc/apt/auth.conf ] || cp /etc/apt/auth.conf "$apt/auth"
    mirror=${APT_MIRROR-}
    mirror=${mirror%/}
    [ -n "$mirror" ] || return 0
    case $mirror in
        *://*@*)
            scheme=${mirror%%://*} user=${mirror#*://}
            host=${user#*@} user=${user%%@*}
            mirror=$scheme://$host
            printf 'machine %s login %s password %s\n' "$mirror" \
                "$(decode "${user%%:*}")" "$(decode "${user#*:}")" >>"$apt/auth"
            ;;
    esac
    find "$apt/sources.list" "$apt/sources" -type f -exec sed -i -E \
        -e "s,https?://(deb|security|ftp[.a-z]*)\.debian\.org/debian,$mirror,g" \
        -e "s,https?://security\.debian\.org/?( |$),$mirror-security\1,g" {} +
}

# Reads the lists. A source that can't be used is no error: perhaps nothing is needed from it.
update_lists() {
    run_apt get "$@" update 2>"$apt/errors" || :
    cat "$apt/errors" >&2
    if grep -q 'list of sources could not be read' "$apt/errors"; then
        # One wrong file keeps apt from reading any of them: the distribution's own are enough.
        for file in "$apt"/sources/*; do
            case ${file##*/} in debian* | ubuntu* | \*) continue ;; esac
            warn "skipped the package source /etc/apt/sources.list.d/${file##*/}"
            rm "$file"
        done
        run_apt get "$@" update 2>"$apt/errors" || :
        cat "$apt/errors" >&2
    fi
    sed -n "s/^E: The repository '\([^']*\)'.*/\1/p; s/^[EW]: Failed to fetch \([^ ]*\).*/\1/p" \
        "$apt/errors" | sort -u | while read -r name; do
        warn "skipped the package source $name"
    done
}

# Reads the lists of a release that has left the mirrors from the archive of its distribution.
use_archive() {
    grep -q '^E: .*\(debian\.org\|ubuntu\.com\).*not have a Release file' "$apt/errors" || return 1
    find "$apt/sources.list" "$apt/sources" -type f -exec sed -i -E \
        -e 's,//(deb|security|ftp[.a-z]*)\.debian\.org/,//archive.debian.org/,g' \
        -e 's,//([a-z.]*archive|security)\.ubuntu\.com/,//old-releases.ubuntu.com/,g' {} +
    update_lists -o Acquire::Check-Valid-Until=false
}

# Installs the security updates of the packages that are named and of what these depend on; without
# names, of everything. A package that the base image holds back stays as it is.
update_installed() {
    run_apt get -s upgrade | awk '$1 == "Inst" && tolower($0) ~ /security/ { print $2 }' |
        sort -u >"$apt/updates"
    [ -s "$apt/updates" ] || return 0
    run_apt mark showhold | sort -u | comm -13 - "$apt/updates" >"$apt/free"
    if [ $# = 0 ]; then
        mv "$apt/free" "$apt/updates"
    else
        run_apt cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts \
            --no-breaks --no-replaces --no-enhances "$@" | grep '^[a-z0-9]' | sort -u |
            comm -12 - "$apt/free" >"$apt/updates"
    fi
    # shellcheck disable=SC2046
    [ ! -s "$apt/updates" ] || run_apt get install --yes --no-install-recommends --only-upgrade \
        $(cat "$apt/updates") || warn "some security updates were not installed"
}

# Fails if a package can't be had.
install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    copy_sources
    update_lists
    run_apt get install --yes --no-install-recommends "$@" ||
        { use_archive && run_apt get install --yes --no-install-recommends "$@"; }
}

apt_install() {
    install_packages "$@" || return
    update_installed "$@"
}

[ $# = 0 ] || apt_install "$@"
