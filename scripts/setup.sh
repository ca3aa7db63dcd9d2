#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Make this checkout ready to use: system packages, virtual environment, guest image. `make setup` runs it.
# Idempotent: what is there is left alone, and a run with nothing to do is silent and takes about a second.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
log=.stamps/setup.log
mkdir -p .stamps

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

# Debian keeps PostgreSQL's server below its version and out of PATH.
postgres=$(compgen -G '/usr/lib/postgresql/*/bin/postgres' | tail -n 1 || true)

# Program (or file) -> Debian package. crun, umoci, catatonit, the databases and containerd with its network
# plugins are for tests on this machine; the guest brings its own crun and catatonit.
programs=(
    qemu-system-x86_64:qemu-system-x86
    docker-registry:docker-registry
    skopeo:skopeo
    umoci:umoci
    crun:crun
    dpkg-deb:dpkg
    catatonit:catatonit
    containerd:containerd
    runc:runc
    ip:iproute2
    iptables:iptables
    nsenter:util-linux
    mariadbd:mariadb-server
    mariadb:mariadb-client
    faketime:faketime
    "${postgres:-postgres}:postgresql"
    /usr/lib/cni/bridge:containernetworking-plugins
)

quietly() { # run a command, showing its output only if it fails
    "$@" >"$log" 2>&1 || { tail -n 25 "$log" >&2; die "failed: $* (whole output: $log)"; }
}

# Packages with a service start it when they are installed. Nobody asked for that here, so Debian's own switch
# forbids it meanwhile; an administrator's is left as it is.
policy=/usr/sbin/policy-rc.d

install_packages() {
    command -v apt-get >/dev/null || die "please install what provides these Debian packages: $*"
    root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "please run as root: apt-get install $*"
        root=(sudo)
    fi
    say "installing $*"
    quietly "${root[@]}" apt-get update
    if [ ! -e "$policy" ]; then
        allow_services() { "${root[@]}" rm -f "$policy"; }
        trap allow_services EXIT
        printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
        "${root[@]}" chmod 0755 "$policy"
    fi
    quietly "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "$@"
    [ -z "$(trap -p EXIT)" ] || { allow_services; trap - EXIT; }
}

have() { # whether root would find a program
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null
}

# A small Debian has no Python; its own is new enough from Debian 12 on.
have "$python" || [ "$python" != python3 ] || install_packages python3 python3-venv
command -v "$python" >/dev/null || die "$python is not installed; sealpod needs Python 3.11 or newer"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "sealpod needs Python 3.11 or newer, $python is $version; name another one with PYTHON=..."

missing=()
for entry in "${programs[@]}"; do
    have "${entry%%:*}" || missing+=("${entry#*:}")
done
# Debian's Python leaves out what `python3 -m venv` needs.
"$python" -c 'import ensurepip' 2>/dev/null || missing+=("python$version-venv")
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"

.venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    say "creating the virtual environment"
    rm -rf .venv .stamps/venv
    quietly "$python" -m venv .venv
}

key=$(cat pyproject.toml requirements/dev.txt scripts/setup.sh .venv/pyvenv.cfg | sha256sum)
if [ "$(cat .stamps/venv 2>/dev/null)" != "$key" ] || [ ! -x .venv/bin/sealpod ]; then
    say "installing Python packages"
    rm -f .stamps/venv
    pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet)
    quietly "${pip[@]}" --require-hashes --only-binary :all: --requirement requirements/dev.txt
    quietly "${pip[@]}" --no-deps --no-build-isolation --editable .
    echo "$key" >.stamps/venv
fi

# Commands start faster from byte code, and not every environment lets them write it.
quietly .venv/bin/python -m compileall -q src/sealpod

# Progress is on standard error, and there is none when the image is up to date.
.venv/bin/sealpod guest build >/dev/null
