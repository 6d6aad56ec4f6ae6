# What the scripts share; sourced by each of them after `set -euo pipefail`.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

target_dir="$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")"
cache_dir="$target_dir/clients"
clients_dir="$PWD/tests/clients"

say() {
    printf '== %s\n' "$*"
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# need_command COMMAND PACKAGE...: the command is there afterwards, by apt-get if it was not.
need_command() {
    local command="$1"
    shift
    if ! command -v "$command" >/dev/null; then
        install_packages "$@"
        command -v "$command" >/dev/null || die "$command is still missing after installing $*"
    fi
}

install_packages() {
    command -v apt-get >/dev/null || die "install by hand, there is no apt-get here: $*"
    local as_root=()
    if [[ "$(id --user)" != 0 ]]; then
        command -v sudo >/dev/null || die "install by hand, this needs root or sudo: $*"
        as_root=(sudo)
    fi
    say "installing Debian packages: $*"
    local log="$cache_dir/apt.log"
    mkdir --parents "$cache_dir"
    {
        "${as_root[@]}" apt-get update &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
    } >"$log" 2>&1 </dev/null || {
        tail --lines=20 "$log" >&2
        die "apt-get could not install $*"
    }
}

# python_environment NAME REQUIREMENTS: a virtual environment with exactly these; prints nothing when it is there.
# Its interpreter is $cache_dir/NAME/bin/python.
python_environment() {
    local folder="$cache_dir/$1" requirements="$2"
    if cmp --silent "$requirements" "$folder/requirements.txt"; then
        return
    fi
    need_command python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
    say "installing Python packages into $folder"
    rm --recursive --force "$folder"
    python3 -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
    # Copied last: an installation that broke off is begun again.
    cp "$requirements" "$folder/requirements.txt"
}

# nats_server: the NATS server that the tests start, in $cache_dir/nats/bin, where they look for it.
nats_server() {
    python_environment nats tests/backplane/requirements.txt
}

# node_packages: what package-lock.json says, in $cache_dir/node_modules.
node_packages() {
    if cmp --silent "$clients_dir/package-lock.json" "$cache_dir/node_modules/installed-package-lock.json"; then
        return
    fi
    need_command node nodejs
    need_command npm npm
    say "installing npm packages into $cache_dir/node_modules"
    mkdir --parents "$cache_dir"
    cp "$clients_dir"/{package.json,package-lock.json,.npmrc} "$cache_dir"
    (cd "$cache_dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
    cp "$clients_dir/package-lock.json" "$cache_dir/node_modules/installed-package-lock.json"
}

# release_build: the program under test is built; PUSHRING_BIN, where it is set, is taken as it is.
release_build() {
    if [[ -z "${PUSHRING_BIN:-}" ]]; then
        say "building the release program"
        cargo build --release --locked --bin pushring
        export PUSHRING_BIN="$target_dir/release/pushring"
    fi
    [[ -x "$PUSHRING_BIN" ]] || die "there is no program at $PUSHRING_BIN"
}

# Memory that can be had without swapping.
available_mib() { awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo; }
