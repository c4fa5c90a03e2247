#!/bin/bash
# What is said when the target or the kernel is not as it should be, word for word, and the exit status. Letters and
# numbers are the rows of the project's fault list; group B is in 097-errors-own.
#
#   target ✗ wg4netns :host        nothing has to answer
#
# needs: netns tun wg strace perl
# timeout: 120
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg strace perl
make_key a; make_key b
our_conf "$W/wg0.conf"
start_target
CONF=$W/wg0.conf
cannot="cannot create \`wg0\` in the network namespace of"
on_target="$cannot pid $TARGET"
attach_to() { "$WG4NETNS" --netns-pid "$1" --config "$CONF" "${@:2}"; }

# victim: a target that is about to die.
victim() {
  unshare -Urn sleep 100000 & VICTIM=$!; OWN_PIDS+=("$VICTIM")
  wait_for "the victim's namespaces" 5 own_netns "$VICTIM"
}
# delayed NAME CALL DELAY: attaches to the victim, and its first CALL takes a second. Leaves STRACE.
delayed() {
  rm -f "$W/strace"
  start "$1" strace -f -qq -o "$W/strace" -e trace="$2" -e inject="$2:$3=1000000:when=1" "$WG4NETNS" --netns-pid "$VICTIM" --config "$CONF"
  STRACE=$STARTED
}
holds_pidfd() { find "/proc/$(pgrep -P "$STRACE" -x "$(basename "$WG4NETNS")")/fd" -lname '*pidfd*' | grep -q .; }
victim_is_missed() { # NAME
  local status=0; wait "$STRACE" || status=$?
  assert_eq "what is said" "wg4netns: $cannot pid $VICTIM: pid $VICTIM is no longer the process it was" "$(grep ^wg4netns: "$W/$1.log")"
  assert_eq "status" 4 "$status"
  assert_nothing_left
}

step "A1: no such process"
refused 4 "$cannot pid 999999: no process with pid 999999" '' -- attach_to 999999
capture_within 100 "time to say so" attach_to 999999

step "A2: the process dies while it is opened"
victim; delayed opened pidfd_open delay_exit
wait_for "its pid to be opened" 5 holds_pidfd
kill -9 "$VICTIM"; wait "$VICTIM" 2>/dev/null || true
victim_is_missed opened

step "A2: the process dies between the opening of its namespaces and the joining"
victim; delayed joined setns delay_enter
wait_for "the child to be on its way" 5 test -s "$W/strace"
kill -9 "$VICTIM"; wait "$VICTIM" 2>/dev/null || true
victim_is_missed joined

step "A3: its pid has been given to another process"
victim; delayed reused pidfd_open delay_exit
wait_for "the pid to be opened" 5 holds_pidfd
kill -9 "$VICTIM"; wait "$VICTIM" 2>/dev/null || true
# Nobody else forks in this pid namespace now.
echo $((VICTIM - 1)) >/proc/sys/kernel/ns_last_pid || fail "ns_last_pid cannot be written"
unshare -Urn sleep 100000 & thief=$!; OWN_PIDS+=("$thief")
assert_eq "the pid of the next process" "$VICTIM" "$thief"
victim_is_missed reused
wait_for "the thief's namespaces" 5 own_netns "$thief"
not nsenter -t "$thief" -U -n --preserve-credentials ip link show wg0 2>/dev/null || fail "the interface is in the wrong namespace"
kill "$thief"

step "A4: the target shares our network namespace"
refused 4 "$cannot pid $$: target shares the host's network namespace" \
  "give a process inside the container: \`podman inspect -f '{{.State.Pid}}' NAME\` prints one" -- attach_to $$
not ip link show wg0 2>/dev/null || fail "wg0 was made on the host"

