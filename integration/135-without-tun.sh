#!/bin/bash
# Without /dev/net/tun, as inside rootless podman and on many CI runners: a veth pair and a packet socket, chosen by itself.
#
#   target wg0 ═ far0 (a namespace that only the packet socket keeps) ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go iperf3 jq socat
# timeout: 90
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go iperf3 jq socat
peer_world
start_wireguard_go_peer
# The peer has its TUN; from here on there are none.
mount -t tmpfs tmpfs /dev/net
start iperf on peer iperf3 -s -B 10.6.0.2
start_target
our_conf "$W/wg0.conf"

step "attach: said in one line, and in status"
attach
assert_eq "what was said" 1 "$(grep -c 'cannot open `/dev/net/tun`: No such file or directory.*; using a veth pair instead' "$W/wg0.log")"
capture "$WG4NETNS" status wg0
assert_has "status" "interface: wg0 (veth), up, mtu 1420" "$OUT"
assert_eq "links" "lo wg0" "$(in_target ip -o link | sed 's/^[0-9]*: \([a-z0-9]*\).*/\1/' | paste -sd ' ')"

step "packets of every kind, both ways"
in_target ping -c 3 -i 0.2 -W 5 10.6.0.2 >/dev/null || fail "no answer over IPv4"
in_target ping -c 3 -i 0.2 -W 5 fd06::2 >/dev/null || fail "no answer over IPv6"
in_target ping -c 1 -s 8000 -W 5 10.6.0.2 >/dev/null || fail "no answer to fragments"
on peer ping -c 3 -i 0.2 -W 5 fd06::1 >/dev/null || fail "the far end gets no answer"
iperf "TCP" -c 10.6.0.2 -n 64M
note "TCP: $(jq '.end.sum_received.bits_per_second / 1e6 | floor' <<<"$OUT") Mbit/s, $(jq .end.sum_sent.retransmits <<<"$OUT") retransmits"
iperf "TCP, the other way" -c 10.6.0.2 -n 64M -R
note "TCP, the other way: $(jq '.end.sum_received.bits_per_second / 1e6 | floor' <<<"$OUT") Mbit/s"
iperf "UDP" -c 10.6.0.2 -u -b 5M -t 1 -l 1300
iperf "UDP, the other way" -c 10.6.0.2 -u -b 5M -t 1 -l 500 -R

step "a published port and a reached address, over this link as over the other"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
wait_for "no interface" 5 not in_target ip link show wg0
start inside nsenter -t "$TARGET" -U -n --preserve-credentials -- socat TCP4-LISTEN:8080,fork,reuseaddr 'SYSTEM:echo from $SOCAT_PEERADDR'
start outside socat TCP4-LISTEN:5432,bind=127.0.0.1,fork,reuseaddr 'SYSTEM:echo of the host'
attach -p 127.0.0.1:18080:8080 --reach 127.0.0.1:5432
wait_for "the server inside" 5 sh -c "socat -T 2 - TCP4:127.0.0.1:18080 </dev/null | grep -qx 'from 10.6.0.1'"
assert_eq "what is reached" "of the host" "$(in_target socat -T 5 - TCP4:127.0.0.1:5432 </dev/null)"
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer beside them"
assert_confined tx rx forwarder socket-factory

step "down and up, renamed, another MTU"
in_target ip link set wg0 down
! in_target ping -c 1 -W 1 10.6.0.2 >/dev/null 2>&1 || fail "an answer while it is down"
in_target ip link set wg0 mtu 1300
in_target ip link set wg0 up
in_target ip addr replace 10.6.0.1/24 dev wg0
in_target ping -c 1 -W 5 -s 1200 10.6.0.2 >/dev/null || fail "no answer afterwards"
wait_for "the new MTU in status" 5 sh -c "'$WG4NETNS' status wg0 | grep -q 'mtu 1300'"

step "killed at any time, it leaves no interface"
kill -9 "$OURS"; wait_for "the end" 5 gone "$OURS"
wait_for "no interface" 5 not in_target ip link show wg0
wait_for "no process of ours to be left" 5 no_processes

step "killed and started again at once, it does not meet the interface of the one before"
for _ in {1..5}; do
  attach
  kill -9 "$OURS"; wait_for "the end" 5 gone "$OURS"
done
attach
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
capture_within 1500 "the refusal of a second one" "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf"
assert_status 6
assert_has "what is said while it lives" "\`wg0\`" "$ERR"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
wait_for "no interface" 5 not in_target ip link show wg0

step "it ends with its interface, and with its target"
attach
in_target ip link del wg0
wait_for "the end with the interface" 5 gone "$OURS"
attach
kill -9 "$TARGET"; wait_for "the end with the target" 5 gone "$OURS"
assert_nothing_left

step "run"
capture "$WG4NETNS" run --config "$W/wg0.conf" -- ping -c 1 -W 5 10.6.0.2
assert_status 0
assert_has "what was said" "using a veth pair instead" "$ERR"
assert_nothing_left
