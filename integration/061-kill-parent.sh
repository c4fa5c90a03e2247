#!/bin/bash
# The helper is killed: within 100 ms the interface is gone, programs inside get an error, and nothing goes out in the clear.
# The socket and lock it leaves are taken over by the next one.
#
#   target wg0 ── wg4netns (kill -9) :host ── h0 ═ p0 ── wireguard-go :peer        nft counts every other packet
#
# needs: netns tun wg wireguard-go nft socat
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go nft socat
peer_world
start_wireguard_go_peer
canaries
start_target
our_conf "$W/wg0.conf"
no_link() { ! in_target ip link show wg0 >/dev/null 2>&1; }

step "attach and talk; kill it; ten times"
for _ in {1..10}; do
  attach
  assert_lacks "the one that was killed is nobody" "runs with this configuration too" "$(cat "$W/wg0.log")"
  in_target ping -c 1 -W 10 10.6.0.2 >/dev/null || fail "no answer"
  begin=$(now_ms); kill -9 "$OURS"
  wait_for "the interface to go" 5 no_link
  echo $(($(now_ms) - begin)) >>"$W/took"
  capture in_target ping -c 1 -W 1 10.6.0.2
  assert_has "what a program sees" "Network is unreachable" "$ERR$OUT"
  # The stale socket and lock stay behind; so may a helper's child, but not for long.
  wait_for "no process of ours to be left" 5 no_processes
  # A thread of it may still be on its way out, with the lock; the next one would be called wg0-2.
  wait_for "its name to be free" 5 flock --nonblock "$(uapi_dir)/wg0.lock" true
  test -S "$(uapi_dir)/wg0.sock" || note "no stale socket"
done
assert_at_most "interface gone, median (ms)" 100 "$(sort -n "$W/took" | sed -n 5p)"
assert_at_most "interface gone, slowest (ms)" 1000 "$(sort -n "$W/took" | tail -n 1)"
assert_canaries_silent

step "show says that nobody is there, ls does not list the dead one and sweeps up what it left"
test -S "$(uapi_dir)/wg0.sock" || fail "no stale socket: the rest would show nothing"
capture "$WG4NETNS" show wg0
assert_status 1
assert_eq "what show says" "wg4netns: cannot talk to \`wg0\`: cannot connect to \`$(realpath "$(uapi_dir)")/wg0.sock\`: Connection refused (os error 111)
hint: no wg4netns is running for \`wg0\`; the socket is a leftover and can be removed" "$ERR"
capture "$WG4NETNS" ls
assert_status 0
assert_eq "what ls lists" "NAME  PID  MODE  INTERFACE  TARGET  CONFIG" "$OUT$ERR"
no_files || fail "left behind by ls: $(find "$(uapi_dir)" -mindepth 1)"
capture "$WG4NETNS" ls --json
assert_eq "what ls --json lists" "[]" "$OUT$ERR"

step "a run whose parent is killed: the command's network is gone"
start run "$WG4NETNS" run --name r --config "$W/wg0.conf" -- sh -c 'trap "" TERM; while :; do ping -c 1 -W 1 10.6.0.2 >/dev/null 2>&1 && echo answer || echo silence; ip link show wg0 >/dev/null 2>&1 && echo link || echo no link; sleep 0.1; done'
wait_for "an answer" 15 grep -q answer "$W/run.log"
kill -9 "$STARTED"
gone_inside() { tail -n 2 "$W/run.log" | paste -sd ' ' | grep -qE '^(silence no link|no link silence)$'; }
wait_for "the command to have no link and no answer" 5 gone_inside
seen=$(wc -l <"$W/run.log")
more_rounds() { [ "$(wc -l <"$W/run.log")" -ge $((seen + 10)) ]; }
wait_for "five more rounds" 20 more_rounds
assert_eq "answers after that" "" "$(tail -n +$((seen + 1)) "$W/run.log" | grep -x 'answer\|link' || true)"
assert_canaries_silent
