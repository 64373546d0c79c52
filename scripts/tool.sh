#!/bin/sh
# tool.sh <file> <package> <version>: builds a pinned tool into <file>. A half-built one never lies under its name.
set -eu
file=$1 package=$2 version=$3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
GOBIN="$dir" GOFLAGS= go install "$package@$version"
mkdir -p "$(dirname "$file")"
mv "$dir/${package##*/}" "$file"
