#!/bin/bash
# Roaming both ways: the peer's address changes and we follow; ours changes and the peer follows.
#
#   target wg0 ── wg4netns :host ── h0 (10.9.0.1 → .5) ═ p0 (10.9.0.2 → .6) ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf"
attach
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
handshake=$("$WG4NETNS" show wg0 latest-handshakes)

step "the peer moves and speaks first: we answer to its new address"
on peer ip addr add 10.9.0.6/24 dev p0; on peer ip addr del 10.9.0.2/24 dev p0
on peer ip addr add 10.9.0.6/24 dev p0 2>/dev/null || true
# wireguard-go of 2022 clings to a source address that is gone; naming the endpoint again makes it forget.
wg set wgp0 peer "$(pub a)" endpoint "10.9.0.1:$("$WG4NETNS" show wg0 listen-port)"
wait_for "an answer at the new address" 10 on peer ping -c 1 -W 1 10.6.0.1
assert_has "our endpoint" "10.9.0.6:51820" "$("$WG4NETNS" show wg0 endpoints)"
in_target ping -c 1 -W 2 10.6.0.2 >/dev/null || fail "no answer"

step "we move and speak first: the peer answers to ours"
ip addr add 10.9.0.5/24 dev h0; ip addr del 10.9.0.1/24 dev h0
ip addr add 10.9.0.5/24 dev h0 2>/dev/null || true
wait_for "an answer from our new address" 10 in_target ping -c 1 -W 1 10.6.0.2
assert_has "the peer's endpoint" "10.9.0.5:" "$(wg show wgp0 endpoints)"

step "no new handshake was needed"
assert_eq "the session" "$handshake" "$("$WG4NETNS" show wg0 latest-handshakes)"

step "what is not authenticated moves nobody"
on peer ip addr add 10.9.0.66/24 dev p0
port=$("$WG4NETNS" show wg0 listen-port)
for type in 1 2 3 4; do
  { printf '%b\0\0\0' "\\x0$type"; head -c 144 /dev/urandom; } | on peer socat -u - "UDP:10.9.0.5:$port,bind=10.9.0.66" || true
done
# Behind them in the same socket comes the answer to this: then they have been read.
in_target ping -c 1 -W 2 10.6.0.2 >/dev/null || fail "no answer"
assert_has "our endpoint stays" "10.9.0.6:51820" "$("$WG4NETNS" show wg0 endpoints)"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
