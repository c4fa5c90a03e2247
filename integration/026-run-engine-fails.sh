#!/bin/bash
# The engine fails while the command runs: the command goes on without a network, and its status is still ours.
#
#   CMD wg0 ── wg4netns run :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go strace
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go strace
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf"

step "reading the interface fails"
# shellcheck disable=SC2016 # it is the command's shell that looks
start run "$WG4NETNS" run --config "$W/wg0.conf" -- sh -c '
  ping -c 1 -W 5 10.6.0.2 >/dev/null && echo up
  until [ -e "$0" ]; do ping -c 1 -W 1 10.6.0.2 >/dev/null; done
  ip link show wg0 >/dev/null 2>&1 && echo "wg0 is still there"
  echo done; exit 7' "$W/end"
RUN=$STARTED
wait_for "the command" 10 grep -q up "$W/run.log"
start strace strace -f -qq -o "$W/strace" -e trace=preadv2 -e inject=preadv2:error=EPERM -p "$RUN"
wait_for "the failure" 10 grep -q INJECTED "$W/strace"
wait_for "what is said of it" 5 grep -q "goes on without a network" "$W/run.log"
assert_has "why" "Operation not permitted" "$(cat "$W/run.log")"

step "the command is not left alone: its end is ours"
alive "$RUN" || fail "run has ended before its command"
touch "$W/end"
status=0; wait "$RUN" || status=$?
assert_eq "the command's status" 7 "$status"
assert_has "the command's last words" "done" "$(cat "$W/run.log")"
assert_lacks "the command's last words" "still there" "$(cat "$W/run.log")"
assert_nothing_left
