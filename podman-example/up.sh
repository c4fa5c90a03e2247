#!/bin/sh
# A rootless container in a network that is a WireGuard tunnel and nothing else: up.sh [CONFIG]
#
# Without CONFIG (a wg-quick file) a peer is started on this machine, and the container talks to that: no server, no root.
# Needs podman and wg4netns (on PATH, or built in this checkout). IMAGE=… runs another image. `down.sh` takes it all back.
set -eu
cd "$(dirname "$0")"
name="wg4netns-example"
image=${IMAGE:-docker.io/library/busybox:latest}
run=${XDG_RUNTIME_DIR:?a rootless podman needs it}/wg4netns
configs=${XDG_CONFIG_HOME:-$HOME/.config}/wg4netns
units=${XDG_CONFIG_HOME:-$HOME/.config}/containers/systemd

command -v podman >/dev/null || { echo "up.sh: install podman first" >&2; exit 1; }
for wg4netns in "$(command -v wg4netns || true)" ../target/x86_64-unknown-linux-musl/dist/wg4netns ../target/release/wg4netns ../target/debug/wg4netns; do
  [ ! -x "$wg4netns" ] || break
done
[ -x "$wg4netns" ] || { echo "up.sh: build it first: cargo build --release" >&2; exit 1; }
wg4netns=$(realpath "$wg4netns")
mkdir -p "$run/example.hooks.d" "$configs"

if [ -e "$configs/example.conf" ]; then echo "up.sh: $configs/example.conf is there already: down.sh first" >&2; exit 1; fi
if [ $# -gt 0 ]; then
  install -m 600 "$1" "$configs/example.conf"
else
  # In the background, until down.sh ends it.
  "$wg4netns" demo --peer --config-out "$configs/example.conf" </dev/null >"$run/example-peer.log" 2>&1 &
  echo $! >"$run/example-peer.pid"
  waited=0
  until [ -s "$configs/example.conf" ]; do
    if [ $waited -ge 100 ] || ! kill -0 "$(cat "$run/example-peer.pid")" 2>/dev/null; then cat "$run/example-peer.log" >&2; exit 1; fi
    waited=$((waited + 1)); sleep 0.1
  done
  echo "a peer runs on this machine"
fi

# Quadlet of podman 4 does not know every key of the unit.
podman_is_5() { [ "$(podman --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')" -ge 5 ]; }

if podman_is_5 && systemctl --user show-environment >/dev/null 2>&1 && [ -x /usr/lib/systemd/user-generators/podman-user-generator ]; then
  mkdir -p "$units"
  sed "s|exec wg4netns|exec $wg4netns|; s|^Image=.*|Image=$image|" example.container >"$units/$name.container"
  systemctl --user daemon-reload
  systemctl --user start "$name.service"
  echo "started as $name.service, made from $units/$name.container"
else
  # What the unit would do, without a service manager.
  "$wg4netns" oci-hook --print-definition >"$run/example.hooks.d/wg4netns.json"
  podman --hooks-dir "$run/example.hooks.d" run --detach --name "$name" --network none \
    --annotation dev.wg4netns.config=example --annotation dev.wg4netns.wait-handshake=10 "$image" sleep 2147483647 >/dev/null
  echo "started as the container $name (no systemd for this user here, or podman before 5)"
fi

echo "its links: $(podman exec "$name" ls /sys/class/net | paste -sd ' ')"
if [ $# -eq 0 ]; then
  podman exec "$name" wget -qO- http://demo.wg4netns/
else
  "$wg4netns" status "$(podman inspect --format '{{.Id}}' "$name" | cut -c 1-12)"
fi
echo "look around: podman exec -it $name sh; end it: $(pwd)/down.sh"
