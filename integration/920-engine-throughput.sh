#!/bin/bash
# Figures, not a test: iperf3 in the network of a podman 5.4.2 container, with us in pasta's and slirp4netns's place (WireGuard to
# another wg4netns), beside the real pasta and slirp4netns, which encrypt nothing; in turns, because whoever is measured first comes
# off worse. Medians, and every figure behind them. Not run by integration/run; as root:
#
#   WG4NETNS=target/release/wg4netns $PWD/integration/920-engine-throughput.sh
#
# needs: netns tun wg iperf3 engines
# as: root
. "$(dirname "$0")/lib.sh"

SECONDS_EACH=${SECONDS_EACH:-5} ROUNDS=${ROUNDS:-3}

inside() {
  cp "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf; chmod 600 ~/.config/wg4netns/*
  mkdir "$W/faces"; ln -s "$WG4NETNS" "$W/faces/pasta"; ln -s "$WG4NETNS" "$W/faces/slirp4netns"
  local round
  for ((round = 0; round < ROUNDS; round++)); do
    export CONTAINERS_HELPER_BINARY_DIR=$W/faces
    measure "pasta face, WireGuard" 10.6.0.2 pasta:--wg-config,work
    WG4NETNS_CONFIG=work measure "slirp4netns face, WireGuard" 10.6.0.2 slirp4netns
    export CONTAINERS_HELPER_BINARY_DIR=/usr/bin
    measure "real pasta, nothing encrypted" 10.9.0.2 pasta
    measure "real slirp4netns, nothing encrypted" 10.9.0.2 slirp4netns
  done
  printf '%-44s %14s %14s\n' "Mbit/s" "to the peer" "from it" >&2
  local name
  for name in "pasta face, WireGuard" "slirp4netns face, WireGuard" "real pasta, nothing encrypted" "real slirp4netns, nothing encrypted"; do
    printf '%-44s %14s %14s   (%s | %s)\n' "$name" "$(median <"$W/to $name")" "$(median <"$W/from $name")" \
      "$(paste -sd ' ' "$W/to $name")" "$(paste -sd ' ' "$W/from $name")" >&2
  done
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
measure() { # NAME ADDRESS NETWORK
  speed "$2" "$3" 5201 >>"$W/to $1"
  speed "$2" "$3" 5202 -R >>"$W/from $1"
}
speed() { # ADDRESS NETWORK PORT [-R]
  # The image holds busybox alone: iperf3 enters the container's network from outside.
  local pid
  podman run --detach --name speed --network "$2" busybox sleep 1000 >/dev/null
  pid=$(podman inspect -f '{{.State.Pid}}' speed)
  podman unshare nsenter --net="/proc/$pid/ns/net" iperf3 -c "$1" -p "$3" -t "$SECONDS_EACH" -f m ${4+"$4"} |
    awk '/receiver/ { for (i = 1; i < NF; i++) if ($(i + 1) ~ /bits/) print $i }'
  podman rm --force --time 0 speed >/dev/null
}

in_engine
in_world "$@"
need tun wg iperf3 engines
peer_world
# The far end is fast as well: another wg4netns.
start far on peer env WG_PROCESS_FOREGROUND=1 "$WG4NETNS" device wgp0
wait_for "the far end's socket" 5 test -S /var/run/wireguard/wgp0.sock
wg set wgp0 private-key "$W/b.key" listen-port 51820 peer "$(pub a)" allowed-ips 10.6.0.1/32,fd06::1/128
far_end_addresses wgp0
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
chmod 644 "$W/wg0.conf"
start iperf on peer iperf3 -s
start iperf-back on peer iperf3 -s -p 5202
in_engines trixie
