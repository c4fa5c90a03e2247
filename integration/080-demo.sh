#!/bin/bash
# demo: no configuration, no server, no root, in the machine's own namespaces; then it cleans up.
#
#   everything on 127.0.0.1; boringtun's peer with a page in a namespace of its own
#
# needs: netns tun
# timeout: 90
. "$(dirname "$0")/lib.sh"
need netns tun
no_world
before=$(echo /proc/sys/net/ipv4/conf/*)

step "it shows a handshake, a page, a ping, a speed, and its own death"
"$WG4NETNS" demo >"$W/capture.out" 2>"$W/capture.err" &
demo=$!; OWN_PIDS+=("$demo")
# Those that cannot be looked into, too; root may look into every one.
closed_seen() {
  local pid
  for pid in $(our_processes); do
    if [ "$(id -u)" = 0 ] && [ "$pid" != "$demo" ] || ! readlink "/proc/$pid/exe" >/dev/null; then return 0; fi
  done
  false
}
wait_for "a process of its that is seen" 10 closed_seen
STATUS=0; wait "$demo" || STATUS=$?
OUT=$(cat "$W/capture.out"); ERR=$(cat "$W/capture.err")
printf '%s\n' "$OUT" >&2
assert_status 0
assert_matches "handshake time" 'handshake.*[0-9.]+ ms' "$OUT"
assert_matches "DNS" 'name +[^ ]+ is (fd77::1 and )?10\.77\.0\.1( and fd77::1)?, says the DNS inside' "$OUT"
assert_matches "page" 'page' "$OUT"
assert_matches "ping" 'ping.*[0-9.]+ ms' "$OUT"
assert_matches "speed" '[0-9.]+ Gbit/s' "$OUT"
assert_matches "its last act" 'page unreachable after [0-9]+ ms; host canary heard 0 packets' "$OUT"
assert_lacks "nothing unusual on stderr" panicked "$ERR"
printed=$(wc -l <<<"$OUT")
[ "$printed" -le 14 ] || fail "a dozen plain lines were promised, not $printed"
assert_lacks "plain lines" $'\033' "$OUT"

step "nothing is left"
wait_for "no process of ours to be left" 5 no_processes
assert_eq "interfaces" "$before" "$(echo /proc/sys/net/ipv4/conf/*)"
no_files || { find "$XDG_RUNTIME_DIR" "$TMPDIR" >&2; fail "files are left"; }

step "without user namespaces it says what is missing"
if capture unshare -Ur bash -c 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$WG4NETNS" demo'; then
  [ "$STATUS" != 0 ] || fail "it went on"
  assert_lacks "no panic" panicked "$ERR"
  assert_matches "a hint" 'hint:|user namespace' "$ERR"
fi
