# Installs packages: those that the step names, or what a step that sources this file passes to
# apt_install. A name that ends in `?` is left out where its release does not have it.
# shellcheck shell=sh
# shellcheck source=lib.sh
. /run/lib.sh

# Lists, archives and sources lie on the tmpfs of the step, so there is nothing to clean up. A cache
# mount would have to be locked, and hundreds of base images would wait for it.
apt=/run/tmp/apt
export TMPDIR=/run/tmp
[ -s "$ca" ] || ca=
run_apt() {
    program=apt-$1
    shift
    # What a step leaves is safe on disk when its layer is: nothing waits for single files.
    "$program" -qq -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt" \
        -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/sources" \
        -o "Dir::Etc::netrc=$apt/auth" -o Acquire::Retries=5 -o Acquire::Languages=none \
        -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
        ${ca:+-o "Acquire::https::CAInfo=$ca"} "$@"
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

# Copies the sources, with APT_MIRROR in place of Debian's own mirror, and UBUNTU_MIRROR of Ubuntu's. A
# password goes to a file, because apt prints addresses.
copy_sources() {
    mkdir -p "$apt/sources" "$apt/lists/partial" "$apt/archives/partial"
    : >"$apt/sources.list"
    [ ! -f /etc/apt/sources.list ] || cp /etc/apt/sources.list "$apt"
    [ ! -d /etc/apt/sources.list.d ] || cp -RL /etc/apt/sources.list.d/. "$apt/sources"
    [ ! -f /etc/apt/auth.conf ] || cp /etc/apt/auth.conf "$apt/auth"
    mirror=${APT_MIRROR-} hosts='(deb|security|ftp[.a-z]*)\.debian\.org/debian'
    if [ -n "${UBUNTU_MIRROR-}" ] &&
        grep -q -r -F .ubuntu.com/ "$apt/sources.list" "$apt/sources"; then
        mirror=$UBUNTU_MIRROR hosts='([a-z]+\.)*(archive|security|ports)\.ubuntu\.com/ubuntu'
    fi
    mirror=${mirror%/}
    [ -n "$mirror" ] || return 0
    case $mirror in
        *://*@*)
            scheme=${mirror%%://*} user=${mirror#*://}
            host=${user##*@} user=${user%@*}
            mirror=$scheme://$host
            # Older versions know no scheme there, and newer ones take that for HTTPS.
            for machine in "$mirror" "$host"; do
                printf 'machine %s login %s password %s\n' "$machine" \
                    "$(decode "${user%%:*}")" "$(decode "${user#*:}")"
            done >>"$apt/auth"
            ;;
    esac
    escaped=$(printf %s "$mirror" | sed 's/[\\&,]/\\&/g')
    find "$apt/sources.list" "$apt/sources" -type f -exec sed -i -E \
        -e "s,https?://$hosts,$escaped,g" \
        -e "s,https?://security\.debian\.org/?([[:space:]]|$),$escaped-security\1,g" {} +
    grep -q -r -F -e "$mirror" "$apt/sources.list" "$apt/sources" ||
        warn "APT_MIRROR is not used: it replaces Debian's mirror, and UBUNTU_MIRROR Ubuntu's"
}

# Reads the lists. A source that can't be used is no error: perhaps nothing is needed from it. One that is
# gone for good costs seven seconds, with five retries half a minute.
update_lists() {
    set -- -o Acquire::Retries=3 "$@"
    run_apt get "$@" update 2>"$apt/errors" || :
    cat "$apt/errors" >&2
    # One wrong line keeps apt from reading any of them, and it names one at a time.
    for _ in 1 2 3 4 5 6 7 8 9; do
        grep -q 'list of sources could not be read' "$apt/errors" || break
        sed -n -E -e "s/^E: (Malformed (entry|line)|Type '[^']*' is not known on line) ([0-9]+) in \
(list file|source list) ([^ ]+).*/\3 \5/p" -e t -e "s/^E: (Malformed (entry|stanza)|Type '[^']*' is not \
known on stanza) ([0-9]+) in (sources file|source list) ([^ ]+).*/\3 \5/p" "$apt/errors" >"$apt/wrong"
        # Where it names none, the distribution's own are enough, and of these the newer file.
        if [ ! -s "$apt/wrong" ]; then
            grep -l -s '^[^#]' "$apt"/sources/* "$apt/sources.list" | sed 's/^/1,$ /' >"$apt/all" || :
            grep -v -E '/((debian|ubuntu)[^/]*|sources\.list)$' "$apt/all" >"$apt/wrong" ||
                { grep -q -E '/(debian|ubuntu)\.sources$' "$apt/all" &&
                    grep -v -E '/(debian|ubuntu)\.sources$' "$apt/all" >"$apt/wrong"; } || break
        fi
        while read -r number file; do
            name=${file#"$apt/"}
            case $name in sources/*) name=sources.list.d/${name#*/} ;; esac
            warn "skipped the package source /etc/apt/$name"
            case $number$name in
                1,* | *.list) sed -i "${number}s/^/#/" "$file" ;;
                *)
                    sed '/^#/d' "$file" | awk -v RS= -v ORS='\n\n' "NR != $number" >"$apt/rest"
                    mv "$apt/rest" "$file"
                    ;;
            esac
        done <"$apt/wrong"
        run_apt get "$@" update 2>"$apt/errors" || :
        cat "$apt/errors" >&2
    done
    sed -n "s/^E: The repository '\([^']*\)'.*/\1/p; s/^[EW]: Failed to fetch \([^ ]*\).*/\1/p
        s/^E: Release file for \([^ ]*\) is .*/\1/p" "$apt/errors" | sort -u | while read -r name; do
        warn "skipped the package source $name"
    done
}

# Reads the lists of a release that has left the mirrors from the archive of its distribution.
use_archive() {
    grep -q '^E: .*//[^ ]*\(debian\|ubuntu\)[^ ]* .*not have a Release file' "$apt/errors" || return 1
    find "$apt/sources.list" "$apt/sources" -type f -exec sed -i -E \
        -e 's,https?://security\.debian\.org/?([[:space:]]|$),http://archive.debian.org/debian-security\1,g' \
        -e 's,https?://[^/ ]+/(debian|debian-security)/?([[:space:]]|$),http://archive.debian.org/\1\2,g' \
        -e 's,https?://[^/ ]+/ubuntu(-ports)?/?([[:space:]]|$),http://old-releases.ubuntu.com/ubuntu\2,g' {} +
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

# What is there stays as it is, held or not. A package of the base image that can't be configured is
# not this step's concern.
try_install() {
    chosen='' missing=''
    for name; do
        case $name in
            *\?)
                name=${name%?}
                if ! run_apt cache show "$name" >"$apt/shown" 2>&1; then
                    missing="$missing $name"
                    continue
                fi
                ;;
        esac
        chosen="$chosen $name"
    done
    # shellcheck disable=SC2086
    if ! run_apt get install --yes --no-install-recommends --no-upgrade $chosen; then
        [ "$(dpkg-query -W -f '${Status}\n' $chosen 2>&1 | sort -u)" = 'install ok installed' ] ||
            return
        warn "the base image has packages that can't be configured"
    fi
    [ -z "$missing" ] || warn "left out$missing, which this release does not have"
}

# Fails if a package can't be had.
install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    # Some base images lack these, or were made by a dpkg that was stopped.
    mkdir -p /var/cache/debconf /var/log/apt
    [ -z "$(ls /var/lib/dpkg/updates 2>&1)" ] || dpkg --configure -a || :
    copy_sources
    update_lists
    try_install "$@" || { use_archive && try_install "$@"; }
}

apt_install() {
    install_packages "$@" || return
    # shellcheck disable=SC2086
    update_installed $chosen
}

[ $# = 0 ] || apt_install "$@"
