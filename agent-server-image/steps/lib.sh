# What steps share: each sources this file.
# shellcheck shell=sh disable=SC2034
set -eu
umask 022
# What a base image sets for its own programs breaks ours and apt's.
export PATH="${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
unset PYTHONHOME PYTHONPATH PERL5LIB PERL5OPT BASH_ENV LD_LIBRARY_PATH LD_PRELOAD LD_AUDIT
# The caller names a mirror, not the base image.
unset APT_MIRROR UBUNTU_MIRROR
# The same input makes the same bytes on every machine, so layers are pushed and pulled once.
export LC_ALL=C TZ=UTC PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=315532800
# The server would fetch a price list of models when it starts.
export LITELLM_LOCAL_MODEL_COST_MAP=True
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_COMPILE=1
export UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never
export npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false
export npm_config_loglevel=error
# An image should survive a registry that is away for some seconds.
export PIP_RETRIES=8 PIP_DEFAULT_TIMEOUT=60 UV_HTTP_RETRIES=8 UV_HTTP_TIMEOUT=120
export npm_config_fetch_retries=5
# uv would ask for 50 downloads at once, and each asks the resolver. Many drop part of such a burst, and
# each question is asked again after five seconds.
export UV_CONCURRENT_DOWNLOADS=8

fail() {
    echo "error: $*" >&2
    exit 1
}

warn() {
    echo "warning: $*" >&2
}

# True for a switch that nobody has turned on.
is_off() {
    case $1 in '' | 0 | false | no | off) ;; *) return 1 ;; esac
}

# The caller's mirrors and their passwords: files that exist as long as the step runs.
secrets=/run/secrets
# shellcheck disable=SC1091
[ ! -s "$secrets/settings" ] || . "$secrets/settings"
# Of these, npm's own registries and passwords, and nothing that is for the caller's machine.
if [ -s "$secrets/npmrc" ]; then
    export NPM_CONFIG_USERCONFIG=/run/tmp/npmrc
    grep -E '^ *([^ #;=]*registry|//[^=]*|strict-ssl) *= *[^ ]' "$secrets/npmrc" \
        >"$NPM_CONFIG_USERCONFIG" || :
fi
export UV_NO_CONFIG=1
if [ -e /run/mirrors.py ]; then
    mirrors=$(python3 /run/mirrors.py)
    eval "$mirrors"
fi

# The caller's certificates are added to those that the image has. Programs that drop root before
# they read, such as apt, may read the result.
ca=/run/tmp/ca-certificates.crt
if [ -s "$secrets/ca-certificates" ]; then
    for bundle in "${SSL_CERT_FILE-}" /etc/ssl/certs/ca-certificates.crt "$secrets/ca-certificates"
    do
        [ ! -r "$bundle" ] || { cat "$bundle" && echo; }
    done >"$ca"
    export SSL_CERT_FILE="$ca" PIP_CERT="$ca" REQUESTS_CA_BUNDLE="$ca" CURL_CA_BUNDLE="$ca" \
        GIT_SSL_CAINFO="$ca" NODE_EXTRA_CA_CERTS="$ca"
fi

same_time() {
    find "$@" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# Makes programs below /out$1 run on any Linux: with their own loader, C library and libraries, in
# /out$1/lib. The programs themselves name these: the programs that they start would inherit a
# variable.
make_portable() {
    home=$1
    shift
    command -v patchelf >/dev/null || fail "patchelf is not in PATH"
    mkdir -p "/out$home/lib"
    for program in "$@"; do
        loader=$(patchelf --print-interpreter "$program" 2>/dev/null) || continue
        for library in "$loader" $(ldd "$program" | sed -n 's/.* => \(.*\) (.*/\1/p'); do
            cp --dereference "$library" "/out$home/lib"
        done
        # Libraries in the base's /etc/ld.so.preload are for the base's C library: see copy_python.py.
        sed -i 's|/etc/ld\.so\.preload|/agent-server/none|' "/out$home/lib/${loader##*/}"
        patchelf --set-interpreter "$home/lib/${loader##*/}" --force-rpath --set-rpath "$home/lib" \
            "$program"
    done
    # A library with a search path of its own would ignore the search path of the program.
    for library in "/out$home"/lib/*.so*; do
        [ -z "$(patchelf --print-rpath "$library")" ] || patchelf --remove-rpath "$library"
    done
}
