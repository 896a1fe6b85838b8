#!/usr/bin/env bash
# The passwords of the stack, made at random on the first start, or taken from files that were given; never shown.
# They lie in a volume, one file each, and each is readable by the one group whose service needs it.
set -euo pipefail
umask 077

GIVEN=${GIVEN:-/given}
SECRETS=${SECRETS:-/run/weir-secrets}
REDIS_GROUP=10011 GRAFANA_GROUP=10013 ALERTS_GROUP=10014 TLS_GROUP=10015

fail() {
  echo "secrets: $*" >&2
  exit 1
}

random() { python -c 'import secrets; print(secrets.token_urlsafe(32))'; }

# put NAME GROUP, its content on standard input: whole or not at all.
put() {
  cat >"$SECRETS/.$1"
  chgrp "$2" "$SECRETS/.$1"
  chmod 0440 "$SECRETS/.$1"
  mv -f "$SECRETS/.$1" "$SECRETS/$1"
}

given() { [ -e "$GIVEN/$1" ] || [ -L "$GIVEN/$1" ]; }

take() {
  [ -r "$GIVEN/$1" ] || fail "$1 was given, but user $(id -u) of the container may not read it"
  [ -s "$GIVEN/$1" ] || fail "$1 was given, but it is empty"
  put "$1" "$2" <"$GIVEN/$1"
  echo "secrets: $1 as given"
}

password() { # NAME GROUP
  if given "$1"; then
    [[ $(<"$GIVEN/$1") =~ ^[A-Za-z0-9._~-]+$ ]] || fail "$1: expected letters, digits and ._~- alone, on one line"
    take "$1" "$2"
  elif [ -s "$SECRETS/$1" ]; then
    echo "secrets: $1 is there already"
  else
    random | put "$1" "$2"
    echo "secrets: $1 made at random"
  fi
}

# Redis reads its password from a line of its configuration: not from its arguments, which everyone may list.
redis_line() { printf 'requirepass %s\n' "$(<"$SECRETS/redis-password")" | put redis.conf "$REDIS_GROUP"; }

if_given() { # NAME GROUP
  if given "$1"; then
    take "$1" "$2"
  fi
}

# As given, or a certificate that this stack signs itself: for a try, on this machine.
certificate() {
  if given tls.crt || given tls.key; then
    take tls.crt "$TLS_GROUP"
    take tls.key "$TLS_GROUP"
  elif [ ! -s "$SECRETS/tls.key" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 -subj /CN=localhost \
      -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$SECRETS/.key" -out "$SECRETS/.crt" 2>/dev/null
    put tls.crt "$TLS_GROUP" <"$SECRETS/.crt"
    put tls.key "$TLS_GROUP" <"$SECRETS/.key"
    rm "$SECRETS/.key" "$SECRETS/.crt"
    echo "secrets: a certificate for localhost, signed by itself"
  fi
}

[ -w "$SECRETS" ] || fail "$SECRETS cannot be written by user $(id -u)"
password redis-password "$REDIS_GROUP"
redis_line
password grafana-password "$GRAFANA_GROUP"
if_given alert-webhook-url "$ALERTS_GROUP"
certificate
