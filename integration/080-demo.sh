#!/bin/bash
# demo: no configuration, no server, no root, in the machine's own namespaces; then it cleans up.
#
#   everything on 127.0.0.1; boringtun's peer with a page in a namespace of its own
#
# needs: netns tun
# timeout: 120
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

step "ended at any moment, everything of it is gone at once"
# ended SIGNAL 'what it has said' SECONDS: so much later.
ended() {
  env --default-signal=INT,QUIT,HUP "$WG4NETNS" demo >"$W/demo.log" 2>&1 &
  demo=$!; OWN_PIDS+=("$demo")
  wait_for "it to have begun" 5 test "/proc/$demo/exe" -ef "$WG4NETNS"
  [ -z "$2" ] || wait_for "it to say '$2'" 10 grep -qs "$2" "$W/demo.log"
  sleep "$3"
  STATUS=0; kill -s "$1" "$demo" 2>/dev/null || true
  wait_for "the end by SIG$1 $3 s after '$2'" 1 gone "$demo"
  local took=$WAITED_MS
  # A process whose TUN the kernel is removing cannot go before that is done, and on a busy machine it takes its time.
  wait_for "no process of ours to be left, $3 s after '$2'" 3 no_processes
  note "SIG$1 $3 s after '$2': gone after $took ms, nothing left $WAITED_MS ms later"
  wait "$demo" || STATUS=$?
  # The last act is a short one, and may be over.
  grep -q ' result ' "$W/demo.log" || assert_status $((128 + $(kill -l "$1")))
  assert_eq "what is left in the temporary directory" "" "$(ls "$TMPDIR")"
  assert_lacks "no panic" panicked "$(cat "$W/demo.log")"
}
for delay in 0 0.01 0.02 0.03 0.05 0.08 0.12 0.2 0.3; do ended TERM '' "$delay"; done
ended TERM ' peer ' 0
for signal in TERM INT HUP QUIT; do ended $signal ' ping ' 0.3; done
for _ in {1..3}; do ended TERM 'last act' 0; done

step "killed, it leaves no process either"
"$WG4NETNS" demo >"$W/demo.log" 2>&1 &
demo=$!; OWN_PIDS+=("$demo")
wait_for "a transfer" 10 grep -q ' ping ' "$W/demo.log"
kill -9 "$demo"; wait_for "the end" 1 gone "$demo"
wait_for "no process of ours to be left" 3 no_processes
rm -r "$TMPDIR"/wg4netns-demo-*

step "without user namespaces it says what is missing"
if capture unshare -Ur bash -c 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$WG4NETNS" demo'; then
  [ "$STATUS" != 0 ] || fail "it went on"
  assert_lacks "no panic" panicked "$ERR"
  assert_matches "a hint" 'hint:|user namespace' "$ERR"
fi
