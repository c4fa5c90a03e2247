#!/bin/bash
# Two commands at once from one configuration: two names, two namespaces, both with a working tunnel.
#
#   CMD1 wg0 ── wg4netns run :host ── h0 ═ p0 ── wireguard-go :peer
#   CMD2 wg0 ── wg4netns run :host ──┘
#
# needs: netns tun wg wireguard-go
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
our_conf "$W/site.conf"

step "the second has the next name"
start first "$WG4NETNS" run --config "$W/site.conf" -- sh -c 'echo up; sleep 1000'
FIRST=$STARTED
wait_for "the first" 10 grep -q up "$W/first.log"
capture "$WG4NETNS" run --config "$W/site.conf" -- ping -c 1 -W 5 10.6.0.2
assert_status 0
start second "$WG4NETNS" run --config "$W/site.conf" -- sh -c 'echo up; sleep 1000'
SECOND=$STARTED
wait_for "the second" 10 grep -q up "$W/second.log"
capture "$WG4NETNS" ls
assert_has "both names" site-2 "$OUT"
assert_has "the second says what that means" "wg4netns: warning: \`site\` runs with this configuration too: a peer answers whichever of both called last" "$(cat "$W/second.log")"
assert_lacks "the first was alone" "runs with this configuration too" "$(cat "$W/first.log")"
# Both are the same peer to the far end, which answers whoever shook hands last: the first needs its own new one.
wait_for "an answer to the first" 25 "$WG4NETNS" exec site -- ping -c 1 -W 1 10.6.0.2

step "an explicit name that is taken fails, and disturbs nobody"
capture "$WG4NETNS" run --name site --config "$W/site.conf" -- true
assert_status 125
start_target
capture_within 100 "time to say so" "$WG4NETNS" --netns-pid "$TARGET" --name site --config "$W/site.conf"
assert_status 6
wait_for "an answer to the first" 25 "$WG4NETNS" exec site -- ping -c 1 -W 1 10.6.0.2
kill "$FIRST" "$SECOND"
wait_for "the first to end" 5 gone "$FIRST"; wait_for "the second to end" 5 gone "$SECOND"
assert_nothing_left
