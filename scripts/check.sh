#!/bin/sh
# check.sh: what can be said of the sources without running them.
set -eu
cd "$(dirname "$0")/.."

unformatted=$(git ls-files -z '*.go' | xargs -0 gofmt -l)
if [ -n "$unformatted" ]; then
	echo "these files are not formatted; run gofmt -w on them:" >&2
	echo "$unformatted" >&2
	exit 1
fi

if ! (cd internal/session/sessionpb && sha256sum --quiet --check session.sum); then
	echo "generated code is not current with session.proto; run: make generate" >&2
	exit 1
fi

go vet ./...
echo "checked: gofmt, generated code, vet"
