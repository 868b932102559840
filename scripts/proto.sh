#!/bin/sh
# Generates the Python stubs of the wire contract: scripts/proto.sh [OUT], by default beside the .proto files.
# Uses the grpcio-tools of ${PYTHON:-python}, pinned in pyproject.toml.
set -eu
cd "$(dirname "$0")/.."
out=${1:-proto}
exec "${PYTHON:-python}" -m grpc_tools.protoc --proto_path=proto \
  --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" proto/turbospec/v1/*.proto
