#!/bin/bash
# What a tunnel costs at a container's start: `podman run` with us in pasta's place, beside the real pasta, in turn.
#
# needs: netns tun wg wireguard-go socat dnsmasq engines
# timeout: 60
# as: root
. "$(dirname "$0")/lib.sh"

inside() {
  local ours=() real=()
  cp "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf; chmod 600 ~/.config/wg4netns/*
  "$WG4NETNS" drop-ins install >"$W/install.out"
  for _ in {1..10}; do
    ours+=("$(took --network pasta:--wg-config,work)")
    real+=("$(CONTAINERS_HELPER_BINARY_DIR=/usr/bin took --network pasta)")
  done
  note "ms with a tunnel: ${ours[*]}; with the real pasta: ${real[*]}"
  assert_at_most "ms more than the real pasta, median of ten" 150 $(($(median "${ours[@]}") - $(median "${real[@]}")))
}

took() {
  local begin; begin=$(now_ms)
  podman run --rm "$@" busybox sleep 0 >/dev/null
  echo $(($(now_ms) - begin))
}
median() { printf '%s\n' "$@" | sort -n | awk '{ v[NR] = $1 } END { print int((v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2) }'; }

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq engines
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
chmod 644 "$W/wg0.conf"
far_services
in_engines trixie
