#!/bin/bash
# What is said when something is wrong, word for word, and the exit status: target, interface, kernel, processes, names.
# Letters and numbers are the rows of the project's fault list.
#
#   target ✗ wg4netns :host        nothing has to answer
#
# needs: netns tun wg strace
# timeout: 120
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg strace
make_key a; make_key b
our_conf "$W/wg0.conf"
start_target
CONF=$W/wg0.conf

# refused CODE 'FIRST LINE' ['HINT'] -- CMD…: exactly this is said on stderr, nothing on stdout, and nothing is left.
refused() {
  local code=$1 line=$2 hint=''; shift 2
  [ "$1" = -- ] || { hint=$1; shift; }
  shift
  capture timeout 20 "$@"
  assert_eq "what is said" "wg4netns: $line" "$(grep -v '^hint: \|^wg4netns: warning\|^strace' <<<"$ERR" | head -n 1)"
  [ -z "$hint" ] || assert_eq "the hint" "hint: $hint" "$(grep '^hint: ' <<<"$ERR" || true)"
  assert_eq "stdout" "" "$OUT"
  assert_status "$code"
  assert_nothing_left
}
attach_to() { printf '%s\n' "$WG4NETNS" --netns-pid "$1" --config "$CONF"; }
no_wg0() { not in_target ip link show wg0 2>/dev/null || fail "wg0 was made"; }
cannot="cannot create \`wg0\` in the network namespace of"

step "A1: no such process"
begin=$(now_ms)
refused 4 "$cannot pid 999999: no process with pid 999999" -- "$WG4NETNS" --netns-pid 999999 --config "$CONF"
assert_at_most "time to say so (ms)" 100 "$TOOK_MS"

step "A2: the process dies while it is opened, and while its namespaces are joined"
unshare -Urn sleep 100000 & victim=$!; OWN_PIDS+=("$victim")
wait_for "the victim's namespaces" 5 own_netns "$victim"
start dying strace -f -o "$W/strace" -e trace=pidfd_open -e inject=pidfd_open:delay_exit=800000 "$WG4NETNS" --netns-pid "$victim" --config "$CONF"
STRACE=$STARTED
wait_for "its pid to be opened" 5 test -s "$W/strace"
sleep 0.2 # the call is logged when it begins; the delay is after it
kill -9 "$victim"; wait "$victim" 2>/dev/null || true
status=0; wait "$STRACE" || status=$?
assert_eq "status" 4 "$status"
assert_eq "what is said" "wg4netns: $cannot pid $victim: pid $victim is no longer the process it was" "$(grep ^wg4netns: "$W/dying.log")"
assert_nothing_left
unshare -Urn sleep 100000 & victim=$!; OWN_PIDS+=("$victim")
wait_for "the victim's namespaces" 5 own_netns "$victim"
start dying strace -f -o "$W/strace" -e trace=setns -e inject=setns:delay_enter=500000 "$WG4NETNS" --netns-pid "$victim" --config "$CONF"
STRACE=$STARTED
wait_for "the child to be on its way" 5 test -s "$W/strace"
kill -9 "$victim"
# Its namespaces were held by then: either it says that the target is gone, or it was ready and ends with it.
status=0; wait "$STRACE" || status=$?
case $status in 0 | 4) ;; *) fail "status $status" ;; esac
assert_nothing_left

step "A3: its pid has been given to another process"
unshare -Urn sleep 100000 & victim=$!; OWN_PIDS+=("$victim")
wait_for "the victim's namespaces" 5 own_netns "$victim"
start reused strace -f -o "$W/strace" -e trace=pidfd_open -e inject=pidfd_open:delay_exit=800000 "$WG4NETNS" --netns-pid "$victim" --config "$CONF"
STRACE=$STARTED
wait_for "the pid to be opened" 5 test -s "$W/strace"
sleep 0.2 # the call is logged when it begins; the delay is after it
kill -9 "$victim"; wait "$victim" 2>/dev/null || true
if echo $((victim - 1)) >/proc/sys/kernel/ns_last_pid 2>/dev/null; then
  unshare -Urn sleep 100000 & thief=$!; OWN_PIDS+=("$thief")
  [ "$thief" = "$victim" ] || note "the pid went to somebody else: $thief, not $victim"
  status=0; wait "$STRACE" || status=$?
  assert_eq "status" 4 "$status"
  if [ "$thief" = "$victim" ]; then
    not nsenter -t "$thief" -U -n --preserve-credentials ip link show wg0 2>/dev/null || fail "the interface is in the wrong namespace"
    kill "$thief"
  fi
else
  note "ns_last_pid cannot be written here"; status=0; wait "$STRACE" || status=$?; assert_eq "status" 4 "$status"
fi
assert_nothing_left

step "A4: the target shares our network namespace"
refused 4 "$cannot pid $$: target shares the host's network namespace" -- "$WG4NETNS" --netns-pid $$ --config "$CONF"
not ip link show wg0 2>/dev/null || fail "wg0 was made on the host"

step "A6: a thread, a zombie"
perl -e 'if (!fork) { exit } sleep 100' & parent=$!; OWN_PIDS+=("$parent")
zombie_of() { ZOMBIE=$(tr -d ' ' <"/proc/$1/task/$1/children"); [ -n "$ZOMBIE" ] && grep -q '^State:.Z' "/proc/$ZOMBIE/status"; }
wait_for "the zombie" 5 zombie_of "$parent"
zombie_of "$parent"
refused 4 "$cannot pid $ZOMBIE: process $ZOMBIE has ended (it is a zombie)" -- "$WG4NETNS" --netns-pid "$ZOMBIE" --config "$CONF"

