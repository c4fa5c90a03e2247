#!/bin/bash
# Thirty percent of the datagrams are lost each way: the handshake comes through, and TCP inside completes.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 (nft drops 30 % of UDP in and out) ── wireguard-go :peer
#
# Of ten datagrams the same three are lost, no two in a row. Were they drawn by lot, six tries of a handshake, all that
# thirty seconds hold, would all fail once in sixty (0.51⁶): a test that fails by itself.
#
# needs: netns tun wg wireguard-go nft socat
# timeout: 300
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go nft socat
peer_world
start_wireguard_go_peer
on peer nft -f - <<'N'
table inet loss {
  counter lost {}
  chain lose { counter name lost drop; }
  chain in { type filter hook input priority 0; udp dport 51820 numgen inc mod 10 vmap { 0 : jump lose, 4 : jump lose, 7 : jump lose }; }
  chain out { type filter hook output priority 0; udp sport 51820 numgen inc mod 10 vmap { 0 : jump lose, 4 : jump lose, 7 : jump lose }; }
}
N
start_target
our_conf "$W/wg0.conf"

step "the handshake, within 30 s, three times"
for _ in 1 2 3; do
  attach
  wait_for "an answer" 30 in_target ping -c 1 -W 1 10.6.0.2
  note "first answer after $WAITED_MS ms"
  kill "$OURS"; wait_for "the end" 5 gone "$OURS"
done

# TCP backs off for minutes when both its data and its answers are lost so often; one way is loss enough.
transfer() { # LISTENER-ADDRESS LISTENER… FROM SENDER…: 200 kB through socat
  local address=$1 listener=(); shift
  while [ "$1" != FROM ]; do listener+=("$1"); shift; done; shift
  rm -f "$W/received"
  start sink "${listener[@]}" socat -u "TCP-LISTEN:7000,bind=$address,reuseaddr" "OPEN:$W/received,creat,trunc"
  local sink=$STARTED
  wait_for "the sink" 5 "${listener[@]}" sh -c 'ss -Hltn | grep -q :7000'
  capture timeout 100 "$@" socat -u "OPEN:$W/sent" "TCP:$address:7000,connect-timeout=60"
  assert_status 0
  wait_for "the sink to have all" 90 gone "$sink"
  cmp "$W/sent" "$W/received" || fail "what arrived is not what was sent"
}
inside=(nsenter -t "$TARGET" -U -n --preserve-credentials --) far=(nsenter --net=/run/netns/peer --)
head -c 200000 /dev/urandom >"$W/sent"
attach
wait_for "an answer" 30 in_target ping -c 1 -W 1 10.6.0.2

step "TCP completes, whole, with 30 % of our datagrams lost"
on peer nft flush chain inet loss out
transfer 10.6.0.2 "${far[@]}" FROM "${inside[@]}"

step "the same with 30 % of the peer's lost"
on peer nft flush chain inet loss in
on peer nft add rule inet loss out udp sport 51820 numgen inc mod 10 vmap '{ 0 : jump lose, 4 : jump lose, 7 : jump lose }'
transfer 10.6.0.1 "${inside[@]}" FROM "${far[@]}"
lost=$(on peer nft -j list counter inet loss lost | sed 's/.*"packets": *\([0-9]*\).*/\1/')
[ "$lost" -gt 50 ] || fail "only $lost datagrams were lost: the loss is not real"
note "$lost datagrams lost"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left
