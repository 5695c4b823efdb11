#!/usr/bin/env bash
# Builds the Collector and the Jaeger that the tests run against: build.sh FOLDER. Needs Go.
# Each binary is rebuilt only when its pins (builder.yaml, jaeger/go.mod and go.sum) have changed.
set -euo pipefail
pins=$(cd "$(dirname "$0")" && pwd)
into=${1:?usage: build.sh FOLDER}
builder=go.opentelemetry.io/collector/cmd/builder@v0.159.0

command -v go >/dev/null || {
  echo "Building the Collector and Jaeger needs Go 1.26 or newer (https://go.dev/dl); without it, docker-compose.yml has both." >&2
  exit 1
}
mkdir -p "$into"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CGO_ENABLED=0

# build NAME PINS... : calls make_NAME, which leaves $work/NAME, unless these pins were built before
build() {
  local name=$1 wanted
  shift
  wanted=$(cat "$0" "$@" | sha256sum)
  if [ -x "$into/$name" ] && [ "$(cat "$into/$name.pins" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  echo "building $name: some minutes, and a few hundred MB of Go modules, once"
  "make_$name"
  mv "$work/$name" "$into/$name"
  echo "$wanted" >"$into/$name.pins"
}

make_otelcol() {
  GOBIN=$work go install "$builder"
  (cd "$work" && ./builder --config "$pins/builder.yaml" 2>log) || { cat "$work/log" >&2; return 1; }
  mv "$work/sources/otelcol" "$work/otelcol"
}

make_jaeger() {
  mkdir "$work/jaeger-pins"
  cp "$pins/jaeger/go.mod" "$pins/jaeger/go.sum" "$work/jaeger-pins"
  (cd "$work/jaeger-pins" && go build -o "$work/jaeger" github.com/jaegertracing/jaeger/cmd/jaeger)
}

build otelcol "$pins/builder.yaml"
build jaeger "$pins/jaeger/go.mod" "$pins/jaeger/go.sum"
echo "the Collector and Jaeger are in $into"
