#!/bin/bash
# wg-quick up and down with WG_QUICK_USERSPACE_IMPLEMENTATION: default route, FwMark and policy rules included.
#
#   wgq0 (0.0.0.0/0, ::/0) ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer (also 192.0.2.80 inside)
#
# needs: netns tun wg wg-quick wireguard-go nft
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wg-quick wireguard-go nft
peer_world
start_wireguard_go_peer
on peer ip addr add 192.0.2.80/32 dev wgp0
mkdir -p /run/wireguard
export WG_QUICK_USERSPACE_IMPLEMENTATION=$WG4NETNS
our_conf "$W/wgq0.conf" -- "AllowedIPs = 0.0.0.0/0, ::/0"

step "up"
capture wg-quick up "$W/wgq0.conf"
said
assert_status 0
[ -n "$(our_processes)" ] || fail "it was not us whom wg-quick started"
assert_matches "the mark" '0x' "$(wg show wgq0 fwmark)"
assert_has "the rule" "fwmark" "$(ip rule)"

step "everything goes through the tunnel, the tunnel's own datagrams do not"
ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer from the peer"
ping -c 1 -W 5 192.0.2.80 >/dev/null || fail "no answer over the default route"

step "down"
capture wg-quick down "$W/wgq0.conf"
assert_status 0
wait_for "no process of ours to be left" 5 no_processes
assert_lacks "the rule is gone" "fwmark" "$(ip rule)"
