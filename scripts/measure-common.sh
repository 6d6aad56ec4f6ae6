# What the measuring scripts share: start the server, run the load generator, save what it found; sourced by each of
# them after `set -euo pipefail`.
# shellcheck shell=bash

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

work_dir="$(mktemp --directory)"
server_pid=
save=
invocation="scripts/$(basename "$0")${*:+ $*}"
agrees=true
runs=()
trap stop_measuring EXIT

stop_measuring() {
    stop_server
    rm --recursive --force "$work_dir"
}

# read_options OPTION...: the options that all measuring scripts have.
read_options() {
    for option in "$@"; do
        case "$option" in
        --save) save=yes ;;
        *) die "usage: scripts/$(basename "$0") [--save]    --save writes bench/results/" ;;
        esac
    done
}

# build: both programs are built; PUSHRING_BIN and PUSHRING_BENCH_BIN, where they are set, are taken as they are.
build() {
    release_build
    if [[ -z "${PUSHRING_BENCH_BIN:-}" ]]; then
        say "building the load generator"
        cargo build --release --locked --package pushring-bench
        export PUSHRING_BENCH_BIN="$target_dir/release/pushring-bench"
    fi
    [[ -x "$PUSHRING_BENCH_BIN" ]] || die "there is no program at $PUSHRING_BENCH_BIN"
}

# start_server THREADS [ARGUMENT...]: an empty server on a port of its own, on loopback unless server_listen says
# otherwise; sets server_pid and server_address.
start_server() {
    local threads=$1
    shift
    stop_server
    # PUSHRING_* are the server's settings, and it refuses those that it doesn't know.
    env --unset=PUSHRING_BIN --unset=PUSHRING_BENCH_BIN \
        "$PUSHRING_BIN" serve --listen "${server_listen:-127.0.0.1:0}" --threads "$threads" "$@" 2>"$work_dir/server.log" &
    server_pid=$!
    server_address=
    for _ in $(seq 100); do
        # Colours of the log, if any, are not part of the address.
        server_address=$(sed 's/\x1b\[[0-9;]*m//g' "$work_dir/server.log" | grep --max-count=1 listening |
            grep --only-matching --extended-regexp '[0-9]+(\.[0-9]+){3}:[0-9]+' | head --lines=1 || true)
        [[ -n $server_address ]] && return
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work_dir/server.log" >&2
    die "the server did not start"
}

stop_server() {
    [[ -n $server_pid ]] || return 0
    # Nobody waits for its clients here, so the server need not say goodbye to them.
    kill -KILL "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}

# bench NAME ARGUMENT...: one run against the started server; its report goes to the terminal and into the results.
bench() {
    local name=$1
    shift
    say "$name"
    bench_command "$name" "$@"
    "${command[@]}" | tee "$work_dir/$name.txt" || agrees=false
    runs+=("$name")
}

# bench_command NAME ARGUMENT...: sets command to that run, for those who don't wait for it.
bench_command() {
    local name=$1
    shift
    command=("$PUSHRING_BENCH_BIN" "$@" --target "$server_address" --server-pid "$server_pid"
        --metrics-url "http://$server_address/metrics" --json "$work_dir/$name.json")
}

# threads_for CONNECTIONS: server threads whose descriptor tables hold them, at least one for each core. An eighth of a
# table is left free, since the kernel spreads connections over the listeners by a hash.
threads_for() {
    local limit threads
    limit=$(ulimit -H -n)
    [[ $limit != unlimited ]] || limit=$(cat /proc/sys/fs/nr_open)
    threads=$(($1 / (limit * 7 / 8) + 1))
    echo $((threads > $(nproc) ? threads : $(nproc)))
}

# finish NAME: saves all runs as bench/results/NAME.{json,md} if asked to, with work_dir/summary.{json,md} where a
# script has made them, and fails if a count or limit did not agree.
finish() {
    if [[ -n $save ]]; then
        mkdir --parents bench/results
        save_json >"bench/results/$1.json"
        save_markdown "$1" >"bench/results/$1.md"
        say "saved bench/results/$1.json and .md"
    fi
    $agrees || die "not met, see the lines with BAD or MISSED"
}

commit() {
    local changed=
    [[ -z $(git status --porcelain -- src bench/src bench/micro Cargo.toml Cargo.lock) ]] || changed=" with changes"
    echo "$(git rev-parse --short=12 HEAD)$changed"
}

cpu() { sed --quiet 's/^model name\s*: //p' /proc/cpuinfo | head --lines=1; }
# The version; what a builder appends to it says nothing here.
kernel() { uname --kernel-release | sed 's/-.*//'; }
memory_gib() { awk '/^MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo; }

save_json() {
    printf '{\n"date": "%s",\n"commit": "%s",\n"kernel": "%s",\n"cpu": "%s",\n"cores": %s,\n"memory_gib": %s,\n' \
        "$(date --utc --iso-8601)" "$(commit)" "$(kernel)" "$(cpu)" "$(nproc)" "$(memory_gib)"
    printf '"descriptors_per_table": %s,\n' "$(ulimit -H -n)"
    [[ ! -e $work_dir/summary.json ]] || printf '"summary": %s,\n' "$(cat "$work_dir/summary.json")"
    printf '"runs": {'
    local separator=
    for name in "${runs[@]}"; do
        printf '%s\n"%s": ' "$separator" "$name"
        cat "$work_dir/$name.json"
        separator=,
    done
    printf '}\n}\n'
}

save_markdown() {
    printf '# %s\n\n' "$1"
    printf 'Made by `%s` on %s at commit %s.\n\n' "$invocation" "$(date --utc --iso-8601)" "$(commit)"
    printf '%s cores of %s, %s GiB, Linux %s, %s descriptors per table; server and clients on the same host.\n' \
        "$(nproc)" "$(cpu)" "$(memory_gib)" "$(kernel)" "$(ulimit -H -n)"
    [[ ! -e $work_dir/summary.md ]] || printf '\n%s\n' "$(cat "$work_dir/summary.md")"
    for name in "${runs[@]}"; do
        printf '\n## %s\n\n```text\n' "$name"
        cat "$work_dir/$name.txt"
        printf '```\n'
    done
}