step "A5: a network namespace that is not its user's"
ip netns add foreign
if [ "$WG4NETNS_WORLD" = root ]; then
  # As an ordinary user before a namespace that root has made: `sudo ip netns add` is where they come from.
  mkdir "$W/nobody"; chown 65534 "$W/nobody"; chmod 711 "$W"
  refused 5 "$cannot \`/run/netns/foreign\`: cannot join the network namespace of \`/run/netns/foreign\`, which uid 0 owns: Operation not permitted (os error 1)" \
    "$(join_hint)" -- setpriv --reuid 65534 --regid 65534 --clear-groups "$WG4NETNS" --netns /run/netns/foreign --uapi-dir "$W/nobody"
else
  # From a user namespace below the owner's the kernel does not even tell who that is.
  refused 5 "$cannot \`/run/netns/foreign\`: cannot ask the kernel about the network namespace of \`/run/netns/foreign\`: Operation not permitted (os error 1)" \
    '' -- unshare -Ur "$WG4NETNS" --netns /run/netns/foreign --config "$CONF"
fi

step "A6: a thread, a zombie, another user's process"
ours other --netns-pid "$TARGET" --config "$CONF" --interface other --name other
thread=$(find "/proc/$OURS/task" -mindepth 1 -maxdepth 1 -printf '%f\n' | grep -vx "$OURS" | head -n 1)
capture attach_to "$thread"
assert_eq "what is said" "wg4netns: $cannot pid $thread: $thread is a thread, not a process" "$ERR"
assert_status 4
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
perl -e 'if (!fork) { exit } sleep 100' & parent=$!; OWN_PIDS+=("$parent")
zombie_of() { ZOMBIE=$(tr -d ' ' <"/proc/$1/task/$1/children"); [ -n "$ZOMBIE" ] && grep -q '^State:.Z' "/proc/$ZOMBIE/status"; }
wait_for "the zombie" 5 zombie_of "$parent"
zombie_of "$parent"
refused 4 "$cannot pid $ZOMBIE: process $ZOMBIE has ended (it is a zombie)" '' -- attach_to "$ZOMBIE"
if [ "$WG4NETNS_WORLD" = root ]; then
  refused 5 "$cannot pid $TARGET: cannot open \`/proc/$TARGET/ns/net\`: Permission denied (os error 13)" \
    "run wg4netns as the user whose process it is" -- \
    setpriv --reuid 65534 --regid 65534 --clear-groups "$WG4NETNS" --netns-pid "$TARGET" --uapi-dir "$W/nobody"
  rmdir "$W/nobody"
fi

step "A10: interface names"
bad_name() { # NAME REASON
  local given="--interface $1"
  [ -n "$1" ] || given="--interface="
  refused 2 "\`$given\`: $2" '`wg4netns attach --help` lists what can be given' -- attach_to "$TARGET" --interface "$1"
}
bad_name 'sixteen-letters-' 'an interface name has at most 15 characters'
bad_name 'a/b' "an interface name cannot contain '/'"
bad_name '' 'an interface name cannot be empty'
bad_name lo 'this interface name is reserved'

step "A10: an interface of that name: a veth, a TUN of somebody else, one with several queues"
taken() { refused 6 "$on_target: an interface \`wg0\` exists already" 'choose another name with `--interface`' -- attach_to "$TARGET"; }
in_target ip link add wg0 type veth peer name other; taken; in_target ip link del wg0
in_target ip tuntap add dev wg0 mode tun; taken
in_target ip link show wg0 >/dev/null || fail "the other's TUN is gone"
in_target ip link del wg0
in_target ip tuntap add dev wg0 mode tun multi_queue vnet_hdr; taken; in_target ip link del wg0

step "A13: no_new_privs changes nothing"
start nnp setpriv --no-new-privs "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF" --ready-fd 9 9>"$W/nnp.ready"
wait_for "ready" 5 test -s "$W/nnp.ready"
kill "$STARTED"; wait_for "its end" 5 gone "$STARTED"
assert_nothing_left

