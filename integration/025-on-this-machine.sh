#!/bin/bash
# No world: wg4netns in the machine's own namespaces, as whoever calls, with the demo's peer over loopback.
#
#   CMD wg0 ── wg4netns run ── 127.0.0.1 ── wg4netns demo --peer (boringtun, its tunnel in a namespace of its own)
#
# needs: netns tun
# timeout: 60
. "$(dirname "$0")/lib.sh"
need netns tun
no_world

step "demo --peer stays up and prints a configuration"
start peer "$WG4NETNS" demo --peer
PEER=$STARTED
printed() { grep -q '^AllowedIPs' "$W/peer.log" && grep -q '^Endpoint' "$W/peer.log"; }
wait_for "the printed configuration" 10 printed
sed -n '/^\[Interface\]/,$p' "$W/peer.log" >"$W/wg0.conf"; chmod 600 "$W/wg0.conf"
assert_has "it speaks over loopback" "Endpoint = 127.0.0.1:" "$(cat "$W/wg0.conf")"
inside=$(sed -n 's/^DNS *= *//p' "$W/wg0.conf") # the peer's own address

step "run"
capture "$WG4NETNS" run --config "$W/wg0.conf" --report -- sh -c "id -u; grep '^Cap[EP]' /proc/self/status; ping -c 1 -W 5 $inside"
said
assert_status 0
assert_eq "it runs as the caller" "$(id -u)" "$(head -n 1 "$W/capture.out")"

step "attach, ls, status, logs, stop"
start_target
ours here --netns-pid "$TARGET" --name here --config "$W/wg0.conf" --wait-handshake=10
capture "$WG4NETNS" status here
assert_status 0
assert_seen "$OURS"
assert_seen "$PEER"
capture "$WG4NETNS" status here --json
jq -e .healthy >/dev/null <<<"$OUT" || { said; fail "status --json says it is not healthy"; }
capture "$WG4NETNS" stop here
assert_status 0
wait_for "the end" 5 gone "$OURS"

step "in the background: logs shows what it says, and follows"
capture "$WG4NETNS" --netns-pid "$TARGET" --name here --config "$W/wg0.conf" --wait-handshake=10 --background
assert_status 0
said_ready() { "$WG4NETNS" logs here | grep -q 'ready'; }
wait_for "its log" 10 said_ready
start follow "$WG4NETNS" logs here -f
FOLLOW=$STARTED
wait_for "the log so far" 10 grep -q ready "$W/follow.log"
assert_seen "$("$WG4NETNS" ls | awk '$1 == "here" { print $2 }')"
capture "$WG4NETNS" stop here
assert_status 0
wait_for "what was said since" 10 grep -q ending "$W/follow.log"
kill "$FOLLOW" 2>/dev/null || true
capture "$WG4NETNS" logs nobody
[ "$STATUS" != 0 ] || fail "a log of nobody's was shown"

step "nothing but the peer is left, and then nothing"
kill "$PEER"; wait_for "the peer's end" 5 gone "$PEER"
wait_for "no process of ours to be left" 5 no_processes
