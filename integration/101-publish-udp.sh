#!/bin/bash
# attach -p PORT/udp: datagrams to the host reach the target and are answered from the address that was asked; every
# client has a flow of its own, and their number is bounded.
#
#   clients :host, :peer ── wg4netns (-p …/udp) ── lo of target: servers on 0.0.0.0 and fd06::1
#   target wg0 ── wg4netns :host ── h0 (10.9.0.1, 10.9.0.7, fd09::1) ═ p0 :peer
#
# needs: netns tun wg socat jq
# timeout: 110
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg socat jq
peer_world
ip addr add 10.9.0.7/24 dev h0
start_target
our_conf "$W/wg0.conf"
forwards() { "$WG4NETNS" status wg0 --json || true; }
# ask NAMESPACE ADDRESS PORT LINE: what comes back from exactly that address (bash connects its socket).
ask() { "on_$1" bash -c 'exec 7<>"/dev/udp/$0/$1"; echo "$2" >&7; timeout 5 dd bs=65536 count=1 status=none <&7' "${@:2}"; }
on_host() { "$@"; }
on_peer() { on peer "$@"; }

start four nsenter -t "$TARGET" -U -n --preserve-credentials -- \
  socat UDP4-RECVFROM:5300,fork 'SYSTEM:read -r line; echo "$line $SOCAT_PEERADDR"'
start six nsenter -t "$TARGET" -U -n --preserve-credentials -- \
  socat 'UDP6-RECVFROM:5301,bind=[fd06::1],freebind,fork' 'SYSTEM:read -r line; echo "$line six"'
start sink nsenter -t "$TARGET" -U -n --preserve-credentials -- socat -u -b 65536 UDP4-RECV:5302 "CREATE:$W/sink"
listening() { [ "$(in_target ss -Hlun '( sport >= 5300 and sport <= 5302 )' | wc -l)" = 3 ]; }
wait_for "the servers inside" 5 listening

step "answered over IPv4 and IPv6, from whichever address was asked; inside the client is the tunnel's own address"
attach -p 5300:5300/udp -p '[::1]:5301:5301/udp' -p 5302:5302/udp -p 5399:5399/udp
assert_eq "loopback" "a 10.6.0.1" "$(ask host 127.0.0.1 5300 a)"
assert_eq "another loopback address" "b 10.6.0.1" "$(ask host 127.0.0.5 5300 b)"
assert_eq "from another machine" "c 10.6.0.1" "$(ask peer 10.9.0.1 5300 c)"
assert_eq "by the host's second address" "d 10.6.0.1" "$(ask peer 10.9.0.7 5300 d)"
assert_eq "from another machine over IPv6" "e 10.6.0.1" "$(ask peer fd09::1 5300 e)"
assert_eq "IPv6 on both sides" "f six" "$(ask host ::1 5301 f)"

step "a datagram of any size is one datagram inside"
head -c 60000 /dev/zero | socat -u -b 65536 - UDP4:127.0.0.1:5302
whole() { [ "$(stat -c %s "$W/sink")" = 60000 ]; }
wait_for "60000 bytes" 5 whole

step "two clients do not see each other's answers"
exec 5<>/dev/udp/127.0.0.1/5300 6<>/dev/udp/127.0.0.1/5300
for i in 1 2 3; do echo "five$i" >&5; echo "six$i" >&6; done
for _ in 1 2 3; do
  assert_matches "for the one" "^five" "$(timeout 5 dd bs=65536 count=1 status=none <&5)"
  assert_matches "for the other" "^six" "$(timeout 5 dd bs=65536 count=1 status=none <&6)"
done
exec 5>&- 6>&-

step "more than a thousand clients that nobody answers: the table is bounded, and a new client is served"
# 200 more of them at a time, until so many have come through: a burst may be lost like any datagrams.
crowd() {
  bash -c 'for i in {1..200}; do exec {fd}>/dev/udp/127.0.0.1/5399; echo x >&$fd; ((i % 20)) || sleep 0.01; done'
  [ "$(forwards | jq '[.forwards[].total] | add')" -ge 1200 ]
}
wait_for "the flows" 30 crowd
assert_at_most "flows that are open" 1024 "$(forwards | jq '[.forwards[].active] | add')"
assert_eq "another port, with a flow of its own already" "g 10.6.0.1" "$(ask host 127.0.0.1 5300 g)"

step "flows that nobody answered are forgotten after half a minute, others are not"
few() { [ "$(forwards | jq '[.forwards[] | select(.listen | endswith(":5399")) | .active] | add')" = 0 ]; }
wait_for "the crowd to be forgotten" 45 few
answered=$(forwards | jq '[.forwards[] | select(.listen | endswith(":5300")) | .active] | add')
[ "$answered" -gt 0 ] || fail "answered flows were forgotten, too"

step "the end"
kill "$TARGET"
wait_for "wg4netns to end" 5 gone "$OURS"
assert_nothing_left
