# shellcheck shell=bash
# Sourced by what needs a server: makes a temporary folder $dir for member files and has functions that make a pool
# and start and stop a daemon on a free port of the loopback. When the shell (or subshell) that sourced it exits,
# what it started is ended, by process id, and the folder removed.
#
# DRYSTONE            the program to test (default: what `cargo build` made)
# DRYSTONE_REFERENCE  set to 1: serve plain files with nbdkit instead. A tool that fails then is itself wrong.

repository=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
DRYSTONE=${DRYSTONE:-${CARGO_TARGET_DIR:-$repository/target}/debug/drystone}
dir=$(mktemp -d "${TMPDIR:-/tmp}/drystone-test.XXXXXX")
port='' server='' at_exit=() nvme_options=(--nvme 127.0.0.1:0)

drystone() { timeout -k 5 60 "$DRYSTONE" --state "$dir/state" --control "$dir/control.sock" "$@"; }

make_pool() { # DISK...: pool `tank`, two copies
    if [ -n "${DRYSTONE_REFERENCE-}" ]; then mkdir -p "$dir/exports"; return; fi
    [ -x "$DRYSTONE" ] || { echo "no program at $DRYSTONE: run cargo build"; return 1; }
    drystone pool create tank "$@" --protect drive
}
make_volume() { # NAME SIZE [OPTION]...
    if [ -n "${DRYSTONE_REFERENCE-}" ]; then truncate -s "$2" "$dir/exports/$1"; return; fi
    drystone volume create "$1" --size "$2" "${@:3}"
}

free_port() {
    local candidate
    while :; do
        candidate=$((20000 + RANDOM % 12000))
        [ -n "$(ss -Hltn "sport = :$candidate")" ] || { echo "$candidate"; return; }
    done
}
uri() { echo "nbd://127.0.0.1:$port/$1"; } # EXPORT

start_server() { # EXPORT: returns when that export answers
    local command
    port=${port:-$(free_port)}
    command=("$DRYSTONE" --state "$dir/state" --control "$dir/control.sock" serve --nbd "127.0.0.1:$port"
        "${nvme_options[@]}")
    if [ -n "${DRYSTONE_REFERENCE-}" ]; then
        command=(nbdkit -f -i 127.0.0.1 -p "$port" --filter=blocksize-policy file "dir=$dir/exports"
            blocksize-minimum=1 blocksize-preferred=4096 blocksize-maximum=32M)
    fi
    "${command[@]}" </dev/null >>"$dir/server.log" 2>&1 &
    server=$!
    for _ in $(seq 300); do
        if timeout 5 nbdinfo --size "$(uri "$1")" &>/dev/null; then return; fi
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    echo "the server does not answer:"
    tail -n 20 "$dir/server.log"
    return 1
}

stop_server() { # SIGTERM; it must drain and end with status 0 within 60 s
    local status=0 deadline=$((SECONDS + 60))
    [ -n "$server" ] || return 0
    kill "$server"
    while kill -0 "$server" 2>/dev/null; do
        if [ $SECONDS -ge $deadline ]; then
            echo "the server does not end"
            kill -9 "$server"
        fi
        sleep 0.05
    done
    wait "$server" || status=$?
    server=''
    [ $status = 0 ] || { echo "the server ended with status $status:"; tail -n 20 "$dir/server.log"; return 1; }
}

# After bits were flipped on a member and everything was read: what was met is counted and healed, a scrub heals the
# rest, and a second one finds nothing.
scrub() { # JQ-CONDITION
    drystone --json pool scrub --wait >"$dir/scrub.json" || { cat "$dir/scrub.json"; return 1; }
    jq -e ".pools[0].last_scrub | $1 and .unrepaired_blocks == 0 and .different_blocks == 0 and .lost_blocks == 0" \
        "$dir/scrub.json" >/dev/null || { jq '.pools[0].last_scrub' "$dir/scrub.json"; return 1; }
}
check_healed() {
    local counts
    counts=$(drystone --json status | jq -c '[.pools[0].drives[] | {checksum_errors, healed_blocks}]')
    echo "after reading: $counts"
    jq -e '(map(.checksum_errors) | add) > 0 and (map(.healed_blocks) | add) >= (map(.checksum_errors) | add)' \
        <<<"$counts" >/dev/null
    scrub true
    echo "a scrub repaired $(jq '.pools[0].last_scrub.repaired_blocks' "$dir/scrub.json") more"
    scrub '.repaired_blocks == 0'
}

# Whatever is still there goes, the newest first: after an orderly end nothing is left to do.
# shellcheck disable=SC2317 # called by the trap
tear_down() {
    local i
    trap '' INT TERM
    set +e
    [ -z "$server" ] || { kill -9 "$server"; wait "$server"; } 2>/dev/null
    for ((i = ${#at_exit[@]} - 1; i >= 0; i--)); do eval "${at_exit[i]}" &>/dev/null; done
    rm -rf --one-file-system "$dir"
    rm -f "/dev/shm/drystone${dir//\//-}"-*
}
trap tear_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
