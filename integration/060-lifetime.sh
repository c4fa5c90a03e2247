#!/bin/bash
# The helper ends with its target, however the target goes, and leaves nothing: no process, socket, lock, link, namespace.
#
#   target wg0 ── wg4netns :host        watch0 is a veth whose other end is in target: it goes with the namespace
#
# needs: netns tun wg
# timeout: 120
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg
peer_world
our_conf "$W/wg0.conf"
ended() { # WHAT MILLISECONDS BEGIN
  local took=$(($(now_ms) - $3))
  assert_at_most "$1 (ms)" "$2" "$took"
}

step "the target's process dies: gone within 100 ms (median of ten; a busy machine may stretch one)"
for _ in {1..10}; do
  start_target; watch_namespace "$TARGET"
  attach
  begin=$(now_ms); kill -9 "$TARGET"
  wait_for "the helper's end" 5 gone "$OURS"
  echo $(($(now_ms) - begin)) >>"$W/took"
  status=0; wait "$OURS" || status=$?
  assert_eq "status" 0 "$status"
  wait_for "the namespace to go" 5 namespace_gone
  assert_nothing_left
done
assert_at_most "end after the target's death, median (ms)" 100 "$(sort -n "$W/took" | sed -n 5p)"
assert_at_most "end after the target's death, slowest (ms)" 1000 "$(sort -n "$W/took" | tail -n 1)"

step "the same for /proc/PID/ns/net as a path"
start_target; watch_namespace "$TARGET"
ours wg0 --netns "/proc/$TARGET/ns/net" --config "$W/wg0.conf"
begin=$(now_ms); kill -9 "$TARGET"
wait_for "the helper's end" 5 gone "$OURS"; ended "end after the target's death" 1000 "$begin"
wait_for "the namespace to go" 5 namespace_gone
assert_nothing_left

for how in delete unmount lazy-unmount delete-alone; do
  step "the namespace's file: $how"
  start_target; watch_namespace "$TARGET"
  : >"$W/target.net"; mount --bind "/proc/$TARGET/ns/net" "$W/target.net"
  kill -9 "$TARGET"; wait_for "the process's end" 5 gone "$TARGET"
  ours wg0 --netns "$W/target.net" --config "$W/wg0.conf"
  stays "the helper with its file" 1 alive "$OURS"
  begin=$(now_ms)
  case $how in
    delete) umount "$W/target.net"; rm "$W/target.net" ;;
    unmount) umount "$W/target.net" ;;
    lazy-unmount) umount -l "$W/target.net" ;;
    # From another mount namespace the file can be deleted while it is mounted on in ours.
    delete-alone) unshare -m sh -c 'umount "$0" && rm "$0"' "$W/target.net"; not test -e "$W/target.net" || fail "the file is still there" ;;
  esac
  wait_for "the helper's end" 5 gone "$OURS"; ended "end after $how" 1000 "$begin"
  wait_for "the namespace to go" 5 namespace_gone
  rm -f "$W/target.net"
  assert_nothing_left
done

step "--exit-fd is hung up"
start_target
mkfifo "$W/exit"
exec 6<>"$W/exit"
start wg0 bash -c 'exec "$0" "$@" --ready-fd 9 --exit-fd 7 9>"$W/wg0.ready" 7<"$W/exit" 6<&-' "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf"
OURS=$STARTED
wait_for "ready" 5 test -s "$W/wg0.ready"
stays "the helper with its exit-fd" 1 alive "$OURS"
begin=$(now_ms); exec 6<&-
wait_for "the helper's end" 5 gone "$OURS"; ended "end after the hang-up" 1000 "$begin"
not in_target ip link show wg0 2>/dev/null || fail "wg0 is still there"
assert_nothing_left

for signal in TERM INT HUP; do
  step "SIG$signal"
  attach
  begin=$(now_ms); kill -s "$signal" "$OURS"
  wait_for "the helper's end" 5 gone "$OURS"; ended "end after SIG$signal" 1000 "$begin"
  not in_target ip link show wg0 2>/dev/null || fail "wg0 is still there"
  assert_nothing_left
done

step "the link is deleted inside"
attach
begin=$(now_ms); in_target ip link del wg0
wait_for "the helper's end" 5 gone "$OURS"; ended "end after the link's deletion" 1000 "$begin"
status=0; wait "$OURS" || status=$?
assert_eq "status" 0 "$status"
assert_nothing_left

step "down, up, renamed, another MTU: followed, not fatal"
attach
in_target ip link set wg0 down; in_target ip link set wg0 mtu 1280; in_target ip link set wg0 name vpn7; in_target ip link set vpn7 up
stays "the helper" 1 alive "$OURS"
capture "$WG4NETNS" status wg0 --json
assert_eq "the new name" vpn7 "$(jq -r .interface <<<"$OUT")"
assert_eq "the new MTU" 1280 "$(jq -r .mtu <<<"$OUT")"
in_target ip link del vpn7
wait_for "the helper's end" 5 gone "$OURS"
assert_nothing_left

step "signals while it starts: wherever it is, it ends and leaves nothing"
for delay in 0.0005 0.001 0.002 0.003 0.004 0.006 0.008 0.010 0.012 0.015 0.02 0.03 0.05; do
  # The shell itself would act on a signal that comes before exec; timeout's child does not.
  capture timeout --signal TERM --kill-after 3 "$delay" "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf"
  [ "$STATUS" = 124 ] || { said; fail "it did not end by SIGTERM after $delay s"; }
  wait_for "no wg0 (signal after $delay s)" 5 not in_target ip link show wg0
  assert_nothing_left
done

step "run ends when its command ends"
capture "$WG4NETNS" run --no-wait --config "$W/wg0.conf" -- true
assert_status 0
assert_nothing_left
