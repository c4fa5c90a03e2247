#!/bin/bash
# run --report: afterwards, bytes each way, the time of the handshake, and what was refused.
#
#   CMD wg0 ── wg4netns run :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf" -- "AllowedIPs = 10.6.0.2/32"
# Twelve datagrams to a place that no allowed IP holds, and one ping to one that does; the datagrams are refused at once.
cmd='ping -c 1 -W 5 10.6.0.2 >/dev/null || exit 3; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo x 2>/dev/null >/dev/udp/8.8.8.8/53 || true; done; exit 4'

step "on stderr, and CMD's status stays"
capture "$WG4NETNS" run --config "$W/wg0.conf" --report -- bash -c "$cmd"
assert_status 4
assert_has "the refusals" "12 packets to 8.8.8.8:53" "$ERR"
assert_matches "the handshake" '  handshake: [0-9]+(\.[0-9]+)? ms' "$ERR"
# A handshake is 148 bytes out and 92 back; a ping is 128 of each, and there was at least one.
sent=$(sed -n 's/^  sent: \([0-9]*\) bytes$/\1/p' <<<"$ERR"); received=$(sed -n 's/^  received: \([0-9]*\) bytes$/\1/p' <<<"$ERR")
if [ "${sent:-0}" -lt 276 ] || [ "${received:-0}" -lt 220 ]; then fail "bytes: $sent sent, $received received"; fi
assert_eq "stdout is CMD's" "" "$OUT"

step "what was sent last is counted, too, however busy the machine is"
# Our process is stopped from before the first datagram until after the end: it finds both at once.
last='ping -c 1 -W 5 10.6.0.2 >/dev/null || exit 3
  kill -STOP $PPID; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo x 2>/dev/null >/dev/udp/8.8.8.8/53 || true; done
  parent=$PPID; { sleep 0.2; kill -CONT $parent; } >/dev/null 2>&1 & exit 4'
for _ in 1 2 3 4 5; do
  capture "$WG4NETNS" run --config "$W/wg0.conf" --report -- bash -c "$last"
  assert_status 4
  assert_has "the refusals" "12 packets to 8.8.8.8:53" "$ERR"
done

step "what is refused is told to whoever sent it"
capture "$WG4NETNS" run --config "$W/wg0.conf" -- timeout 5 bash -c 'exec 3<>/dev/tcp/8.8.8.8/80'
assert_status 1
assert_matches "the error" "No route to host|Network is unreachable" "$ERR"

step "to a file"
capture "$WG4NETNS" run --config "$W/wg0.conf" --report="$W/report" -- bash -c "$cmd"
assert_status 4
assert_has "the refusals" "12 packets to 8.8.8.8:53" "$(cat "$W/report")"
assert_matches "bytes" 'sent: [0-9]+ bytes' "$(cat "$W/report")"
assert_matches "handshake" 'handshake: [0-9]+(\.[0-9]+)? ms' "$(cat "$W/report")"

step "Markdown, added to what is there, when the file is the job's summary"
echo '# before' >"$W/summary"
export GITHUB_STEP_SUMMARY=$W/summary
capture "$WG4NETNS" run --config "$W/wg0.conf" --report="$GITHUB_STEP_SUMMARY" -- bash -c "$cmd"
assert_status 4
assert_has "what was there" "# before" "$(cat "$W/summary")"
assert_matches "a table" '\|[ :-]*-[ :-]*\|' "$(cat "$W/summary")"
assert_has "the refusals" "8.8.8.8:53" "$(cat "$W/summary")"
assert_nothing_left
