# Starts the server of the image that this runs in, and fails unless it becomes healthy. The shell is
# the image's static one: the base image may have none.
# shellcheck shell=sh
set -eu
bb=/agent-server/bin/busybox
# Under emulation a start takes a minute and more.
seconds=300
log=/run/tmp/log
now() { $bb cut -d. -f1 /proc/uptime; }
started=$(now)
# Other steps may use the same network. Linux gives connections no port of this range.
start() {
    port=$((10000 + 0x$($bb cut -c1-4 /proc/sys/kernel/random/uuid) % 20000))
    /agent-server/bin/tini -s -- /usr/local/bin/openhands-agent-server --host 127.0.0.1 \
        --port $port >$log 2>&1 &
    server=$!
}
start
until $bb wget -q -Y off -T 5 -O /run/tmp/health "http://127.0.0.1:$port/health" 2>/run/tmp/error
do
    if ! kill -0 $server 2>/run/tmp/error; then
        if [ $(($(now) - started)) -le $seconds ] &&
            $bb grep -q -i "'127.0.0.1', $port): .*address already in use" $log; then
            start
            continue
        fi
        status=0
        wait $server || status=$?
        error="the server ended with status $status before it was healthy"
    elif [ $(($(now) - started)) -gt $seconds ]; then
        kill $server
        error="the server was not healthy after $seconds seconds"
    else
        $bb sleep 0.1
        continue
    fi
    $bb tail -n 40 $log >&2
    echo "error: $error" >&2
    exit 1
done
kill $server
wait $server || :
