# shellcheck shell=bash
# Sourced, after tools/server.sh, by what runs a guest that asks for things: the guest writes a line `host: WORD...` and
# goes on when it reads a line back, which is the last one that `answer WORD...` wrote.
: "${dir:?}" "${repository:?}"

run_guest() { # OPTION-OF-RUN... -- SCRIPT ARG...: runs a guest's script and answers it
    local line status=0 words=() options=()
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    mkfifo "$dir/to" "$dir/from"
    "$repository/tools/vm/run" "${options[@]}" "${@:2}" <"$dir/to" >"$dir/from" &
    local machine=$!
    at_exit+=("kill $machine")
    exec 5>"$dir/to" 6<"$dir/from"
    while read -r line <&6; do
        echo "$line"
        [[ $line == 'host: '* ]] || continue
        read -ra words <<<"${line#host: }"
        if ! answer "${words[@]}" >"$dir/answer"; then
            cat "$dir/answer"
            echo "the host's part failed: ${words[*]}"
            kill "$machine"
            return 1
        fi
        cat "$dir/answer"
        { tail -n 1 "$dir/answer" | grep . || echo 'done'; } >&5
    done
    exec 5>&- 6<&-
    rm "$dir/to" "$dir/from"
    wait $machine || status=$?
    if [ $status != 0 ]; then echo "status $status; the daemon:"; tail -n 20 "$dir/server.log"; fi
    return $status
}

# Space of the pool that is in use, and whether the guest's removed files gave some back.
allocated() {
    if [ -n "${DRYSTONE_REFERENCE-}" ]; then du -B1 "$dir/exports/data" | cut -f1; return; fi
    drystone --json status | jq '[.pools[].allocated_bytes] | add'
}
note_space() { allocated >"$dir/space"; }
space_is_back() {
    local before now
    before=$(cat "$dir/space")
    now=$(allocated)
    echo "allocated: $before bytes with the files, $now after they were given back"
    [ "$now" -lt $((before - (32 << 20))) ]
}
