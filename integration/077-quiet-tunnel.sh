#!/bin/bash
# On a quiet tunnel one thread carries both directions and the other sleeps; under load each has its own; and then again.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go iperf3
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go iperf3
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf"
start_target
attach
wait_for "an answer" 10 in_target ping -c 1 -W 1 10.6.0.2

# switches THREAD: how often it has slept.
switches() {
  local task
  for task in "/proc/$OURS/task/"*; do
    [ "$(cat "$task/comm")" != "$1" ] || sed -n 's/^voluntary_ctxt_switches:[ \t]*//p' "$task/status"
  done
}
# pings: twenty, of which the tx thread is to notice nothing.
pings() {
  local tx rx; tx=$(switches tx) rx=$(switches rx)
  in_target ping -q -c 20 -i 0.02 10.6.0.2 >"$W/ping.out"
  assert_has "the pings" " 0% packet loss" "$(cat "$W/ping.out")"
  note "twenty pings: tx slept $(($(switches tx) - tx)) times, rx $(($(switches rx) - rx)) times"
  assert_eq "wake-ups of the tx thread" 0 "$(($(switches tx) - tx))"
  [ "$(($(switches rx) - rx))" -ge 20 ] || fail "the rx thread did not carry the pings"
}

# Packets that a busy machine lets pile up are load: it need not be the first twenty.
quiet() { ( pings ) 2>"$W/quiet.err"; }

step "quiet"
wait_for "one thread to carry both directions" 10 quiet

step "loaded"
start iperf on peer iperf3 -s -B 10.6.0.2
wait_for "iperf3" 5 on peer sh -c 'ss -Hltn | grep -q :5201'
before=$(switches tx)
# The server is busy for a moment after each test.
wait_for "much to be sent" 20 in_target timeout 10 iperf3 -t 1 -c 10.6.0.2
wait_for "much to be received" 20 in_target timeout 10 iperf3 -t 1 -R -c 10.6.0.2
[ "$(($(switches tx) - before))" -ge 10 ] || fail "the tx thread slept through the load"

step "quiet again"
wait_for "one thread to carry both directions again" 10 quiet
