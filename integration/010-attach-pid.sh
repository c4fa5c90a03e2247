#!/bin/bash
# attach --netns-pid gives an unprivileged namespace an interface that carries packets from the first one on.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go
# timeout: 90
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
start_target
# The last two are not connected by an address: only a route leads there.
our_conf "$W/wg0.conf" -- "AllowedIPs = 10.6.0.0/24, fd06::/64, 10.66.0.0/16, fd66::/64"

step "attach, and the very first packet is answered"
attach
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer over IPv4"
in_target ping -c 1 -W 5 fd06::2 >/dev/null || fail "no answer over IPv6"

step "the interface is what the configuration says, and it is in the target alone"
addresses=$(in_target ip -o addr show wg0)
assert_has "IPv4 address" "inet 10.6.0.1/24" "$addresses"
assert_has "IPv6 address" "inet6 fd06::1/64" "$addresses"
assert_has "MTU and state" "mtu 1420" "$(in_target ip link show wg0)"
assert_has "routes" "10.66.0.0/16 dev wg0 proto static" "$(in_target ip route)"
assert_has "IPv6 routes" "fd66::/64 dev wg0 proto static" "$(in_target ip -6 route)"
assert_has "loopback is up" "LOOPBACK,UP" "$(in_target ip link show lo)"
not ip link show wg0 2>/dev/null || fail "wg0 is on the host"

step "nothing of ours stays in the target, and the socket is for us alone"
for pid in $(our_processes); do
  assert_eq "network namespace of process $pid" "$(readlink /proc/self/ns/net)" "$(readlink "/proc/$pid/ns/net")"
done
assert_seen "$OURS"
assert_eq "UDP sockets in the target" "" "$(in_target ss -Hlun)"
assert_eq "UDP ports of the host" "$("$WG4NETNS" show wg0 listen-port)" "$(ss -Hlun | awk '{ print $4 }' | sed 's/.*://' | sort -u)"
socket=$(uapi_dir)/wg0.sock
assert_eq "mode of the socket" 600 "$(stat -c %a "$socket")"
# As root the directory is wg's own, and the far end's program has made it.
[ "$(uapi_dir)" = /var/run/wireguard ] || assert_eq "mode of its directory" 700 "$(stat -c %a "$(dirname "$socket")")"

step "--wait-handshake is ready only when the peer has answered; status says so"
capture "$WG4NETNS" status wg0
assert_status 0
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
attach --wait-handshake=5 --pidfile "$W/pid"
assert_eq "pid file" "$OURS" "$(cat "$W/pid")"
capture "$WG4NETNS" show wg0 latest-handshakes
assert_matches "a handshake was made" "[1-9][0-9]{8,}" "$OUT"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left

step "--background returns when ready"
capture "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --background --pidfile "$W/pid"
assert_status 0
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
capture "$WG4NETNS" ls
assert_has "ls names it" wg0 "$OUT"
capture "$WG4NETNS" stop wg0
assert_status 0
assert_nothing_left

step "another link that is up is refused, and allowed by --keep-other-links with a word about it"
in_target ip link add other0 type veth peer name other1
in_target ip link set other0 up; in_target ip link set other1 up
capture "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf"
assert_status 4
assert_has "it names the link" other "$ERR"
attach --keep-other-links
assert_has "said once" "no kill switch: other" "$(cat "$W/wg0.log")"
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
in_target ip link del other0

step "--no-routes, --mtu, --interface, --name"
ours named --netns-pid "$TARGET" --config "$W/wg0.conf" --no-routes --mtu 1380 --interface tun7 --name named
assert_has "MTU" "mtu 1380" "$(in_target ip link show tun7)"
assert_has "the connected prefix" "10.6.0.0/24 dev tun7" "$(in_target ip route)"
assert_lacks "no route over AllowedIPs" 10.66 "$(in_target ip route)"
assert_lacks "no IPv6 route over AllowedIPs" fd66 "$(in_target ip -6 route)"
test -S "$(uapi_dir)/named.sock" || fail "the socket is not named after --name"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
