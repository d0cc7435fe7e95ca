#!/bin/sh
# A docker for tests. It notes what it is asked in the folder that it lies in, and does what the
# files there say:
#   override.sh          is sourced first, and may exit
#   inspected            what a builder says of itself; without it there is no builder
#   manifest_REF         what a registry has, with `_` for `/` and `:` of the reference
#   image_REF            the configuration of an image there
#   play/NAME.KIND.N     what the Nth bake of that kind does for the image NAME; or NAME.KIND, or
#                        all.KIND: events to write, `wait FILE`, `sleep SECONDS`, `exit STATUS`
# A bake is of the kind check, image, cache or base. What it is given is kept as bakes/NAME.KIND.N.
cd "${0%/*}" || exit
echo "$*" >>calls
# shellcheck source=/dev/null
[ ! -f override.sh ] || . ./override.sh

last() {
    for last in "$@"; do :; done
    echo "$last" | tr '/:' '__'
}

# The digest that every image of a name gets.
digest() {
    printf 'sha256:%s' "$(printf %s "$1" | sha256sum | cut -c -64)"
}

case "$*" in
*' bake '*) ;;
*'imagetools inspect'*--format*)
    cat "image_$(last "$@")" 2>/dev/null
    exit 0
    ;;
*'imagetools inspect'*)
    cat "manifest_$(last "$@")" 2>/dev/null && exit
    echo "ERROR: $(last "$@"): not found" >&2
    exit 1
    ;;
*'buildx '*inspect*)
    cat inspected
    exit $?
    ;;
*' du'*)
    echo 'Total: 0B'
    exit 0
    ;;
*'image inspect'* | info*) exit 1 ;;
*) exit 0 ;;
esac

# A line without blanks between its parts.
definition=$(cat)
name=${definition#*'"default":{"targets":["'}
name=${name%%'"'*}
name=${name%_check}
name=${name%_layer}
case "$definition" in
*"_check\""*) kind=check ;;
*'"cache-to":["'*) kind=cache ;;
*'"tags":["'*) kind=image ;;
*) kind=base ;;
esac
[ -d bakes ] || mkdir -p bakes play
number=1
while [ -e "bakes/$name.$kind.$number" ]; do number=$((number + 1)); done
echo "begin $name.$kind.$number" >>order
printf %s "$definition" >"bakes/$name.$kind.$number"
echo "$name.$kind.$number $*" >>begun
while [ "$1" != --metadata-file ]; do shift; done
metadata=$2

status=0
for play in "$name.$kind.$number" "$name.$kind" "all.$kind"; do
    [ -f "play/$play" ] || continue
    while read -r line; do
        case "$line" in
        'wait '*) while ! [ -e "${line#wait }" ]; do sleep 0.02; done ;;
        'sleep '*) sleep "${line#sleep }" ;;
        'exit '*) status=${line#exit } ;;
        *) printf '%s\n' "$line" >&2 ;;
        esac
    done <"play/$play"
    break
done
echo "end $name.$kind.$number" >>order
[ "$status" = 0 ] || exit "$status"
case "$definition" in
*'"cache-to":["type=local,dest='*)
    export=$(echo "$definition" | sed 's/.*"cache-to":\["type=local,dest=\([^,"]*\).*/\1/')
    [ -e no-export ] || mkdir -p "$export/blobs/sha256"
    [ -e no-export ] || echo '{"manifests":[]}' >"$export/index.json"
    ;;
esac
case $kind in
image) echo "{\"$name\":{\"containerimage.digest\":\"$(digest "$name")\"}}" >"$metadata" ;;
cache) [ -n "$NO_CACHE" ] || echo "{\"$name\":{\"cache.manifest\":\"{}\"}}" >"$metadata" ;;
esac
