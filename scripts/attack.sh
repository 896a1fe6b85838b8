#!/usr/bin/env bash
# An honest and a hostile producer against the stack that `docker compose up` brought, each with a key of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

docker compose exec -T weir sh -euc '
  umask 077
  weir keys add "honest-$$" >/tmp/honest
  weir keys add "hostile-$$" >/tmp/hostile
  weir stream example-rest.npz --key-file /tmp/honest &
  weir redteam label_flip --key-file /tmp/hostile
  wait
  rm /tmp/honest /tmp/hostile
'
