#!/bin/bash
# Two tunnels in one namespace, each with its own peer, name and socket; one ends, the other stays.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go wgp0 :peer    10.6.0.0/24
#          wg1 ── wg4netns :host ── h1 ═ p1 ── wireguard-go wgp1 :peer2   10.7.0.0/24
#
# needs: netns tun wg wireguard-go
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
veth_pair peer2 h1 p1 8
start wgp1 nsenter --net=/run/netns/peer2 -- env WG_PROCESS_FOREGROUND=1 wireguard-go wgp1
wait_for "the second far end" 5 test -S /run/wireguard/wgp1.sock
make_key c; make_key d
wg set wgp1 private-key "$W/d.key" listen-port 51820 peer "$(pub c)" allowed-ips 10.7.0.1/32
on peer2 ip addr add 10.7.0.2/24 dev wgp1; on peer2 ip link set wgp1 mtu 1420 up
start_target
our_conf "$W/wg0.conf"
our_conf "$W/wg1.conf" "PrivateKey = $(key c)" "Address = 10.7.0.1/24" -- "PublicKey = $(pub d)" "AllowedIPs = 10.7.0.0/24" "Endpoint = 10.8.0.2:51820"

step "both carry packets"
attach
FIRST=$OURS
ours wg1 --netns-pid "$TARGET" --config "$W/wg1.conf" --interface wg1
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer through wg0"
in_target ping -c 1 -W 5 10.7.0.2 >/dev/null || fail "no answer through wg1"
capture "$WG4NETNS" ls
assert_has "both are listed" wg0 "$OUT"
assert_has "both are listed" wg1 "$OUT"

step "one ends, the other stays"
kill "$FIRST"; wait_for "the end of the first" 5 gone "$FIRST"
not in_target ip link show wg0 2>/dev/null || fail "wg0 is still there"
in_target ping -c 1 -W 5 10.7.0.2 >/dev/null || fail "no answer through wg1"

step "the interface's name is taken"
capture "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --interface wg1 --name third
assert_status 6
assert_has "it names the interface" wg1 "$ERR"
in_target ping -c 1 -W 5 10.7.0.2 >/dev/null || fail "the second tunnel was disturbed"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
