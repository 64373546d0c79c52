#!/bin/sh
# generate.sh <protoc-gen-go> <protoc-gen-go-grpc>: makes the code of the session protocol anew, and session.sum, by
# which check.sh tells without protoc whether it is current.
set -eu
cd "$(dirname "$0")/../internal/session/sessionpb"
if ! command -v protoc >/dev/null; then
	echo "protoc is missing; on Debian: apt-get install protobuf-compiler" >&2
	exit 1
fi
protoc --plugin=protoc-gen-go="$1" --plugin=protoc-gen-go-grpc="$2" \
	--go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative session.proto
sha256sum session.proto session.pb.go session_grpc.pb.go >session.sum
