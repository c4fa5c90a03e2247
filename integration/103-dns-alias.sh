#!/bin/bash
# attach --dns-forward: an address inside answers DNS by asking the configuration's servers through the tunnel; no
# resolver of the host hears of it.
#
#   target: asks 10.0.2.3, fd00::3 ── wg0 ── wg4netns :host (a listener on every port 53) ── dnsmasq on 10.6.0.2 :peer
#
# needs: netns tun wg wireguard-go nft socat busybox dnsmasq jq
# timeout: 90
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go nft socat busybox dnsmasq jq
peer_world
start_wireguard_go_peer
canaries
start_target
start dnsmasq nsenter --net=/run/netns/peer -- dnsmasq --no-daemon --no-hosts --no-resolv --conf-file=/dev/null \
  --listen-address=10.6.0.2 --bind-interfaces --user=root --group=root --pid-file= --log-queries --log-facility=- \
  --address=/name.test/192.0.2.7 --address=/name.test/2001:db8::7
listening() { [ "$(on peer ss -Hltun '( sport = 53 )' | wc -l)" -ge 2 ]; }
wait_for "dnsmasq" 5 listening
# A program inside may ask the name service daemon of the host by itself: attach leaves it the host's mounts.
assert_quiet() {
  sed -i '/^nscd/d' "$W/heard"
  assert_canaries_silent
}
lookup() { in_target timeout 12 busybox nslookup "$1" "$2" 2>&1; } # NAME SERVER
# The same question in bytes, over TCP.
question='\000\033\001\002\001\000\000\001\000\000\000\000\000\000\004name\004test\000\000\001\000\001'
over_tcp() { in_target bash -c "printf '$question' | timeout 10 socat -t 8 - TCP:$1:53 | od -An -tx1 | tr -d ' \n'"; }

step "UDP and TCP, by an IPv4 and an IPv6 address"
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
attach --dns-forward 10.0.2.3 --dns-forward fd00::3
assert_has "over UDP" "192.0.2.7" "$(lookup name.test 10.0.2.3)"
assert_has "over UDP, IPv6" "2001:db8::7" "$(lookup name.test fd00::3)"
assert_matches "over TCP" "^....0102(85|81)80.*c0000207$" "$(over_tcp 10.0.2.3)"
assert_matches "over TCP, IPv6" "^....0102(85|81)80.*c0000207$" "$(over_tcp '[fd00::3]')"
assert_has "the server was asked through the tunnel" "query[A] name.test from 10.6.0.1" "$(cat "$W/dnsmasq.log")"
assert_quiet

step "200 questions at once"
in_target bash -c 'for i in {1..200}; do exec {fd}<>/dev/udp/10.0.2.3/53; printf "'"${question:8}"'" >&$fd; fds+=($fd); done
  for fd in "${fds[@]}"; do timeout 5 dd bs=65536 count=1 status=none <&$fd | grep -qa . || exit 1; done' || fail "not all were answered"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
wait_for "no process of ours to be left" 5 no_processes
no_files || fail "files are left"

step "the first server is dead: the second answers"
our_conf "$W/wg0.conf" "DNS = 10.6.0.9, 10.6.0.2"
attach --dns-forward 10.0.2.3
begin=$(now_ms)
assert_has "by the second" "192.0.2.7" "$(lookup name.test 10.0.2.3)"
assert_at_most "it took (ms)" 4000 $(($(now_ms) - begin))
assert_matches "and over TCP" "c0000207$" "$(over_tcp 10.0.2.3)"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"

step "--dns overrides the configuration; all servers dead: SERVFAIL, not silence, and still nobody else is asked"
attach --dns-forward 10.0.2.3 --dns 10.6.0.9
answer=$(in_target bash -c 'exec 7<>/dev/udp/10.0.2.3/53; printf "'"${question:8}"'" >&7; timeout 8 dd bs=65536 count=1 status=none <&7 | od -An -tx1 | tr -d " \n"')
assert_matches "number, answer, server failure" "^01028182" "$answer"
assert_quiet
kill "$OURS"; wait_for "the end" 5 gone "$OURS"

step "without any server there is no alias, and that is said"
our_conf "$W/wg0.conf"
attach --dns-forward 10.0.2.3
assert_has "said" "no DNS=: names will not resolve" "$(cat "$W/wg0.log")"
assert_quiet
