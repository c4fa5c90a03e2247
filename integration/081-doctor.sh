#!/bin/bash
# doctor tries what wg4netns needs and says what it saw; where something is missing, the line that mends it.
#
# needs: netns tun
# timeout: 60
. "$(dirname "$0")/lib.sh"
need netns tun jq
no_world

step "where everything works"
capture "$WG4NETNS" doctor
printf '%s\n' "$OUT" >&2
assert_status 0
assert_matches "user namespaces" 'user namespace' "$OUT"
assert_has "the TUN driver" /dev/net/tun "$OUT"
capture "$WG4NETNS" doctor --json
jq -e . >/dev/null <<<"$OUT" || { said; fail "doctor --json is not JSON"; }

step "no user namespaces left"
capture unshare -Ur bash -c 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$WG4NETNS" doctor'
printf '%s\n' "$OUT" >&2
[ "$STATUS" != 0 ] || fail "it found nothing wrong"
assert_matches "what mends it" 'max_user_namespaces|sysctl' "$OUT"

step "/dev/net/tun is missing"
capture unshare -Urm bash -c 'mount -t tmpfs tmpfs /dev/net && exec "$WG4NETNS" doctor'
assert_status 0
assert_has "what works instead" "a veth pair works instead" "$OUT"

step "it leaves nothing"
wait_for "no process of ours to be left" 5 no_processes
