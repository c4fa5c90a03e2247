#!/bin/bash
# wg4netns inside a rootless podman container, which has no /dev/net/tun: `run` makes its namespaces in there, and a veth pair.
#
#   container: [ CMD wg0 ═ far0 ── wg4netns run ] ── h0 ═ p0 ── wireguard-go :peer ── page at 10.6.0.2
#
# needs: netns tun wg wireguard-go socat dnsmasq engines
# timeout: 60
# as: root
. "$(dirname "$0")/lib.sh"

inside() {
  local libraries=() directory
  # The binary may need the system's libraries.
  for directory in /usr /lib /lib64; do libraries+=(--volume "$directory:$directory:ro"); done
  step "run, in an unprivileged container with podman's default seccomp profile"
  capture podman run --rm --network host "${libraries[@]}" --volume "$WG4NETNS:/wg4netns:ro" --volume "$SHARED/wg0.conf:/wg0.conf:ro" \
    busybox sh -c '/wg4netns run --config /wg0.conf -- sh -c "ip -o link; wget -qO- http://far.test/; echo; /wg4netns status wg0
      echo listed \$(/wg4netns ls --json | grep -c target)" && echo listed $(/wg4netns ls --json | grep -c target)
      for file in $(/bin/busybox find /tmp /run -type f -o -type s | grep -E "wireguard|wg4netns"); do echo "left: $file"; done'
  said
  assert_status 0
  assert_has "what was said" "using a veth pair instead" "$ERR"
  assert_has "the link, in status" "interface: wg0 (veth), up, mtu 1420" "$OUT"
  assert_eq "listed meanwhile, not afterwards" "listed 1, 0" "$(grep -o 'listed.*' <<<"$OUT" | paste -sd ' ' | sed 's/ listed/,/')"
  assert_eq "files of ours afterwards" "" "$(sed -n 's/^left: //p' <<<"$OUT")"
  wait_for "no process of ours to be left" 5 no_processes
  assert_eq "links inside" 2 "$(grep -c '^[0-9]' <<<"$OUT")"
  assert_has "the far end saw" "you are 10.6.0.1" "$OUT"
}

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq engines
peer_world
start_wireguard_go_peer
far_services
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
chmod 644 "$W/wg0.conf"
in_engines
