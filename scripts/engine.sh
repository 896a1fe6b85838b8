#!/usr/bin/env bash
# A container engine with Compose v2, for a machine that has none: Debian 12 or newer, without systemd, as root.
#   scripts/engine.sh start    does nothing where an engine answers already
#   scripts/engine.sh stop     stops the engine that `start` started, and no other
# Its data lies under $WEIR_ENGINE_ROOT (/var/lib/weir-engine).
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

ROOT=${WEIR_ENGINE_ROOT:-/var/lib/weir-engine}
COMPOSE_RELEASE=trixie # the first Debian with Compose v2; its packages are static binaries, which run on 12 as well

fail() {
  echo "engine.sh: $*" >&2
  exit 1
}

answers() { docker info >/dev/null 2>&1; }

can_compose() { docker compose version >/dev/null 2>&1; }

require_debian() {
  command -v apt-get >/dev/null || fail "no engine answers, and without apt-get none can be installed: install Docker"
  [ "$(id -u)" = 0 ] || fail "no engine answers, and only root can start one"
}

debian_mirror() {
  awk '$1 == "URIs:" { print $2; exit }
       $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^http/) { print $i; exit } }' \
    /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true
}

install_engine() {
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends docker.io iptables >/dev/null
}

# From a newer release, with apt state of its own: nothing else of this machine is touched.
install_compose() {
  local state apt
  state=$(mktemp -d)
  chmod 755 "$state"
  mkdir -p "$state"/{lists,cache/archives}/partial
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $COMPOSE_RELEASE main" \
    >"$state/sources"
  apt=(apt-get -qq -o "Dir::Etc::sourcelist=$state/sources" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$state/lists" -o "Dir::Cache=$state/cache" -o APT::Sandbox::User=root)
  "${apt[@]}" update
  (cd "$state" && "${apt[@]}" download docker-compose docker-buildx)
  apt-get install -y -qq "$state"/docker-compose_*.deb "$state"/docker-buildx_*.deb >/dev/null
  rm -rf "$state"
}

# A machine that was switched off leaves process ids behind, which may be those of others by now.
forget_dead() {
  local file
  for file in "$ROOT/pid" "$ROOT/exec/containerd/containerd.pid"; do
    [ -e "$file" ] || continue
    grep -qE '^(dockerd|containerd)$' "/proc/$(<"$file")/comm" 2>/dev/null || rm -f "$file"
  done
}

launch() {
  mkdir -p "$ROOT"
  forget_dead
  setsid dockerd --data-root "$ROOT/data" --exec-root "$ROOT/exec" --pidfile "$ROOT/pid" \
    >"$ROOT/log" 2>&1 </dev/null &
  for _ in $(seq 120); do
    answers && return
    sleep 0.5
  done
  tail -n 20 "$ROOT/log" >&2
  fail "the engine did not answer within a minute; its log is $ROOT/log"
}

start() {
  if ! answers; then
    require_debian
    command -v dockerd >/dev/null || install_engine
    launch
  fi
  if ! can_compose; then
    require_debian
    install_compose
  fi
  docker info --format 'engine {{.ServerVersion}}, storage {{.Driver}}'
  docker compose version
}

stop() {
  [ -e "$ROOT/pid" ] || fail "no engine of this script runs"
  kill "$(cat "$ROOT/pid")"
  for _ in $(seq 60); do
    [ -e "$ROOT/pid" ] || return 0
    sleep 0.5
  done
  fail "the engine did not stop within half a minute; its log is $ROOT/log"
}

case "${1:-start}" in
start) start ;;
stop) stop ;;
*) fail "usage: engine.sh start|stop" ;;
esac
