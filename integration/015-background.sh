#!/bin/bash
# A tunnel in the background keeps nothing of its caller's, and ends with a caller who does not want to wait for it.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── nobody :peer
#
# needs: netns tun wg
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg
peer_world
start_target
our_conf "$W/wg0.conf"

step "a lock that the caller holds is the caller's alone"
(
  exec 9>"$W/lock"
  flock 9
  "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --name wg0 --background
) || fail "no tunnel"
"$WG4NETNS" ls | grep -q wg0 || fail "no tunnel is listed"
flock -n "$W/lock" true || fail "the tunnel holds its caller's lock"

step "a configuration that only the caller has open is read all the same"
"$WG4NETNS" stop wg0
"$WG4NETNS" --netns-pid "$TARGET" --config <(cat "$W/wg0.conf") --name fromfd --interface wg0 --background || fail "no tunnel"
assert_has "the key" "$(pub b)" "$("$WG4NETNS" show fromfd)"
"$WG4NETNS" stop fromfd

step "^C while it waits for an answer ends it too"
start caller env --default-signal=INT "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --name wg0 --background --wait-handshake=50
CALLER=$STARTED
wait_for "the interface" 5 in_target ip link show wg0
kill -INT "$CALLER"
wait_for "the caller's end" 5 gone "$CALLER"
status=0; wait "$CALLER" || status=$?
assert_eq "its status" 130 "$status"
wait_for "the interface to go" 5 not in_target ip link show wg0
assert_nothing_left
