#!/usr/bin/env bash
# Stand-ins for the official images, for a machine that reaches no image registry: built from Debian's packages, under
# the tags that the Dockerfile and docker-compose.yml pin. Only what cannot be pulled is made; nothing that is there is
# touched. There is none for Grafana, which Debian does not carry.
#
# A stand-in shares the tag, the user's number, the volume and the command line with the official image, no more. It
# carries this machine's certificates and pip settings: never publish one. About a minute; needs a running engine.
#   scripts/stand-in-images.sh            make what is missing
#   scripts/stand-in-images.sh remove     remove every stand-in, and what was built on one
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive DOCKER_BUILDKIT=1

LABEL=weir.stand-in
BASE=weir-stand-in/debian:bookworm
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

fail() {
  echo "stand-in-images.sh: $*" >&2
  exit 1
}

present() { docker image inspect "$1" >/dev/null 2>&1; }

pulled() { timeout 300 docker pull -q "$1" >/dev/null 2>&1; }

debian_mirror() {
  awk '$1 == "URIs:" { print $2; exit }
       $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^http/) { print $i; exit } }' \
    /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true
}

# The tag that docker-compose.yml pins for an image of this name.
pinned() {
  local found
  found=$(sed -n "s/^ *image: *\(${1//\//\\/}:[^ ]*\).*/\1/p" docker-compose.yml | sort -u)
  [ -n "$found" ] || fail "docker-compose.yml pins no image $1"
  echo "$found"
}

make_base() {
  present "$BASE" && return
  [ "$(id -u)" = 0 ] || fail "only root can make a Debian to build stand-ins from"
  if ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
  fi
  debootstrap --variant=minbase --include=ca-certificates bookworm "$WORK/debian" "$(debian_mirror)" >"$WORK/log" ||
    { tail -n 20 "$WORK/log" >&2; fail "debootstrap failed"; }
  rm -rf "$WORK"/debian/var/cache/apt/archives/*.deb "$WORK"/debian/usr/share/{doc,man,locale,info}/*
  # The next release too: its Prometheus and Alertmanager are current enough to be what is pinned.
  echo "deb $(debian_mirror) trixie main" >"$WORK/debian/etc/apt/sources.list.d/trixie.list"
  printf 'Package: *\nPin: release n=trixie\nPin-Priority: 100\n' >"$WORK/debian/etc/apt/preferences.d/trixie"
  tar -C "$WORK/debian" -c . | docker import -c "LABEL $LABEL=yes" -c 'ENV LANG=C.UTF-8' - "$BASE-bare" >/dev/null
  rm -rf "$WORK/debian"
  # The lists of packages stay in it: five images are made from them.
  docker build --network host -q -t "$BASE" - >/dev/null <<D
FROM $BASE-bare
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends wget >/dev/null
D
}

# stand_in TAG, with a Dockerfile on standard input and its context in $WORK/context.
stand_in() {
  local tag=$1
  mkdir -p "$WORK/context"
  cat >"$WORK/context/Dockerfile"
  if present "$tag"; then
    return
  fi
  if pulled "$tag"; then
    echo "$tag: pulled"
    return
  fi
  make_base
  docker build --network host -q --build-arg "BASE=$BASE" -t "$tag" "$WORK/context" >/dev/null
  echo "$tag: a stand-in, as it cannot be pulled here"
}

# What pip needs to find packages where this machine finds them.
copy_pip_settings() {
  local dir
  mkdir -p "$WORK/context/wheels"
  cp /etc/ssl/certs/ca-certificates.crt "$WORK/context/"
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\nfind-links = /usr/local/share/wheels\ntimeout = 180\n' \
    >"$WORK/context/pip.conf"
  for dir in $(python3 -m pip config list 2>/dev/null | sed -n "s/.*find-links='\(.*\)'/\1/p" | sort -u); do
    cp "$dir"/*.whl "$WORK/context/wheels/" 2>/dev/null || true
  done
}

make_python() {
  copy_pip_settings
  stand_in python:3.11-slim <<'D'
ARG BASE
FROM $BASE
RUN apt-get install -y -qq --no-install-recommends python3.11 python3.11-venv >/dev/null \
 && ln -s /usr/bin/python3.11 /usr/local/bin/python && ln -s /usr/bin/python3.11 /usr/local/bin/python3
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY pip.conf /etc/pip.conf
COPY wheels /usr/local/share/wheels
CMD ["python3"]
D
  rm -rf "$WORK/context"
}

make_redis() {
  stand_in "$(pinned redis)" <<'D'
ARG BASE
FROM $BASE
RUN groupadd -g 1000 redis && useradd -u 999 -g 1000 -M redis \
 && apt-get install -y -qq --no-install-recommends redis-server >/dev/null \
 && mkdir -p /data && chown 999:1000 /data
VOLUME /data
WORKDIR /data
CMD ["redis-server"]
D
}

# Static programs out of the next release's packages, which would bring half a desktop with them: both in one layer.
monitoring() { # TAG FOLDER ENTRYPOINT CMD
  stand_in "$1" <<D
ARG BASE
FROM \$BASE
RUN cd /tmp && apt-get download -qq prometheus/trixie prometheus-alertmanager/trixie \
 && for package in *.deb; do dpkg -x "\$package" /; done && rm ./*.deb
RUN mkdir -p $2 /etc/prometheus /etc/alertmanager && chown 65534:65534 $2
VOLUME $2
WORKDIR $2
USER 65534
ENTRYPOINT ["$3"]
CMD $4
D
}

make_prometheus() {
  monitoring "$(pinned prom/prometheus)" /prometheus /usr/bin/prometheus \
    '["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
}

make_alertmanager() {
  monitoring "$(pinned prom/alertmanager)" /alertmanager /usr/bin/prometheus-alertmanager \
    '["--config.file=/etc/alertmanager/alertmanager.yml", "--storage.path=/alertmanager"]'
}

make_nginx() {
  stand_in "$(pinned nginx)" <<'D'
ARG BASE
FROM $BASE
RUN groupadd -g 101 nginx && useradd -u 101 -g 101 -M nginx \
 && apt-get install -y -qq --no-install-recommends nginx-light >/dev/null
CMD ["nginx", "-g", "daemon off;"]
D
}

make_missing() {
  docker info >/dev/null 2>&1 || fail "no engine answers: scripts/engine.sh start"
  make_python
  make_redis
  make_prometheus
  make_alertmanager
  make_nginx
  docker images --filter "label=$LABEL" --filter dangling=false --format '{{.Repository}}:{{.Tag}} {{.Size}}'
}

remove() {
  docker images -q --filter "label=$LABEL" | sort -u | xargs -r docker rmi -f >/dev/null
}

case "${1:-make}" in
make) make_missing ;;
remove) remove ;;
*) fail "usage: stand-in-images.sh [remove]" ;;
esac
