#!/bin/bash
# The peer restarts with the same key and an empty memory: traffic finds it again by itself.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go (killed and started again) :peer
#
# needs: netns tun wg wireguard-go
# timeout: 120
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf"
attach
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"

no_far_link() { ! on peer ip link show wgp0 >/dev/null 2>&1; }
kill_peer() {
  kill -9 "$PEER_PID"; wait_for "its end" 5 gone "$PEER_PID"
  wait_for "its interface to go" 5 no_far_link
  rm -f /run/wireguard/wgp0.sock
}

step "it restarts; our side has traffic"
kill_peer
start_wireguard_go_peer
# Ten seconds of silence after data, plus the handshake's own five, and jitter.
wait_for "an answer" 25 in_target ping -c 1 -W 1 10.6.0.2
note "answered after $WAITED_MS ms"

step "it restarts and knows where we are: it speaks first"
kill_peer
start_wireguard_go_peer
wg set wgp0 peer "$(pub a)" endpoint "10.9.0.1:$("$WG4NETNS" show wg0 listen-port)"
on peer ping -c 1 -W 5 10.6.0.1 >/dev/null || fail "the restarted peer's first packet is not answered"

step "it is away for a while: programs see silence, not the end of the helper"
kill_peer
in_target ping -c 5 -i 0.3 -W 1 10.6.0.2 >/dev/null && fail "somebody answered"
alive "$OURS" || fail "the helper ended"
start_wireguard_go_peer
wait_for "an answer" 25 in_target ping -c 1 -W 1 10.6.0.2
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