if [ "$(uname -m)" = x86_64 ]; then
  step "A13: a seccomp filter refuses setns and unshare, as Docker's does"
  # filtered CALL-NUMBER CMD…: the call ends with EPERM in CMD. The numbers are x86_64's.
  cat >"$W/filtered" <<'P'
my $denied = shift;
# load the call's number; if it is the one, EPERM, else allow
my $program = pack('SCCL', 0x20, 0, 0, 0) . pack('SCCL', 0x15, 0, 1, $denied) . pack('SCCL', 6, 0, 0, 0x50001) . pack('SCCL', 6, 0, 0, 0x7fff0000);
my $fprog = pack('S x6 P', 4, $program);
syscall(157, 38, 1, 0, 0, 0) == 0 or die "no_new_privs: $!";
syscall(157, 22, 2, $fprog) == 0 or die "seccomp: $!";
exec { $ARGV[0] } @ARGV or die "exec: $!";
P
  refused 5 "$on_target: cannot join the user namespace of pid $TARGET: Operation not permitted (os error 1)" \
    'a seccomp filter is on here and may refuse `setns`; run wg4netns outside this container' -- \
    perl "$W/filtered" 308 "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF"
  refused 125 "cannot create a user namespace: Operation not permitted (os error 1)" \
    'start the container with `--security-opt seccomp=unconfined --device /dev/net/tun` (Kubernetes: `seccompProfile: {type: Unconfined}`)' -- \
    perl "$W/filtered" 272 "$WG4NETNS" run --no-wait --config "$CONF" -- true
fi

step "A14: user namespaces are switched off: the limit, Debian's switch, Ubuntu's AppArmor"
refused 125 "cannot create a user namespace: No space left on device (os error 28)" '`sudo sysctl -w user.max_user_namespaces=15000`' -- \
  unshare -Ur bash -c 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$WG4NETNS" run --no-wait --config "$0" -- true' "$CONF"
# with_switch NAME VALUE OPTION…: run on a kernel that has this switch and refuses as that kernel does.
with_switch() {
  unshare -m bash -c 'mount -t tmpfs tmpfs /proc/sys/kernel && echo "$1" >"/proc/sys/kernel/$0" && shift && exec unshare -U --map-user=1000 --map-group=1000 strace -f -qq -o /dev/null "$@"' "$@" \
    "$WG4NETNS" run --no-wait --config "$CONF" -- true
}
refused 125 "cannot create a user namespace: Operation not permitted (os error 1)" '`sudo sysctl -w kernel.unprivileged_userns_clone=1`' -- \
  with_switch unprivileged_userns_clone 0 -e inject=unshare:error=EPERM
# There the namespace is made, and its creator has no capability in it. Not as root, so that it maps
# itself: its second write.
refused 125 "cannot write \`/proc/self/uid_map\`: Permission denied (os error 13)" \
  '`wg4netns doctor --apparmor-profile | sudo tee /etc/apparmor.d/wg4netns && sudo apparmor_parser -r /etc/apparmor.d/wg4netns`' -- \
  with_switch apparmor_restrict_unprivileged_userns 1 -e trace=write -e inject=write:error=EACCES:when=2

step "A15: /dev/net/tun is missing, or not for us, and a veth pair cannot be had"
in_target sh -c 'echo 0 >/proc/sys/user/max_net_namespaces'
# without_tun 'HOW': attaches where /dev/net/tun is as HOW makes it.
without_tun() { unshare -m bash -c "mount -t tmpfs -o mode=755 tmpfs /dev/net && $1 && exec \"\$0\" --netns-pid $TARGET --config '$CONF'" "$WG4NETNS"; }
refused 5 "$on_target: cannot open \`/dev/net/tun\`: No such file or directory (os error 2)" 'load the driver once as root: `modprobe tun`' -- without_tun true
closed='mknod -m 600 /dev/net/tun c 10 200 && chown 65534 /dev/net/tun'
# A user cannot make a device node; one on a file system without devices is refused in the same words.
[ "$WG4NETNS_WORLD" = root ] || closed=': >/dev/net/tun && chmod 666 /dev/net/tun && mount --bind /dev/null /dev/net/tun && mount -o remount,bind,nodev /dev/net/tun'
refused 5 "$on_target: cannot open \`/dev/net/tun\`: Permission denied (os error 13)" 'let everybody open it, as most systems do: `sudo chmod 666 /dev/net/tun`' -- without_tun "$closed"
in_target sh -c 'echo 1000 >/proc/sys/user/max_net_namespaces'

