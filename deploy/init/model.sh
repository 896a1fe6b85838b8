#!/usr/bin/env bash
# Before the first start: a first model, and a key with which Prometheus may read the metrics. Later starts change
# nothing. What to do next is said at the end. docker-compose.yml fills these from WEIR_INIT, WEIR_MODEL, WEIR_PROBE:
#   INIT_DATA    data to burn in on, with further options of `weir burnin` behind it; none: the bundled digits
#   INIT_MODEL   the model, as `weir burnin --model` takes it
#   INIT_PROBE   a file of trusted samples; none: a part of the data is kept for them
set -euo pipefail
umask 077

SECRETS=${SECRETS:-/run/weir-secrets}
METRICS_GROUP=10012
EXAMPLE_REST=$WEIR_DATA/example-rest.npz

say() { echo "init: $*"; }

has_model() { compgen -G "$WEIR_DATA/checkpoints/*" >/dev/null; }

burn_in() {
  local words=() options=()
  read -ra words <<<"${INIT_DATA:-}"
  if [ "${#words[@]}" = 0 ]; then
    words=(digits --samples 1000 --rest "$EXAMPLE_REST")
  fi
  [ -z "${INIT_MODEL:-}" ] || options+=(--model "$INIT_MODEL")
  [ -z "${INIT_PROBE:-}" ] || options+=(--probe "$INIT_PROBE")
  say "no model yet: weir burnin ${words[*]} ${options[*]}"
  weir burnin "${words[@]}" "${options[@]}"
}

# The id of the key in the file, if it is one that is not revoked.
knows_metrics_key() {
  [ -s "$SECRETS/metrics-key" ] || return 1
  weir keys list --json | python -c '
import json, sys
id = open(sys.argv[1]).read().split("_")[1]
sys.exit(not any(key["id"] == id and key["revoked_at"] is None for key in json.load(sys.stdin)))
' "$SECRETS/metrics-key"
}

make_metrics_key() {
  local key
  key=$(weir keys add metrics --role reader 2>/dev/null)
  printf '%s' "$key" >"$SECRETS/.metrics-key"
  chgrp "$METRICS_GROUP" "$SECRETS/.metrics-key"
  chmod 0440 "$SECRETS/.metrics-key"
  mv -f "$SECRETS/.metrics-key" "$SECRETS/metrics-key"
  say "a key for Prometheus (role reader) lies with the secrets"
}

next_steps() {
  say "Your first key:      docker compose exec weir weir keys add ops --role admin"
  say "Grafana's password:  docker compose exec grafana cat /run/weir-secrets/grafana-password   (user admin)"
  if [ -e "$WEIR_DATA/EXAMPLE" ]; then
    say "THE MODEL IS AN EXAMPLE, on bundled data. For your own see deploy/files/README.md."
  fi
}

has_model || burn_in
knows_metrics_key || make_metrics_key
next_steps
