# What the measuring scripts share: build, start the server, run the load generator, save what it found.
# Sourced by measure-*; not run by itself.

set -o errexit -o nounset -o pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
work=$(mktemp --directory)
server_pid=
save=
agrees=true
trap stop_measuring EXIT

stop_measuring() {
    stop_server
    rm --recursive --force "$work"
}

# Reads the options that all measuring scripts have.
read_options() {
    for option in "$@"; do
        case $option in
            --save) save=yes ;;
            *) echo "usage: $(basename "$0") [--save]    --save writes bench/results/" >&2; exit 2 ;;
        esac
    done
}

build() {
    cargo build --release --quiet --manifest-path "$root/Cargo.toml" --package pushring --package pushring-bench
}

# start_server THREADS [ARGUMENT…]: an empty server on a port of its own; sets server_pid and server_address.
start_server() {
    local threads=$1
    shift
    stop_server
    "$target/release/pushring" serve --listen 127.0.0.1:0 --threads "$threads" "$@" 2>"$work/server.log" &
    server_pid=$!
    server_address=
    for _ in $(seq 100); do
        # Colours of the log, if any, are not part of the address.
        server_address=$(sed 's/\x1b\[[0-9;]*m//g' "$work/server.log" | grep --max-count=1 listening |
            grep --only-matching --extended-regexp '[0-9]+(\.[0-9]+){3}:[0-9]+' | head --lines=1 || true)
        [[ -n $server_address ]] && return
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "the server did not start:" >&2
    cat "$work/server.log" >&2
    exit 2
}

stop_server() {
    [[ -n $server_pid ]] || return 0
    # Nobody waits for its clients here, so the server need not say goodbye to them.
    kill -KILL "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}

# bench NAME ARGUMENT…: one run against the started server; its report goes to the terminal and into the results.
bench() {
    local name=$1
    shift
    echo "== $name"
    "$target/release/pushring-bench" "$@" --target "$server_address" --server-pid "$server_pid" \
        --metrics-url "http://$server_address/metrics" --json "$work/$name.json" | tee "$work/$name.txt" || agrees=false
    runs+=("$name")
}

runs=()

# finish NAME: saves all runs as bench/results/NAME.{json,md} if asked to, and fails if a count or a limit did not agree.
finish() {
    if [[ -n $save ]]; then
        mkdir --parents "$root/bench/results"
        save_json >"$root/bench/results/$1.json"
        save_markdown "$1" >"$root/bench/results/$1.md"
        echo "saved bench/results/$1.json and .md"
    fi
    $agrees || { echo "$1: not met, see the lines with BAD" >&2; exit 1; }
}

commit() {
    local changed=
    [[ -z $(git -C "$root" status --porcelain -- src bench/src Cargo.toml Cargo.lock) ]] || changed=" with changes"
    echo "$(git -C "$root" rev-parse --short=12 HEAD)$changed"
}

cpu() { sed --quiet 's/^model name\s*: //p' /proc/cpuinfo | head --lines=1; }
memory_gib() { awk '/^MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo; }

save_json() {
    printf '{\n"date": "%s",\n"commit": "%s",\n"kernel": "%s",\n"cpu": "%s",\n"cores": %s,\n"memory_gib": %s,\n' \
        "$(date --utc --iso-8601)" "$(commit)" "$(uname --kernel-release)" "$(cpu)" "$(nproc)" "$(memory_gib)"
    printf '"descriptors_per_table": %s,\n"runs": {' "$(ulimit -H -n)"
    local separator=
    for name in "${runs[@]}"; do
        printf '%s\n"%s": ' "$separator" "$name"
        cat "$work/$name.json"
        separator=,
    done
    printf '}\n}\n'
}

save_markdown() {
    printf '# %s\n\n' "$1"
    printf 'Made by `scripts/measure-%s --save` on %s at commit %s.\n\n' "$1" "$(date --utc --iso-8601)" "$(commit)"
    printf '%s cores of %s, %s GiB, Linux %s, %s descriptors per table; server and clients on the same host.\n' \
        "$(nproc)" "$(cpu)" "$(memory_gib)" "$(uname --kernel-release)" "$(ulimit -H -n)"
    for name in "${runs[@]}"; do
        printf '\n## %s\n\n```text\n' "$name"
        cat "$work/$name.txt"
        printf '```\n'
    done
}
