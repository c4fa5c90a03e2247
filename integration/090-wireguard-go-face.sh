#!/bin/bash
# Called as wireguard-go: a bare interface in the current namespace, that follows whatever wg and ip do to it.
#
#   wgf0 ── wg4netns (as wireguard-go) :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go
# timeout: 90
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
mkdir -p /run/wireguard "$W/bin"; ln -s "$WG4NETNS" "$W/bin/wireguard-go"
no_face() { [ -z "$(our_processes)" ]; }
configure() {
  wg set wgf0 private-key "$W/a.key" peer "$(pub b)" allowed-ips 10.6.0.0/24,fd06::/64 endpoint 10.9.0.2:51820
  ip addr add 10.6.0.1/24 dev wgf0; ip link set wgf0 up
}

for call in "$W/bin/wireguard-go wgf0" "$WG4NETNS wgf0" "$WG4NETNS device wgf0"; do
  step "${call##*/}"
  # shellcheck disable=SC2086 # a command and its argument
  capture $call
  assert_status 0
  ip link show wgf0 >/dev/null || fail "no interface when it returned"
  test -S /run/wireguard/wgf0.sock || fail "no socket when it returned"
  configure
  ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
  # CAP_NET_ADMIN stays, for firewall marks.
  KEPT=net_admin assert_confined tx rx
  ip link del wgf0
  wait_for "its end with its link" 5 no_face
  not test -e /run/wireguard/wgf0.sock || fail "the socket is left"
done

step "it ends with its socket"
"$W/bin/wireguard-go" wgf0
rm /run/wireguard/wgf0.sock
wait_for "its end" 5 no_face
not ip link show wgf0 2>/dev/null || fail "the interface is left"

step "foreground, address and MTU changes, down and up"
start face env WG_PROCESS_FOREGROUND=1 "$W/bin/wireguard-go" wgf0
wait_for "the socket" 5 test -S /run/wireguard/wgf0.sock
configure
ip link set wgf0 mtu 1280; ping -c 1 -s 2000 -W 5 10.6.0.2 >/dev/null || fail "no answer at MTU 1280"
ip addr del 10.6.0.1/24 dev wgf0; ip addr add 10.6.0.1/32 dev wgf0; ip route add 10.6.0.0/24 dev wgf0
ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer with the other address"
ip link set wgf0 down; stays "it, while the link is down" 1 alive "$STARTED"
ip link set wgf0 up; ip route replace 10.6.0.0/24 dev wgf0
ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer after down and up"

step "the interface is moved into another namespace"
ip netns add inner
ip link set wgf0 netns inner
on inner ip addr add 10.6.0.1/24 dev wgf0; on inner ip link set wgf0 up
on inner ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer from the other namespace"
on inner ip link del wgf0
wait_for "its end with its link" 5 no_face

step "what it refuses"
capture "$W/bin/wireguard-go"
[ "$STATUS" != 0 ] || fail "no name was accepted"
capture "$W/bin/wireguard-go" this-name-is-too-long
[ "$STATUS" != 0 ] || fail "a long name was accepted"
"$W/bin/wireguard-go" wgf0
capture "$W/bin/wireguard-go" wgf0
[ "$STATUS" != 0 ] || fail "a taken name was accepted"
kill "$(our_processes | tr -d ' ')"
wait_for "its end" 5 no_face
