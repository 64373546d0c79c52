#!/bin/bash
# setup.sh [test]: makes sure that this machine has what Orrery needs: Go, PostgreSQL's programs, and Valkey's or
# Redis's. As root on Debian and its kin it installs what is missing; anyone else is told what to ask for. Nothing that
# is there is touched, and nothing is started: Orrery runs its own database processes.
# With "test", what the tests want as well (a C compiler for the race detector).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

# sudo forgets the PATH of who called it.
export PATH="$PATH:/usr/local/go/bin"

at_exit=()
trap 'for c in "${at_exit[@]}"; do $c; done' EXIT

# From 1.21 on, Go fetches by itself the version that go.mod asks for, unless that is switched off.
go_wanted=$(awk '$1 == "go" {print $2; exit}' go.mod)
have_go() {
	local have
	command -v go >/dev/null && have=$(go env GOVERSION) && have=${have#go} &&
		[ "$(printf '%s\n%s\n' "$go_wanted" "${have%%[-+ ]*}" | sort -V | head -n 1)" = "$go_wanted" ]
}

# The distribution's Go will do if it can fetch a newer one. Debian 12 has such a one among its backports: they are
# made known for this installation only.
install_go() {
	local newest list
	newest=$(apt-cache madison golang-go | awk '{sub(/^[0-9]+:/, "", $3); print $3}' | sort -V | tail -n 1)
	if [ "$(printf '%s\n1.21\n' "$newest" | sort -V | head -n 1)" = 1.21 ]; then
		apt-get install -y -q --no-install-recommends golang-go
		return
	fi
	. /etc/os-release
	[ "${ID:-}" = debian ] || return 0
	list=/etc/apt/sources.list.d/orrery-setup.list
	at_exit+=("rm -f $list")
	echo "deb $(apt-get indextargets --format '$(REPO_URI)' "Codename: $VERSION_CODENAME" 'Created-By: Packages' |
		head -n 1) $VERSION_CODENAME-backports main" >$list
	apt-get update -q
	apt-get install -y -q --no-install-recommends -t "$VERSION_CODENAME-backports" golang-go || true
	rm -f "$list"
	apt-get update -q # nothing else is to come from there
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
have_postgres() {
	compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null
}
have_valkey() { command -v valkey-server >/dev/null || command -v redis-server >/dev/null; }

missing() {
	have_go 2>/dev/null || echo golang-go
	have_postgres || echo postgresql
	command -v psql >/dev/null || echo postgresql-client
	if ! have_valkey; then
		if apt-cache policy valkey-server | grep -q 'Candidate: [0-9]'; then echo valkey-server; else echo redis-server; fi
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
		at_exit+=("rm -f $policy")
		printf '#!/bin/sh\n# Put here by Orrery for the time of an installation: start nothing.\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	if [[ " $* " == *" postgresql "* ]] && ! installed postgresql-common; then
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

need_go="Orrery is built with Go $go_wanted or newer: install it from https://go.dev/dl (unpacked to /usr/local/go it is found by itself), then run this again."
if ! command -v apt-get >/dev/null; then
	have_go || die "$need_go"
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
	if [[ " ${packages[*]} " == *" golang-go "* ]]; then
		echo "setup: $need_go" >&2
	fi
	echo "setup: or ask someone who is root here to run this, which installs all of it and starts no service:" >&2
	echo "    sudo $PWD/scripts/setup.sh${1:+ $1}" >&2
	exit 1
fi
apt-get update -q
mapfile -t packages < <(missing "${1:-}") # anew: only now is it known what this distribution has
say "installing ${packages[*]}"
case " ${packages[*]} " in *" golang-go "*)
	old=$(command -v go || true)
	if [ -n "$old" ] && [ "$old" != /usr/bin/go ]; then
		die "the Go at $old is too old. $need_go"
	fi
	install_go
	hash -r
	have_go || die "This distribution has no Go that is new enough. $need_go"
	;;
esac
mapfile -t packages < <(missing "${1:-}")
if [ ${#packages[@]} -gt 0 ]; then
	install "${packages[@]}"
fi
