#!/bin/bash
# attach --reach: one address and port of the host's surroundings is there inside, and nothing else of them.
#
#   target wg0 (everything) ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#   target lo (10.8.0.2) ── wg4netns --reach 10.8.0.2:445 ── l0 (10.8.0.1) ═ lp0 :lan (10.8.0.2, fd08::2)
#
# needs: netns tun wg socat curl jq
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg socat curl jq
peer_world
veth_pair lan l0 lp0 8
start_target
our_conf "$W/wg0.conf" -- "AllowedIPs = 0.0.0.0/0, ::/0"
cat >"$W/hello" <<'S'
read -r request
printf 'HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nfrom %s\n' "$SOCAT_PEERADDR"
S
for port in 445 446; do
  start lan nsenter --net=/run/netns/lan -- socat "TCP6-LISTEN:$port,ipv6only=0,fork,reuseaddr" "SYSTEM:sh $W/hello"
done
start lan nsenter --net=/run/netns/lan -- socat UDP4-RECVFROM:161,fork 'SYSTEM:read -r line; echo "$line $SOCAT_PEERADDR"'
start local socat TCP4-LISTEN:5432,bind=127.0.0.1,fork,reuseaddr "SYSTEM:sh $W/hello"
up() { [ "$(on lan ss -Hltun | wc -l)" = 3 ] && [ "$(ss -Hltn '( sport = 5432 )' | wc -l)" = 1 ]; }
wait_for "the servers" 5 up

forwards() { "$WG4NETNS" status wg0 --json || true; }

step "before: nothing of the LAN can be reached"
attach
capture in_target curl -sS -m 1 http://10.8.0.2:445/
[ "$STATUS" != 0 ] || { said; fail "the LAN was reached"; }
kill "$OURS"; wait_for "the end" 5 gone "$OURS"

step "TCP and UDP, IPv4 and IPv6, and a service on the host's own loopback"
attach --reach 10.8.0.2:445 --reach '[fd08::2]:445' --reach 10.8.0.2:161/udp --reach 127.0.0.1:5432
assert_has "TCP" "from [0000:0000:0000:0000:0000:ffff:0a08:0001]" "$(in_target curl -sS -m 5 http://10.8.0.2:445/)"
assert_has "TCP over IPv6" "from [fd08" "$(in_target curl -sS -m 5 'http://[fd08::2]:445/')"
assert_eq "the host's loopback" "from 127.0.0.1" "$(in_target curl -sS -m 5 http://127.0.0.1:5432/)"
answer=$(in_target bash -c 'exec 7<>/dev/udp/10.8.0.2/161; echo hello >&7; timeout 5 dd bs=65536 count=1 status=none <&7')
assert_eq "UDP" "hello 10.8.0.1" "$answer"

step "and no more than that: no other port, no other address, no other link, no route"
capture in_target curl -sS -m 1 http://10.8.0.2:446/
assert_status 7
for other in 10.8.0.1 10.8.0.3 10.9.0.2; do
  capture in_target ping -c 1 -W 1 $other
  [ "$STATUS" != 0 ] || { said; fail "$other was reached"; }
done
assert_eq "links" "lo wg0" "$(in_target ip -br link | awk '{ sub(/@.*/, "", $1); print $1 }' | sort | xargs)"
assert_has "the address is on lo alone" "scope host" "$(in_target ip -o addr show dev lo to 10.8.0.2)"
assert_eq "routes to it" "" "$(in_target ip route show 10.8.0.0/24)"
assert_has "what leaves by the tunnel has the tunnel's address" "src 10.6.0.1" "$(in_target ip route get 192.0.2.1)"

step "status names them; nothing is left when it ends"
assert_eq "in status" "4" "$(forwards | jq '[.forwards[] | select(.kind == "reach")] | length')"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
capture in_target curl -sS -m 1 http://10.8.0.2:445/
[ "$STATUS" != 0 ] || { said; fail "the LAN was reached"; }

step "a port that has a server inside already: exit 6, one line"
start inside nsenter -t "$TARGET" -U -n --preserve-credentials -- socat TCP4-LISTEN:445,reuseaddr,fork SYSTEM:true
inside() { [ "$(in_target ss -Hltn '( sport = 445 )' | wc -l)" = 1 ]; }
wait_for "the server inside" 5 inside
capture "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --reach 10.8.0.2:445
assert_status 6
assert_eq "what it says" "wg4netns: cannot make sockets in the network namespace of pid $TARGET: cannot listen on \`10.8.0.2:445\` (tcp) inside: in use (os error 98)" "$(sed -E 's/Address (already )?in use/in use/' <<<"$ERR")"
assert_nothing_left

step "what cannot be meant: exit 2"
for wrong in 10.8.0.2 nas:445 0.0.0.0:80 10.8.0.2:445/sctp; do
  capture "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --reach "$wrong"
  assert_status 2
done
