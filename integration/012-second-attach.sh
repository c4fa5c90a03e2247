#!/bin/bash
# A running container whose helper died gets its network back by a second attach; what ran in it keeps running.
#
#   target wg0 ── wg4netns (killed) / wg4netns (again) :host ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf"
: >"$W/target.net"; mount --bind "/proc/$TARGET/ns/net" "$W/target.net"

step "attach, talk, and kill the helper"
attach
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
start pings nsenter -t "$TARGET" -U -n --preserve-credentials -- ping -i 0.2 10.6.0.2
PINGS=$STARTED
wait_for "answers" 5 grep -q 'icmp_seq=3' "$W/pings.log"
kill -9 "$OURS"
wait_for "the interface to go" 5 not in_target ip link show wg0

more_answers() { [ "$(grep -c "bytes from" "$W/pings.log")" -gt "$answered" ]; }

step "attach again, by path, over the stale socket and lock"
answered=$(grep -c 'bytes from' "$W/pings.log")
ours wg0 --netns "$W/target.net" --config "$W/wg0.conf"
capture cat "$W/wg0.log"
wait_for "the same ping to be answered again" 5 more_answers
alive "$PINGS" || fail "the program inside ended"
assert_has "status knows the new one" "wg0" "$("$WG4NETNS" ls)"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
