#!/bin/bash
# Five minutes without a peer; a target that only serves, with a keepalive; then the peer is back, and without any
# traffic from inside the tunnel is up again, so that the peer can reach the server.
#
#   target wg0 (serves, PersistentKeepalive 5) ── wg4netns :host ── h0 ═ p0 (nft drops all, then not) ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go nft
# set: long
# timeout: 420
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go nft
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf" -- "PersistentKeepalive = 5"
attach --wait-handshake=10

step "an outage of 300 s"
on peer nft add table inet outage
on peer nft 'add chain inet outage in { type filter hook input priority 0; policy drop; }'
stays "the helper" 300 alive "$OURS"
capture "$WG4NETNS" status wg0
assert_status 1

step "the peer is back: a handshake without a packet from inside"
on peer nft delete table inet outage
# Handshakes are tried every 5 s, with jitter; a keepalive comes every 5 s.
wait_for "the peer to reach the server" 15 on peer ping -c 1 -W 1 10.6.0.1
note "after $WAITED_MS ms"
capture "$WG4NETNS" status wg0
assert_status 0
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
