#!/bin/bash
# One real rekey: after 120 s of traffic there is a new session, and no ping was lost over it.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go
# set: long
# timeout: 200
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf"
attach

step "130 s of pings, five a second"
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
first=$("$WG4NETNS" show wg0 latest-handshakes | cut -f2)
capture in_target ping -q -i 0.2 -w 130 10.6.0.2
second=$("$WG4NETNS" show wg0 latest-handshakes | cut -f2)
note "$(grep transmitted <<<"$OUT")"
note "handshakes $((second - first)) s apart"
apart=$((second - first))
if [ $apart -lt 118 ] || [ $apart -gt 126 ]; then fail "the rekey came after $apart s"; fi
sent=$(sed -n 's/^\([0-9]*\) packets transmitted.*/\1/p' <<<"$OUT"); answered=$(sed -n 's/.* \([0-9]*\) received.*/\1/p' <<<"$OUT")
# The one on its way when ping ends may be missing.
[ "$answered" -ge $((sent - 1)) ] || fail "$((sent - answered)) pings were lost"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
