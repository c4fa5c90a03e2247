#!/bin/bash
# Whatever is killed under live forwarded connections: nothing is left, and nothing becomes reachable that was not.
#
#   socat :host ── wg4netns (-p, --reach, --dns-forward) ── target wg0 ── h0 ═ p0 ── (nobody)
#
# needs: netns tun wg socat jq nft
# timeout: 90
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg socat jq nft
peer_world
# What leaves the host, other than to the far end.
nft -f - <<'N'
table inet canary {
  counter sent {}
  chain out {
    type filter hook output priority 0
    oifname "h0" udp dport 51820 accept
    oifname "h0" meta l4proto ipv6-icmp accept
    oifname "h0" counter name sent
  }
}
N
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
start far socat TCP4-LISTEN:5432,bind=127.0.0.1,fork,reuseaddr SYSTEM:'cat'
flags=(-p 8080:8000 -p 8081:8001/udp --reach 127.0.0.1:5432 --dns-forward 10.0.2.3 --pidfile "$W/tmp/pid")
forwards() { "$WG4NETNS" status wg0 --json || true; }
of_kind() { local pid; for pid in $(our_processes); do tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q -- "$1" && echo "$pid"; done; true; }

# A target with a server, and 8 connections in each direction that talk.
begin() {
  start_target
  TARGET_NETWORK=$(readlink "/proc/$TARGET/ns/net")
  start server nsenter -t "$TARGET" -U -n --preserve-credentials -- socat TCP4-LISTEN:8000,fork,reuseaddr SYSTEM:cat
  attach "${flags[@]}"
  local talk='while echo word; do sleep 0.1; done'
  for _ in {1..8}; do
    start busy socat SYSTEM:"$talk" TCP4:127.0.0.1:8080
    start busy nsenter -t "$TARGET" -U -n --preserve-credentials -- socat SYSTEM:"$talk" TCP4:127.0.0.1:5432
    (exec 7<>/dev/udp/127.0.0.1/8081; echo x >&7)
  done
  wait_for "the connections" 5 busy
}
busy() { [ "$(forwards | jq '[.forwards[] | select(.transport == "tcp") | .active] | add')" -ge 16 ]; }
# Every process in the target's network namespace, as the end of a container would.
end() {
  local ns pid
  for ns in /proc/[0-9]*/ns/net; do
    pid=${ns//[!0-9]/}
    if [ "$(readlink "$ns" 2>/dev/null)" = "$TARGET_NETWORK" ]; then kill -9 "$pid" 2>/dev/null || true; fi
  done
  wait_for "the target's end" 5 gone "$TARGET"
}
# Nothing listens on the host for us; the socket's file and the lock of one that was killed may be there.
none_listening() { [ -z "$(ss -Hltun '( sport = 8080 or sport = 8081 )')" ]; }

# As assert_nothing_left, beside the canaries' sockets.
nothing_left() {
  wait_for "no process of ours to be left" 5 no_processes
  no_files || fail "files are left"
  none_listening || fail "a port is still open"
}

step "the parent is killed: no process, no port, no network inside"
begin
begin_ms=$(now_ms); kill -9 "$OURS"
wait_for "no process of ours to be left" 5 no_processes
note "nothing left after $(($(now_ms) - begin_ms)) ms"
none_listening || fail "a port is still open"
not in_target ip link show wg0 2>/dev/null || fail "wg0 is still there"
end

step "the target is killed: everything goes within 100 ms or so, its namespace too"
begin
watch_namespace "$TARGET"
kill -9 "$TARGET"
wait_for "wg4netns to end" 5 gone "$OURS"
note "ended ${WAITED_MS} ms after the target"
wait_for "no process of ours to be left" 5 no_processes
nothing_left
end
wait_for "the namespace to go" 10 namespace_gone

step "the forwarder is killed: that is said, the tunnel goes on, its ports are closed"
begin
kill -9 "$(of_kind __forwarder)"
wait_for "the warning" 5 grep -q "ports are no longer forwarded" "$W/wg0.log"
alive "$OURS" || fail "the tunnel ended"
wait_for "the ports to be closed" 5 none_listening
assert_eq "forwards in status" 0 "$(forwards | jq '.forwards | length')"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
end

step "the factory is killed: that is said, connections go on, new ones are refused, status still answers"
begin
kill -9 "$(of_kind __socket-factory)"
wait_for "the warning" 5 grep -q "nothing more is forwarded to the inside: the process that makes sockets there has ended" "$W/wg0.log"
capture timeout 1 socat -u TCP4:127.0.0.1:8080 -
busy || fail "connections broke"
assert_at_most "bytes that came" 0 "${#OUT}"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
nothing_left
end

step "the remover of the pid file is killed: that is said, and what it leaves"
begin
kill -9 "$(of_kind __remover)"
wait_for "the warning" 5 grep -q "/tmp/pid\` will be left behind: the process that removes it has ended" "$W/wg0.log"
busy || fail "connections broke"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
rm "$W/tmp/pid"
nothing_left
end

step "where none was killed, none is said to have ended"
: >"$W/wg0.log"
begin
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
nothing_left
assert_eq "what was said of helpers" "" "$(grep -e 'has ended' -e 'left behind' -e 'no longer' "$W/wg0.log" || true)"
end

step "a forwarder that is stopped holds up nobody"
begin
forwarder=$(of_kind __forwarder)
kill -STOP "$forwarder"
capture_within 500 "show, with the forwarder stopped" timeout 10 "$WG4NETNS" show wg0; assert_status 0
capture timeout 10 "$WG4NETNS" status wg0 --json
assert_at_most "status, with the forwarder stopped (ms)" 3000 "$TOOK_MS"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
nothing_left
end
assert_eq "packets that left the host beside the tunnel" 0 "$(canary_count sent)"