step "A10: interface names"
bad_name() { # NAME REASON
  capture "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF" --interface "$1"
  assert_status 2
  assert_has "the rule" "$2" "$ERR"
  assert_lacks "no usage text" "Usage" "$OUT"
}
bad_name 'sixteen-letters-' 'an interface name has at most 15 characters'
bad_name 'a/b' "an interface name cannot contain '/'"
bad_name '' 'an interface name cannot be empty'
bad_name lo 'this interface name is reserved'
in_target ip link add wg0 type veth peer name other
refused 6 "$cannot pid $TARGET: an interface \`wg0\` exists already" -- "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF"
in_target ip link del wg0

step "A13: a seccomp filter refuses setns (as Docker's does)"
refused 5 "$cannot pid $TARGET: cannot join the user namespace of pid $TARGET: Operation not permitted (os error 1)" -- \
  strace -f -o /dev/null -e trace=setns -e inject=setns:error=EPERM "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF"
assert_has "a hint" "hint: " "$ERR"
step "A13: no_new_privs changes nothing"
start nnp setpriv --no-new-privs "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF" --ready-fd 9 9>"$W/nnp.ready"
wait_for "ready" 5 test -s "$W/nnp.ready"
kill "$STARTED"; wait_for "its end" 1 gone "$STARTED"
assert_nothing_left

step "A14: no user namespaces to be had"
capture unshare -Ur bash -c 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$WG4NETNS" run --no-wait --config "$0" -- true' "$CONF"
assert_status 125
assert_has "what is said" "wg4netns: cannot create a user" "$ERR"
assert_has "the mending command" "max_user_namespaces" "$ERR"
capture strace -f -o /dev/null -e trace=unshare,clone,clone3 -e inject=unshare:error=EPERM "$WG4NETNS" run --no-wait --config "$CONF" -- true
if [ "$STATUS" != 0 ]; then assert_status 125; assert_has "a hint" "hint: " "$ERR"; fi

step "A15: /dev/net/tun is missing, or not for us, and a veth pair cannot be had"
in_target sh -c 'echo 0 >/proc/sys/user/max_net_namespaces'
capture unshare -m bash -c 'mount -t tmpfs tmpfs /dev/net && exec "$WG4NETNS" --netns-pid "$0" --config "$1"' "$TARGET" "$CONF"
assert_eq "what is said" "wg4netns: $cannot pid $TARGET: cannot open \`/dev/net/tun\`: No such file or directory (os error 2)
hint: load the driver once as root: \`modprobe tun\`" "$ERR"
assert_status 5
capture unshare -m bash -c 'mount -t tmpfs tmpfs /dev/net && : >/dev/net/tun && chmod 0 /dev/net/tun && exec "$WG4NETNS" --netns-pid "$0" --config "$1"' "$TARGET" "$CONF"
assert_status 5
assert_nothing_left

step "A16: no IPv6 in the target: one warning, and IPv4 works"
in_target sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6'
attach
assert_has "IPv4" "10.6.0.1/24" "$(in_target ip -o addr show wg0)"
kill "$OURS"; wait_for "the end" 1 gone "$OURS"
in_target sh -c 'echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 0 >/proc/sys/net/ipv6/conf/default/disable_ipv6'

step "B3: the helper's child is killed, wherever it is"
for call in setns socket sendmsg; do
  capture strace -f -o "$W/strace" -e trace=setns,sendmsg,socket,ioctl -e "inject=$call:signal=KILL:when=1" "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF"
  if grep -q 'killed by SIGKILL' "$W/strace" && ! [ "$STATUS" = 137 ]; then
    note "at $call: $(head -n 1 <<<"$ERR")"
    assert_has "what is said" "helper died before handover" "$ERR"
    assert_status 5
  fi
  no_wg0
  wait_for "no process of ours to be left" 2 no_processes
  rm -rf "$(uapi_dir)"
done

step "B11: what stands where the socket should be"
dir=$(uapi_dir)
mkdir -p "$dir"; chmod 700 "$dir"
echo precious >"$dir/wg0.sock"
refused_file() { capture "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF" --name wg0; assert_status 6; assert_has "it names the path" "$(realpath "$dir")/wg0.sock" "$ERR"; no_wg0; }
refused_file; assert_eq "the file is untouched" precious "$(cat "$dir/wg0.sock")"
rm "$dir/wg0.sock"; mkdir "$dir/wg0.sock"; refused_file; rmdir "$dir/wg0.sock"
ln -s /etc/hostname "$dir/wg0.sock"; refused_file; rm "$dir/wg0.sock"
chmod 777 "$dir"
if [ "$dir" != /var/run/wireguard ]; then
  capture "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF"
  [ "$STATUS" != 0 ] || fail "a directory that others may write in was used"
  assert_has "it names the mode" 0777 "$ERR"
fi
chmod 700 "$dir"
long=$W/$(printf 'd%.0s' {1..90}); mkdir -m 700 "$long"
capture "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF" --uapi-dir "$long"
[ "$STATUS" != 0 ] || fail "a socket path longer than the kernel allows was used"
assert_has "the limit" 107 "$ERR"
rm -rf "$long" "$dir"

step "asked wrongly"
for words in "" "--netns-pid" "--netns-pid x --config $CONF" "--netns-pid 1 --netns /x --config $CONF" "no-such-command now" "--netns-pid $TARGET --config $CONF --mtu 5"; do
  # shellcheck disable=SC2086 # words
  capture "$WG4NETNS" $words
  assert_status 2
  assert_eq "stdout" "" "$OUT"
done
assert_nothing_left
