#!/bin/bash
# Without --config: a bare interface, configured through its socket afterwards.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
start_target

step "attach without a configuration"
ours bare --netns-pid "$TARGET" --name bare
in_target ip link show wg0 >/dev/null || fail "no interface"
capture "$WG4NETNS" show bare
assert_status 0
assert_lacks "no peer yet" "peer:" "$OUT"

step "set: key, peer, endpoint; addresses are the caller's"
capture "$WG4NETNS" set bare private-key "$W/a.key" listen-port 0 peer "$(pub b)" allowed-ips 10.6.0.0/24,fd06::/64 endpoint 10.9.0.2:51820
assert_status 0
in_target ip addr add 10.6.0.1/24 dev wg0; in_target ip link set wg0 up
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
assert_confined tx rx

step "setconf from a file, showconf gives it back"
printf '[Interface]\nPrivateKey = %s\n[Peer]\nPublicKey = %s\nAllowedIPs = 10.6.0.0/24\nEndpoint = 10.9.0.2:51820\n' "$(key a)" "$(pub b)" >"$W/set.conf"
capture "$WG4NETNS" setconf bare "$W/set.conf"
assert_status 0
capture "$WG4NETNS" showconf bare
assert_status 0
assert_has "the key is there" "PrivateKey = $(key a)" "$OUT"
assert_has "the peer is there" "PublicKey = $(pub b)" "$OUT"
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer after setconf"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
