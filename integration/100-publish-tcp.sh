#!/bin/bash
# attach -p: a TCP port inside is reached from the host, whole and in both directions, and inside the client is a neighbour.
#
#   curl, socat :host ── wg4netns (-p) ── lo of target: servers on 0.0.0.0, on 10.6.0.1, on fd06::1
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go socat curl jq
# timeout: 90
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go socat curl jq
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf"

# serve NAME SOCAT-ADDRESS COMMAND: in the target, for every connection.
serve() { start "$1" nsenter -t "$TARGET" -U -n --preserve-credentials -- socat "$2" "SYSTEM:$3"; }
# As JSON; `status` itself fails while no peer has answered.
forwards() { "$WG4NETNS" status wg0 --json || true; }
listening() { [ "$(in_target ss -Hltn "( sport = $1 )" | wc -l)" -ge 1 ]; }
cat >"$W/hello" <<'S'
read -r request
printf 'HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nfrom %s\n' "$SOCAT_PEERADDR"
S
serve any "TCP4-LISTEN:80,fork,reuseaddr" "sh $W/hello"
serve own "TCP4-LISTEN:81,bind=10.6.0.1,freebind,fork,reuseaddr" "sh $W/hello"
serve six "TCP6-LISTEN:82,bind=[fd06::1],freebind,fork,reuseaddr,ipv6only=1" "sh $W/hello"
serve sum "TCP4-LISTEN:83,fork,reuseaddr" "sha256sum"
serve loopback "TCP4-LISTEN:84,bind=127.0.0.1,fork,reuseaddr" "sh $W/hello"
for port in 80 81 83 84; do wait_for "the server on $port" 5 listening $port; done

step "every form of -p: an answer from the host, and the client inside is the tunnel's own address, not 127.0.0.1"
attach -p 8080:80 -p 127.0.0.1:8081:81 -p '[::1]:8082:82' -p 8083:83 -p 8084:84 -p 9000-9002:80-82 -p 127.0.0.1::80
assert_eq "any address" "from 10.6.0.1" "$(curl -sS -m 5 http://127.0.0.1:8080/)"
assert_eq "by the host's address" "from 10.6.0.1" "$(curl -sS -m 5 http://10.9.0.1:8080/)"
assert_eq "from another machine" "from 10.6.0.1" "$(on peer curl -sS -m 5 http://10.9.0.1:8080/)"
assert_eq "over IPv6, to a server that has IPv4 only" "from 10.6.0.1" "$(curl -sS -m 5 'http://[::1]:8080/')"
assert_eq "from another machine over IPv6" "from 10.6.0.1" "$(on peer curl -sS -m 5 'http://[fd09::1]:8080/')"
assert_eq "a server on the tunnel's address" "from 10.6.0.1" "$(curl -sS -m 5 http://127.0.0.1:8081/)"
assert_eq "IPv6 on both sides" "from fd06:0000:0000:0000:0000:0000:0000:0001" "$(curl -sS -m 5 'http://[::1]:8082/' | tr -d '[]')"
assert_eq "a range, first" "from 10.6.0.1" "$(curl -sS -m 5 http://127.0.0.1:9000/)"
assert_eq "a range, second" "from 10.6.0.1" "$(curl -sS -m 5 http://127.0.0.1:9001/)"
assert_has "a range, third" "from [fd06" "$(curl -sS -m 5 'http://[::1]:9002/')"
chosen=$(forwards | jq -r '[.forwards[] | select(.listen | test("^127.0.0.1:")) | .listen] | last')
assert_has "the port that was chosen is said" "port 80/tcp inside is $chosen here" "$(cat "$W/wg0.log")"
assert_eq "a port that was chosen" "from 10.6.0.1" "$(curl -sS -m 5 "http://$chosen/")"

step "what listens on 127.0.0.1 inside is not published, nor what listens nowhere: the connection breaks at once"
for port in 8084 9999; do
  [ $port = 8084 ] || { kill "$OURS"; wait_for "the end" 5 gone "$OURS"; attach -p 9999:9999 -p 8083:83; }
  capture curl -sS -m 5 "http://127.0.0.1:$port/"
  [ "$STATUS" = 56 ] || [ "$STATUS" = 52 ] || [ "$STATUS" = 7 ] || { said; fail "curl did not see a reset"; }
done

step "half-close: 100 MB one way, its sum the other way, four at a time"
head -c 100000000 /dev/zero | sha256sum >"$W/wanted"
sum() { head -c 100000000 /dev/zero | socat -t 60 - TCP4:127.0.0.1:8083 >"$W/sum.$1"; }
pids=()
for i in 1 2 3 4; do sum "$i" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid"; done
for i in 1 2 3 4; do assert_eq "sum $i" "$(cat "$W/wanted")" "$(cat "$W/sum.$i")"; done

step "back-pressure: a server that does not read holds its client, and nothing grows"
serve deaf "TCP4-LISTEN:9999,fork,reuseaddr" "sleep 100"
wait_for "the server that does not read" 5 listening 9999
resident() { local pid; for pid in $(our_processes); do sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status"; done | sort -n | tail -n 1; }
before=$(resident)
capture timeout 2 socat -u -b 65536 /dev/zero TCP4:127.0.0.1:9999
assert_status 124
assert_at_most "growth (KiB)" 2048 $(($(resident) - before))

step "status tells; nothing of ours is left when the target ends under 50 live connections"
assert_eq "forwards in status" "tcp" "$(forwards | jq -r '[.forwards[].transport] | unique[]')"
for _ in {1..50}; do start idle socat -u TCP4:127.0.0.1:9999 STDOUT; done
open() { [ "$(forwards | jq '[.forwards[].active] | add')" -ge 50 ]; }
wait_for "50 connections" 5 open
kill "$TARGET"
wait_for "wg4netns to end" 5 gone "$OURS"
note "ended ${WAITED_MS} ms after the target"
assert_nothing_left

step "a port that is taken: exit 6, one line, and the target is not touched"
start_target
start taken socat TCP4-LISTEN:8080,reuseaddr,fork SYSTEM:true
taken() { [ "$(ss -Hltn '( sport = 8080 )' | wc -l)" -ge 1 ]; }
wait_for "the port to be taken" 5 taken
in_target ip monitor link >"$W/monitor" 2>&1 &
OWN_PIDS+=($!)
capture "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" -p 8080:80
assert_status 6
assert_eq "what it says" "wg4netns: cannot listen on \`0.0.0.0:8080\` (tcp) to publish it: in use (os error 98)
hint: publish it on another port of the host, or on a free one: \`-p PORT\`" "$(sed -E 's/Address (already )?in use/in use/' <<<"$ERR")"
assert_eq "what was seen in the target" "" "$(cat "$W/monitor")"
assert_nothing_left

step "what cannot be meant: exit 2"
for wrong in 99999:80 80/sctp 1-2:3 ::1:80:80 host:80:80; do
  capture "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" -p "$wrong"
  assert_status 2
  assert_has "it is quoted" "$wrong" "$ERR"
done
