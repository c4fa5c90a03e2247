#!/bin/bash
# attach --netns PATH: a bind mount of a namespace, its file under /proc, and a namespace inside another user namespace.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#      └─ $W/target.net is a bind mount of its network namespace
#
# needs: netns tun wg wireguard-go
# timeout: 90
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf"

bind_target() { : >"$W/target.net"; mount --bind "/proc/$TARGET/ns/net" "$W/target.net"; }
end() { kill "$OURS"; wait_for "the end" 5 gone "$OURS"; }

step "a bind mount, with the user namespace found through it"
start_target
bind_target
ours wg0 --netns "$W/target.net" --config "$W/wg0.conf"
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
end

step "with --userns"
ours wg0 --netns "$W/target.net" --userns "/proc/$TARGET/ns/user" --config "$W/wg0.conf"
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
end

step "the file under /proc"
ours wg0 --netns "/proc/$TARGET/ns/net" --config "$W/wg0.conf"
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
end
umount "$W/target.net"; kill "$TARGET"

step "a user namespace in which we are ourselves, not root"
unshare --user --map-user=1000 --map-group=1000 --net --keep-caps sleep 100000 </dev/null >/dev/null 2>&1 &
TARGET=$!; OWN_PIDS+=("$TARGET")
wait_for "the target's namespaces" 5 own_netns "$TARGET"
ours wg0 --netns-pid "$TARGET" --config "$W/wg0.conf"
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
end; kill "$TARGET"

step "three user namespaces deep"
unshare -Ur unshare -Ur unshare -Urn sleep 100000 </dev/null >/dev/null 2>&1 &
TARGET=$!; OWN_PIDS+=("$TARGET")
wait_for "the target's namespaces" 5 own_netns "$TARGET"
ours wg0 --netns-pid "$TARGET" --config "$W/wg0.conf"
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
end; kill "$TARGET"

step "a path that is no namespace, and one that is not there"
capture "$WG4NETNS" --netns "$W/wg0.conf" --config "$W/wg0.conf"
assert_status 4
capture "$WG4NETNS" --netns "$W/nowhere" --config "$W/wg0.conf"
assert_status 4
assert_has "it names the path" "$W/nowhere" "$ERR"

step "the host's own namespace is refused"
capture "$WG4NETNS" --netns /proc/self/ns/net --config "$W/wg0.conf"
assert_status 4
not ip link show wg0 2>/dev/null || fail "wg0 is on the host"
assert_nothing_left
