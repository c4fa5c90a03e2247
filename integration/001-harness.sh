#!/bin/bash
# The harness itself: its topology carries packets, its far ends answer, its canaries hear, its clean-up check sees.
# wireguard-go stands on both sides, so a failure here is not wg4netns's.
#
#   host: wireguard-go wga ── h0 ═ p0 ── wireguard-go wgp0 :peer
#
# needs: netns tun wg wireguard-go nft socat
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go nft socat

step "two wireguard-go talk"
peer_world
canaries
start_wireguard_go_peer
start wga env WG_PROCESS_FOREGROUND=1 wireguard-go wga
wait_for "socket" 5 test -S /run/wireguard/wga.sock
wg set wga private-key "$W/a.key" peer "$(pub b)" allowed-ips 10.6.0.0/24,fd06::/64 endpoint 10.9.0.2:51820
ip addr add 10.6.0.1/24 dev wga; ip addr add fd06::1/64 dev wga nodad; ip link set wga mtu 1420 up
ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer over IPv4"
ping -c 1 -W 5 fd06::2 >/dev/null || fail "no answer over IPv6"

step "the canaries hear"
before=$(canary_count sent)
[ "$before" -ge 2 ] || fail "the counter missed the pings"
echo x | socat -u - UDP:10.9.0.1:53
wait_for "the UDP listener" 5 grep -q x "$W/heard"
echo x | socat -u - UNIX-CONNECT:/run/nscd/socket || true
wait_for "the resolver's listener" 5 grep -q nscd "$W/heard"
[ "$(canary_count sent)" -gt "$before" ] || fail "the counter missed a datagram"

step "a namespace's end is seen"
start_target
watch_namespace "$TARGET"
not namespace_gone || fail "watch0 is not there"
kill "$TARGET"
wait_for "the namespace to go" 5 namespace_gone

step "assertions fail when they should"
(assert_eq x 1 2) 2>/dev/null && fail "assert_eq passed"
(assert_has x b acd) 2>/dev/null && fail "assert_has passed"
(wait_for x 0.1 false) 2>/dev/null && fail "wait_for passed"
capture bash -c '. "$0/lib.sh"; WG4NETNS_REQUIRE=a,surely-missing need surely-missing' "$INTEGRATION"
assert_status 1
capture bash -c '. "$0/lib.sh"; WG4NETNS_REQUIRE=a need surely-missing' "$INTEGRATION"
assert_status 77
