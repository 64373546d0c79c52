#!/bin/bash
# setup.sh [test]: makes sure that this machine has what Orrery needs: Go, PostgreSQL's programs, and Valkey's or
# Redis's. As root on Debian and its kin it installs what is missing; anyone else is told what to ask for. Nothing that
# is there is touched, and nothing is started: Orrery runs its own database processes.
# With "test", what the tests want as well (a C compiler for the race detector).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

check_go() {
	local want
	want=$(awk '$1 == "go" {print $2; exit}' go.mod)
	if ! command -v go >/dev/null; then
		die "Go is missing. Orrery is built with Go $want or newer: install it from https://go.dev/dl (unpacked to /usr/local/go it is found by itself), then run this again."
	fi
	# From 1.21 on Go fetches a newer one by itself where go.mod asks for it, unless that is switched off.
	local have
	if ! have=$(go env GOVERSION 2>&1); then
		die "Go $want or newer is needed, and the one at $(command -v go) says: $have"
	fi
	have=${have#go}
	if [ "$(printf '%s\n%s\n' "$want" "${have%%[-+ ]*}" | sort -V | head -n 1)" != "$want" ]; then
		die "Go $want or newer is needed, and $(command -v go) is $have: install a newer one from https://go.dev/dl, then run this again."
	fi
}

have_postgres() {
	compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null
}
have_valkey() { command -v valkey-server >/dev/null || command -v redis-server >/dev/null; }

missing() {
	have_postgres || echo postgresql
	command -v psql >/dev/null || echo postgresql-client
	if ! have_valkey; then
		if apt-cache show valkey-server >/dev/null 2>&1; then echo valkey-server; else echo redis-server; fi
	fi
	if [ "${1:-}" = test ] && ! command -v gcc >/dev/null; then
		echo gcc
		echo libc6-dev
	fi
}

# Debian's packages create and start a database of their own. Orrery wants only the programs, so that is held back,
# for the time of this installation only and never for what was there before.
install() {
	export DEBIAN_FRONTEND=noninteractive
	local policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		trap "rm -f $policy" EXIT
		printf '#!/bin/sh\n# Put here by Orrery for the time of an installation: start nothing.\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	if [[ " $* " == *" postgresql "* ]] && ! dpkg -s postgresql-common >/dev/null 2>&1; then
		apt-get install -y -q --no-install-recommends postgresql-common
		sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
	fi
	apt-get install -y -q --no-install-recommends "$@"
	local name
	for name in valkey-server redis-server; do
		if [[ " $* " == *" $name "* ]] && [ -d /run/systemd/system ]; then
			systemctl disable --quiet $name || say "could not keep $name from starting at boot; it does no harm"
		fi
	done
}

check_go
if ! command -v apt-get >/dev/null; then
	have_postgres || die "PostgreSQL's server programs are missing (postgres, initdb, psql). Install version 14 to 18 with this system's package manager, then run this again."
	have_valkey || say "neither valkey-server nor redis-server is here: the engine valkey will not be on offer."
	exit 0
fi

mapfile -t packages < <(missing "${1:-}")
if [ ${#packages[@]} -eq 0 ]; then
	exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "setup: this machine lacks: ${packages[*]}" >&2
	echo "setup: ask someone who is root here to run this, which starts no service:" >&2
	echo "    sudo $PWD/scripts/setup.sh${1:+ $1}" >&2
	exit 1
fi
apt-get update -q
mapfile -t packages < <(missing "${1:-}") # anew: only now is it known what this distribution has
say "installing ${packages[*]}"
install "${packages[@]}"
