# shellcheck shell=bash disable=SC2034,SC2317
# Group V: what is done to the other groups' tunnels, to one over a veth pair, which is there where there is no /dev/net/tun.

# over_veth FUNCTION [ARGUMENT…]: a fault of another group.
over_veth() {
  OVER_VETH=yes
  # The far end has its TUN; from here on there are none.
  mount -t tmpfs tmpfs /dev/net
  rm -f "$W/wg0.log" "$W"/try.*
  "$@"
  grep -qs 'using a veth pair instead' "$W/wg0.log" "$W"/try.* || fail "there was no veth pair"
}
# v ID 'WHAT' 'WANTED' FUNCTION [ARGUMENT…]
v() { fault "V$1" "$2, over veth" "$3" over_veth "${@:4}"; }

v A7 "the target is killed while it sends as fast as it can" "ends ≤ 1 s, nothing left" target_killed_under_load
v A11a "container root sets the link down, and up" "lives, ≤ 2 s" change_down
v A11c "container root sets MTU 65535, sends 60 kB" "follows, no panic" change_mtu_large
v A11d "container root renames the link" "follows" change_name
v A11e "container root flushes addresses and routes" "lives" change_flush
v A11f "container root adds a link with a route of its own" "lives, nothing out" change_link
v A11g "container root moves the link to another namespace" "lives or ends cleanly" change_namespace
v A11h "container root deletes the link" "exit 0 ≤ 1 s" change_delete
v A11i "container root forges frames and virtio headers" "no panic, memory ≤ 4 MB more" vnet_flood
v B1 "the parent is killed at random moments, $(how_many 15 300) times" "nothing left, the next one starts" killed_at_random 15 300
v B2 "SIGTERM, SIGINT, SIGHUP at random moments, $(how_many 9 300) times" "ends ≤ 1 s, nothing left" signalled_at_random 9 300
v B3 "the helper is killed at $(how_many "every ninth" every) system call of its life" "exit 5 and a line, or done; nothing left" helper_at_every_call KILL 9
v B3b "$(how_many "every ninth" every) system call of the helper fails once: EPERM" "a line or a way round; nothing left" helper_at_every_call 1 9
v B9 "stopped for $(how_many 2 200) s (SIGSTOP), then continued" "answers ≤ 1 s" stopped
v C2a "the host's link is down for a second" "answers ≤ 1 s after" host_link_down
v C5b "a wire that loses 5 %" "TCP whole" wire loss=5
v C14 "the peer is stopped for two seconds (SIGSTOP), then continued" "answers ≤ 1 s after" peer_stopped

# The far end's namespace has no process in it: `faults/far-end` goes there by way of our packet socket.
far_end() { "$FAULTS/far-end" "$OURS" "$@"; }
fault V1 "what there is in the namespace of a veth pair's far end" "lo, down, and the far end; no address" over_veth far_end_is_bare
far_end_is_bare() {
  fresh
  assert_eq "links" "far0 lo" "$(far_end ip -o link | sed 's/^[0-9]*: \([a-z0-9]*\).*/\1/' | sort | paste -sd ' ')"
  assert_eq "links that are up" "far0" "$(far_end ip -o link show up | sed 's/^[0-9]*: \([a-z0-9]*\).*/\1/')"
  assert_eq "addresses" "" "$(far_end ip -o addr)"
  assert_eq "routes" "" "$(far_end ip route; far_end ip -6 route)"
  assert_eq "sockets" "" "$(far_end ss -Htuan)"
  tell "no other link, address, route or socket"
}
# far_end_goes COMMAND…: whoever does that, the tunnel goes on or ends by itself, and nothing comes out.
far_end_goes() {
  fresh
  "$@"
  talks_or_ends() { gone "$OURS" || answer; }
  wait_for "an answer or the end" 5 talks_or_ends; recovery "$WAITED_MS"
  if gone "$OURS"; then
    local status=0; wait "$OURS" || status=$?
    assert_eq "status" 0 "$status"
    wait_for "the interface's end" 3 no_link
    tell "it ended"
  else
    tell "it went on"
  fi
}
fault V2a "the far end is set down, and up" "lives or ends cleanly" over_veth far_end_goes far_end_flaps
far_end_flaps() { far_end ip link set far0 down; far_end ip link set far0 up || wait_for "the end" 3 gone "$OURS"; }
fault V2b "the far end is deleted" "ends cleanly" over_veth far_end_goes far_end ip link del far0
fault V2c "container root deletes the far end, by its namespace's number" "ends cleanly" over_veth far_end_goes far_link delete
fault V2d "container root moves the link to the far end" "lives or ends cleanly; nothing out" over_veth joined_to_far_end
ticks() { awk '{ print $14 + $15 }' "/proc/$OURS/stat" 2>/dev/null || echo 0; }
far_link() { assert_eq "what container root did" "done" "$(in_target "$FAULTS/far-link" "$1")"; }
joined_to_far_end() {
  fresh
  far_link join
  wait_for "the link's departure" 3 no_link
  # Both ends are where nobody is: it may end or go on, but not spin, nor panic.
  local moved used; moved=$(now_ms); used=$(ticks)
  stays_or_ends() { gone "$OURS" || [ "$(($(now_ms) - moved))" -ge 1000 ]; }
  wait_for "a second, or the end" 3 stays_or_ends
  assert_lacks "no panic" panicked "$(cat "$W/wg0.log")"
  if gone "$OURS"; then tell "it ended"; return; fi
  used=$(($(ticks) - used))
  [ "$used" -le 20 ] || fail "$used hundredths of a second of work in one second: it spins"
  tell "it went on"
}
