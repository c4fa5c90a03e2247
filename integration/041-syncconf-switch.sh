#!/bin/bash
# syncconf keeps the sessions of peers that did not change; switch changes the server under a running container.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go wgp0 :peer    10.6.0.0/24
#                                └─ h1 ═ p1 ── wireguard-go wgp1 :peer2   10.7.0.0/24
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
make_key d
wg set wgp1 private-key "$W/d.key" listen-port 51820 peer "$(pub a)" allowed-ips 10.7.0.1/32,10.6.0.1/32
on peer2 ip addr add 10.7.0.2/24 dev wgp1; on peer2 ip link set wgp1 mtu 1420 up
on peer2 ip route add 10.6.0.0/24 dev wgp1
start_target
our_conf "$W/wg0.conf"
attach
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
link=$(in_target cat /sys/class/net/wg0/ifindex 2>/dev/null || in_target ip -o link show wg0 | cut -d: -f1)
first=$("$WG4NETNS" show wg0 latest-handshakes)

step "syncconf with another peer beside it: the session stays, routes follow"
our_conf "$W/both.conf"
printf '[Peer]\nPublicKey = %s\nAllowedIPs = 10.7.0.0/24\nEndpoint = 10.8.0.2:51820\n' "$(pub d)" >>"$W/both.conf"
capture "$WG4NETNS" syncconf wg0 "$W/both.conf"
assert_status 0
assert_has "the first session is the same" "$first" "$("$WG4NETNS" show wg0 latest-handshakes)"
assert_has "the new route" "10.7.0.0/24 dev wg0" "$(in_target ip route)"
in_target ping -c 1 -W 5 10.7.0.2 >/dev/null || fail "no answer from the second peer"
in_target ping -c 1 -W 1 10.6.0.2 >/dev/null || fail "no answer from the first peer"
assert_has "still the same session" "$first" "$("$WG4NETNS" show wg0 latest-handshakes)"

step "syncconf back: the peer and its route go"
capture "$WG4NETNS" syncconf wg0 "$W/wg0.conf"
assert_status 0
assert_lacks "the route is gone" "10.7.0.0/24" "$(in_target ip route)"
assert_lacks "the peer is gone" "$(pub d)" "$("$WG4NETNS" show wg0 peers)"
assert_has "the session stayed" "$first" "$("$WG4NETNS" show wg0 latest-handshakes)"

step "switch to a configuration with one peer in common: its session goes on, with another address of ours beside it"
theirs=$(wg show wgp0 latest-handshakes)
our_conf "$W/common.conf" "Address = 10.6.0.1/24, fd06::1/64, 10.7.0.1/24"
printf '[Peer]\nPublicKey = %s\nAllowedIPs = 10.7.0.0/24\nEndpoint = 10.8.0.2:51820\n' "$(pub d)" >>"$W/common.conf"
capture "$WG4NETNS" switch wg0 "$W/common.conf"
assert_status 0
in_target ping -c 1 -W 1 10.6.0.2 >/dev/null || fail "no answer from the peer in common"
assert_has "the same session" "$first" "$("$WG4NETNS" show wg0 latest-handshakes)"
assert_eq "no new handshake at the peer" "$theirs" "$(wg show wgp0 latest-handshakes)"
in_target ping -c 1 -W 5 10.7.0.2 >/dev/null || fail "no answer from the second peer"

step "switch to the other server: same interface, other address and routes"
start pings nsenter -t "$TARGET" -U -n --preserve-credentials -- ping -i 0.2 10.7.0.2
our_conf "$W/other.conf" "Address = 10.7.0.1/24" -- "PublicKey = $(pub d)" "AllowedIPs = 10.7.0.0/24" "Endpoint = 10.8.0.2:51820"
capture "$WG4NETNS" switch wg0 "$W/other.conf"
assert_status 0
assert_eq "the same link" "$link" "$(in_target cat /sys/class/net/wg0/ifindex 2>/dev/null || in_target ip -o link show wg0 | cut -d: -f1)"
addresses=$(in_target ip -o addr show wg0)
assert_has "the new address" "10.7.0.1/24" "$addresses"
assert_lacks "the old address is gone" "10.6.0.1" "$addresses"
assert_lacks "the old route is gone" "10.6.0.0/24" "$(in_target ip route)"
in_target ping -c 1 -W 5 10.7.0.2 >/dev/null || fail "no answer from the other server"

step "a configuration that is wrong changes nothing"
sed 's#10.7.0.0/24#10.7.0.0/33#' "$W/other.conf" >"$W/wrong.conf"; chmod 600 "$W/wrong.conf"
capture "$WG4NETNS" switch wg0 "$W/wrong.conf"
assert_status 3
assert_has "it names the line" "wrong.conf" "$ERR"
in_target ping -c 1 -W 5 10.7.0.2 >/dev/null || fail "the tunnel was disturbed"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
