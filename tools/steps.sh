# shellcheck shell=bash
# Sourced by the scripts that run named steps: runs them, counts them, prints the last line.
# A step is a command or function; 0 passes, 77 skips (its last line of output says why), anything else fails.
# A step that ends with a line `N passed, N failed, N skipped` adds those numbers instead of one.

PATH=$PATH:/usr/sbin:/sbin
passed=0 failed=0 skipped=0 matched=0 bad_steps=()
steps_dir=$(mktemp -d "${TMPDIR:-/tmp}/drystone-steps.XXXXXX")
steps_log=$steps_dir/log
trap 'rm -rf "$steps_dir"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { # NAME COMMAND [ARG]...; runs only when $filter (a part of the name) matches
    local name=$1 status=0 start=$SECONDS counts
    shift
    [[ $name == *"${filter-}"* ]] || return 0
    matched=$((matched + 1))
    echo "=== $name"
    # Errexit works in the subshell only because nothing here tests its status directly.
    set +e
    (set -e; "$@") </dev/null 2>&1 | tee "$steps_log"
    status=${PIPESTATUS[0]}
    set -e
    counts=$(tail -n 1 "$steps_log" | grep -Ex '[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped' || true)
    settle "$name" "$status" "$counts" $((SECONDS - start))
}

settle() { # NAME STATUS COUNTS SECONDS
    local name=$1 status=$2 numbers=(0 0 0)
    if [ -n "$3" ]; then
        mapfile -t numbers < <(grep -Eo '[0-9]+' <<<"$3")
        if [ "$status" != 0 ] && [ "${numbers[1]}" = 0 ]; then numbers[1]=1; fi
    else
        case $status in
            0) numbers=(1 0 0) ;;
            77) numbers=(0 0 1) ;;
            *) numbers=(0 1 0) ;;
        esac
    fi
    passed=$((passed + numbers[0])) failed=$((failed + numbers[1])) skipped=$((skipped + numbers[2]))
    if [ "${numbers[1]}" != 0 ]; then
        bad_steps+=("FAILED: $name (status $status)")
        echo "--- FAILED $name (status $status, $4 s)"
    elif [ "$status" = 77 ]; then
        bad_steps+=("SKIPPED: $name: $(tail -n 1 "$steps_log")")
        echo "--- SKIPPED $name: $(tail -n 1 "$steps_log")"
    else
        echo "--- ok $name ($4 s)"
    fi
}

summary() { # the last lines; status 1 when something failed, 2 when no step has that name
    if [ "$matched" = 0 ]; then echo "no step matches '${filter-}'" >&2; return 2; fi
    if [ ${#bad_steps[@]} -gt 0 ]; then printf '%s\n' "${bad_steps[@]}"; fi
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}

skip() { echo "$*"; exit 77; }
need() { # COMMAND...: skips the step when one is not installed
    local command
    for command in "$@"; do
        type -P "$command" >/dev/null || skip "$command is not installed (tools/setup)"
    done
}
