#!/bin/bash
# A machine with two ways out: answers take the way the routes say, wherever the question came in, and when it changes.
#
#   target wg0 ── wg4netns :host ═ h0 10.9.0.1 ── p0 ═ mid ═ q0 ── r0 10.7.0.2 ── wireguard-go :peer
#                                ╚ h1 10.8.0.1 ── p1 ╝
#
# needs: netns tun wg wireguard-go
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
veth_pair mid h0 p0 9
ip link add h1 type veth peer name p1 netns mid
ip addr add 10.8.0.1/24 dev h1; ip link set h1 up
on mid ip addr add 10.8.0.2/24 dev p1; on mid ip link set p1 up
ip netns add peer
on mid ip link add q0 type veth peer name r0 netns peer
on mid ip addr add 10.7.0.1/24 dev q0; on mid ip link set q0 up
on peer ip link set lo up; on peer ip addr add 10.7.0.2/24 dev r0; on peer ip link set r0 up
on peer ip route add default via 10.7.0.1
on mid sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
for ns in mid peer; do on "$ns" sh -c 'for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >"$file"; done'; done
for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >"$file"; done
ip route add 10.7.0.0/24 via 10.9.0.2
make_key a; make_key b
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf" "ListenPort = 51900" -- "Endpoint ="
attach

# Packets that came to an interface of `mid`.
arrived() { on mid sed -n "s/^ *$1: *[0-9]* *\([0-9]*\) .*/\1/p" /proc/net/dev; }

step "the question comes in by h1, the way back is h0: the handshake is done at once"
begun=$(now_ms)
wg set wgp0 peer "$(pub a)" endpoint 10.8.0.1:51900
on peer ping -c 1 -W 5 10.6.0.1 >/dev/null || fail "no answer"
assert_at_most "time to the first answer (ms)" 1000 $(($(now_ms) - begun))

step "the route moves, the addresses stay: what we send takes the new way"
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
ip route replace 10.7.0.0/24 via 10.8.0.2
before=$(arrived p1)
in_target ping -c 3 -i 0.2 -W 5 10.6.0.2 >/dev/null || fail "no answer over the new route"
[ $(($(arrived p1) - before)) -ge 3 ] || fail "only $(($(arrived p1) - before)) packets took the new route"

step "and back again"
ip route replace 10.7.0.0/24 via 10.9.0.2
before=$(arrived p0)
in_target ping -c 3 -i 0.2 -W 5 10.6.0.2 >/dev/null || fail "no answer over the old route"
[ $(($(arrived p0) - before)) -ge 3 ] || fail "only $(($(arrived p0) - before)) packets took the old route"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
