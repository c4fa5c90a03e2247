#!/bin/bash
# A peer whose clock went back: its initiations are older than the one on record, and status says so.
#
#   target wg0 ── wg4netns :host ── tap0 ═ eth0 ── kernel WireGuard (virtual machine)
#
# needs: netns tun wg vm
# timeout: 180
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg vm
make_key a; make_key b
start_kernel_peer
start_target
our_conf "$W/wg0.conf" "ListenPort = 51821" -- "Endpoint ="
attach

step "the peer connects with its clock an hour ahead"
vm 'busybox date -s @$(($(busybox date +%s) + 3600)) >/dev/null'
vm "wg set wg0 peer $(pub a) endpoint 10.5.0.1:51821 persistent-keepalive 1"
handshake() { [ "$("$WG4NETNS" show wg0 latest-handshakes | cut -f2)" -gt 0 ]; }
wait_for "the handshake" 15 handshake

step "it restarts with the right clock: refused, and the reason is said"
vm "ip link del wg0; busybox date -s @\$((\$(busybox date +%s) - 3600)) >/dev/null"
vm "ip link add wg0 type wireguard && wg set wg0 private-key /b.key listen-port 51820 peer $(pub a) allowed-ips 10.6.0.1/32 endpoint 10.5.0.1:51821 persistent-keepalive 1; ip addr add 10.6.0.2/24 dev wg0; ip link set wg0 up"
says_clock() { "$WG4NETNS" status wg0 >"$W/status.out" 2>&1; grep -qi clock "$W/status.out"; }
wait_for "status to name the clock" 60 says_clock
note "$(grep -i clock "$W/status.out")"

step "its clock is put right again: accepted"
vm 'busybox date -s @$(($(busybox date +%s) + 7200)) >/dev/null'
wait_for "an answer" 30 in_target ping -c 1 -W 2 10.6.0.2
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
