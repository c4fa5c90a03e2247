#!/bin/bash
# Goodput of one TCP stream while strangers flood the port, beside what it is while the same flood goes to another socket
# that somebody drains: the difference is what the flood costs the tunnel, not the machine. Not part of integration/run.
#
#   910-floods.sh [ROUNDS] [SECONDS]          default: 3 rounds of 4 seconds
#
#   iperf3 -R (target) wg0 ── wg4netns, then wireguard-go :host ── h0 ═ p0 ── wireguard-go, iperf3, flood :peer
#
# 50 000 junk datagrams a second, then 20 000 initiations with a valid MAC1, each from another address. Wants a quiet
# machine, and a release build with `cargo build --release --example flood`.
#
# needs: netns tun wg wireguard-go iperf3 jq
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go iperf3 jq
rounds=${1-3} seconds=${2-4}
flood=${FLOOD-$INTEGRATION/../target/release/examples/flood}
[ -x "$flood" ] || skip flood "not built: cargo build --release --example flood"
peer_world
start_wireguard_go_peer
start server nsenter --net=/run/netns/peer -- iperf3 -s
start drain "$flood" drain 9999
# Where cookies for forged sources go: to the flooder's network, which has no use for them.
ip route add 10.64.0.0/10 via 10.9.0.2
for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >"$file" 2>/dev/null || true; done

resident() { sed -n 's/^VmRSS:[ \t]*\([0-9]*\) kB/\1/p' "/proc/$OURS/status"; }
median() { sort -n | awk '{ v[NR] = $1 } END { print int((v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2) }'; }
# goodput KIND RATE PORT: Mbit/s of TCP into the target while the flood goes to that port.
goodput() {
  local flooder
  on peer "$flood" "$1" "$2" $((seconds + 2)) "10.9.0.1:$3" "$(pub a)" >"$W/flooded" & flooder=$!
  in_target iperf3 -c 10.6.0.2 -R -t "$seconds" -O 1 -J 2>&1 | jq '.end.sum_received.bits_per_second / 1e6 | floor'
  wait "$flooder"
  # A flood that is none would leave the goodput alone.
  cat "$W/flooded" >>"$W/rates"
}

begin_wg4netns() { our_conf "$W/wg0.conf" "ListenPort = 51821"; attach; }
begin_wireguard_go() {
  start wg0 env WG_PROCESS_FOREGROUND=1 LOG_LEVEL=error wireguard-go wg0; OURS=$STARTED
  wait_for "its socket" 5 test -S /run/wireguard/wg0.sock
  wg set wg0 private-key "$W/a.key" listen-port 51821 peer "$(pub b)" allowed-ips 10.6.0.0/24 endpoint 10.9.0.2:51820
  ip link set wg0 netns "$TARGET"
  in_target sh -c 'ip addr add 10.6.0.1/24 dev wg0; ip link set wg0 mtu 1420 up'
}

printf '%-14s %-12s %16s %16s %8s %14s %14s\n' engine flood 'drained Mbit/s' 'flooded Mbit/s' ratio 'RSS before kB' 'RSS after kB'
worst=100 grown=0
for engine in wg4netns wireguard_go; do
  start_target
  "begin_$engine"
  wait_for "an answer" 10 in_target ping -c 1 -W 1 10.6.0.2
  in_target iperf3 -c 10.6.0.2 -R -t 2 >/dev/null
  before=$(resident)
  for flooding in junk:50000 initiations:20000; do
    kind=${flooding%:*} rate=${flooding#*:}
    : >"$W/drained"; : >"$W/endured"; : >"$W/rates"
    for ((round = 0; round < rounds; round++)); do
      goodput "$kind" "$rate" 9999 >>"$W/drained"
      goodput "$kind" "$rate" 51821 >>"$W/endured"
    done
    drained=$(median <"$W/drained") endured=$(median <"$W/endured")
    ratio=$((endured * 100 / drained))
    printf '%-14s %-12s %16s %16s %6s %% %14s %14s   (%s | %s)\n' "${engine/_/-}" "$kind" "$drained" "$endured" "$ratio" "$before" "$(resident)" \
      "$(paste -sd ' ' "$W/drained")" "$(paste -sd ' ' "$W/endured")"
    assert_at_most "datagrams that the weakest of these floods lacked (in a hundred)" 5 \
      $((100 - $(sort -n "$W/rates" | head -n 1) * 100 / (rate * (seconds + 2))))
    if [ "$engine" = wg4netns ]; then
      [ "$ratio" -ge "$worst" ] || worst=$ratio
      grown=$(($(resident) - before))
    fi
  done
  kill "$OURS"; wait_for "the end" 3 gone "$OURS"
  kill -9 "$TARGET"
done
assert_at_most "growth of our resident memory (kB)" 4096 "$grown"
[ "$worst" -ge 95 ] || fail "goodput under a flood: $worst % of what it is beside it, wanted 95 %"