# warned 'TEXT'…: the tunnel that runs has said these warnings, each once, and no other; IPv4 works.
warned() {
  assert_eq "warnings" "$(printf 'wg4netns: warning: %s\n' "$@")" "$(grep 'warning: ' "$W/wg0.log")"
  assert_has "IPv4" "10.6.0.1/24" "$(in_target ip -o addr show wg0)"
  kill "$OURS"; wait_for "the end" 5 gone "$OURS"
  rm "$W/wg0.log"
}
# attach_readonly: as attach, with /proc/sys read-only, as in a container.
attach_readonly() {
  rm -f "$W/wg0.ready"
  start wg0 unshare -m bash -c 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$WG4NETNS" --netns-pid "$0" --config "$1" --ready-fd 9' "$TARGET" "$CONF" 9>"$W/wg0.ready"
  OURS=$STARTED
  wait_for "ready" 10 ready_or_dead wg0 "$OURS"
}
rm -f "$W/wg0.log"

step "A16: no IPv6 in the target: one warning, and IPv4 works"
in_target sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6'
attach_readonly
warned "no IPv6 in this namespace: fd06::1/64 is not used"
in_target sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/disable_ipv6'

step "A16: IPv6 cannot be switched off: one warning"
our_conf "$CONF" "Address = 10.6.0.1/24"
attach_readonly
warned "cannot switch IPv6 off: /proc/sys/net/ipv6/conf/wg0/disable_ipv6: Read-only file system (os error 30)"

step "A16: a route is another interface's: one warning"
in_target ip link add other0 type veth peer name other1
in_target ip link set other0 up; in_target ip addr add 10.6.7.1/24 dev other0
our_conf "$CONF" "Address = 10.6.0.1/24" -- "AllowedIPs = 10.6.7.0/24, 10.6.8.0/24"
attach --keep-other-links
assert_has "the other route" "10.6.8.0/24 dev wg0" "$(in_target ip route)"
assert_has "the route that was there" "10.6.7.0/24 dev other0" "$(in_target ip route)"
warned "no kill switch: other0 remains" "the route 10.6.7.0/24 goes by another interface already"
in_target ip link del other0
assert_nothing_left

step "the kernel refuses offloads: one warning"
# The tunnel's eighth to eleventh ioctl set them; its helper makes no more than two.
our_conf "$CONF" "Address = 10.6.0.1/24"
# attach_refused WHICH: as attach, where these ioctls fail.
attach_refused() {
  rm -f "$W/wg0.ready"
  start wg0 strace -D -f -qq -o /dev/null -e trace=ioctl -e "inject=ioctl:error=EINVAL:when=$1" "$WG4NETNS" --netns-pid "$TARGET" --config "$CONF" --ready-fd 9 9>"$W/wg0.ready"
  OURS=$STARTED
  wait_for "ready" 10 ready_or_dead wg0 "$OURS"
}
attach_refused 8..11
warned "offload off: TUNSETOFFLOAD: Invalid argument (os error 22)"
attach_refused 8..9
warned "segmentation offload off: TUNSETOFFLOAD: Invalid argument (os error 22)"
attach_refused 8
not grep 'warning: ' "$W/wg0.log" || fail "older kernels lack UDP, and nobody needs to know"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
