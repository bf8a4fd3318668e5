# shellcheck shell=bash
# shellcheck disable=SC2154,SC2017 # dir, seed, round and rounds are those of tools/crash; the halves are whole blocks
# Sourced by tools/crash for --yank: one member at a time is taken away, by the round's way, and comes back.
#
#   loop    its loop device ends (every request fails) and is detached; attached again with all that was written
#   cut     its file is truncated; it comes back with the bytes that were cut off
#   holed   its file is truncated; it comes back as long as before, with zeros for what was cut off
#   older   it leaves; in its place comes a copy of it, made some rounds before
#
# Moments: `during` the load goes and comes back, kill; `across` goes during the load, kill, comes back after the start;
# `down` goes after the kill, comes back after the start; `asleep` goes and comes back while no daemon runs.

declare -A happened=()
loop='' paused=''

# The device of member b. Without root or loop devices b is a file like the others.
attach_loop() {
    local deadline=$((SECONDS + 30))
    [ "$(id -u)" = 0 ] && [ -c /dev/loop-control ] || return 0
    if [ -z "$loop" ]; then
        loop=$(losetup -f --show --direct-io=on "$dir/b.img")
        return
    fi
    # It is free when the daemon has closed it. Its number is wanted again: that is where the daemon looks.
    until losetup --direct-io=on "$loop" "$dir/b.img" 2>/dev/null; do
        [ $SECONDS -lt $deadline ] || fail "$loop is still in use 30 s after it was detached"
        sleep 0.1
    done
}
end_loop() { # a device of 4 KiB from here on; detached when the last one closes it
    python3 - "$loop" <<'PYTHON'
import fcntl, struct, sys
with open(sys.argv[1], "rb") as device:
    info = bytearray(232)
    fcntl.ioctl(device, 0x4C05, info)  # LOOP_GET_STATUS64
    struct.pack_into("Q", info, 32, 4096)  # lo_sizelimit
    fcntl.ioctl(device, 0x4C04, info)  # LOOP_SET_STATUS64
PYTHON
    losetup -d "$loop"
}
path_of() { if [ "$1" = b ] && [ -n "$loop" ]; then echo "$loop"; else echo "$dir/$1.img"; fi; }

pause_daemon() { # so that nothing is written between the copy of a file and its end
    [ -n "$daemon" ] || return 0
    kill -STOP "$daemon"
    paused=1
    sleep 0.1 # what is with the kernel already ends
}
continue_daemon() {
    [ -z "$paused" ] || kill -CONT "$daemon"
    paused=''
}

take_away() { # WAY MEMBER
    local file=$dir/$2.img length
    case $1 in
        loop) end_loop ;;
        cut | holed)
            length=$(($(stat -c %s "$file") / 8 * (1 + RANDOM % 7) / 4096 * 4096))
            pause_daemon
            cp --sparse=always "$file" "$dir/whole"
            truncate -s $length "$file"
            continue_daemon
            ;;
        older)
            if [ "$2" = b ] && [ -n "$loop" ]; then end_loop; fi
            mv "$file" "$dir/left"
            truncate -s 0 "$dir/left"
            ;;
    esac
}
bring_back() { # WAY MEMBER
    local file=$dir/$2.img
    case $1 in
        loop) attach_loop ;;
        cut)
            # It has its full length again when all of it is there.
            dd if="$dir/whole" of="$file" bs=1M iflag=skip_bytes oflag=seek_bytes conv=notrunc,sparse status=none \
                skip="$(stat -c %s "$file")" seek="$(stat -c %s "$file")"
            ;;
        holed) truncate -r "$dir/whole" "$file" ;;
        older)
            rm "$dir/left"
            cp --sparse=always "$dir/old/$2.img" "$dir/coming"
            mv "$dir/coming" "$file"
            if [ "$2" = b ] && [ -n "$loop" ]; then attach_loop; fi
            ;;
    esac
    rm -f "$dir/whole"
}
keep_copy() { # MEMBER, while no daemon runs
    mkdir -p "$dir/old"
    cp --sparse=always "$dir/$1.img" "$dir/old/$1.img"
}

state_is() { # MEMBER JQ-CONDITION: waits for it, 30 s
    local deadline=$((SECONDS + 30))
    look
    until jq -e --arg name "$(basename "$(path_of "$1")")" \
        "[.pools[0].drives[] | select(.name | contains(\$name))][0] | $2" "$dir/status.json" >/dev/null; do
        [ $SECONDS -lt $deadline ] || { cat "$dir/status.json"; fail "member $1 is not $2 after 30 s"; }
        sleep 0.1
        look
    done
}
is_away='.state != "active"'

draw() { local words=("$@"); echo "${words[RANDOM % $#]}"; }
draw_way() { # MEMBER
    local ways=(cut holed)
    if [ "$1" = b ] && [ -n "$loop" ]; then ways=(loop loop); fi
    if [ -e "$dir/old/$1.img" ]; then ways+=(older); fi
    draw "${ways[@]}"
}

scrub_after() { # WAY: what was lost behind the pool's back a scrub repairs, and a second one finds nothing
    if [ "$1" = holed ]; then
        drystone --json pool scrub --wait >"$dir/scrub.json" 2>"$dir/scrub.err" || fail "scrub"
        jq -e '.pools[0].last_scrub | .unrepaired_blocks == 0 and .different_blocks == 0 and .lost_blocks == 0' \
            "$dir/scrub.json" >/dev/null || { cat "$dir/scrub.json"; fail "a scrub did not repair all"; }
    fi
    check_copies
}

one_yank_round() {
    local member way moment began=$SECONDS
    RANDOM=$(((seed + round) % 32768))
    member=$(draw a b c)
    way=$(draw_way "$member")
    moment=$(draw during across down asleep)
    happened[$way]=$((${happened[$way]-0} + 1)) happened[$moment]=$((${happened[$moment]-0} + 1))
    echo "round $round of $rounds: $member is taken away ($way, $moment)"
    start_loads
    sleep "$(hundredths $((20 + RANDOM % 150)))"
    if [ "$moment" = during ] || [ "$moment" = across ]; then
        take_away "$way" "$member"
        if [ $((RANDOM % 2)) = 0 ]; then state_is "$member" "$is_away"; fi
        sleep "$(hundredths $((RANDOM % 150)))"
    fi
    if [ "$moment" = during ]; then
        state_is "$member" "$is_away"
        bring_back "$way" "$member"
        sleep "$(hundredths $((RANDOM % 400)))"
    fi
    kill_daemon
    end_loads
    if [ "$moment" = down ] || [ "$moment" = asleep ]; then take_away "$way" "$member"; fi
    if [ "$moment" = asleep ]; then bring_back "$way" "$member"; fi
    if [ "$moment" = during ] && [ $((RANDOM % 2)) = 0 ]; then keep_copy "$(draw a b c)"; fi
    start_daemon
    wait_until_served
    verify
    if [ "$moment" = across ] || [ "$moment" = down ]; then
        state_is "$member" "$is_away"
        bring_back "$way" "$member"
    fi
    wait_for_rest
    verify
    scrub_after "$way"
    check_books
    echo "    all well after $((SECONDS - began)) s"
}
