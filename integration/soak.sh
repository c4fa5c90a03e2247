#!/bin/bash
# A tunnel under load for hours, with a fault every ten seconds; then how it has aged.
#
#   integration/soak.sh [HOURS] [SEED]          default: 0.5
#
#   target (iperf3 at 100 Mbit/s, ping ten times a second) wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go, iperf3 :peer
#
# Prints a line a minute, and in the end what `tools/soak-verdict` finds: the rise of resident memory, descriptors, rekeys,
# the load, the longest stall outside the faults, each with its bound; fails if one is not kept, or if the helper ended. Run by
# hand; needs what 210-faults.sh needs, and iperf3. SOAK_KEEP=DIRECTORY keeps what was written down.
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go nft perl iperf3
HOURS=${1-0.5}
RANDOM=${2-1}
peer_world
on peer ip addr add 10.9.0.22/24 dev p0
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf" -- "PersistentKeepalive = 25"
attach --wait-handshake=10
start server nsenter --net=/run/netns/peer -- iperf3 -s
inside=(nsenter -t "$TARGET" -U -n --preserve-credentials --)
wait_for "iperf3's server" 5 on peer sh -c "ss -Hltn | grep -q :5201"

resident() { sed -n 's/^VmRSS:[ \t]*\([0-9]*\) kB/\1/p' "/proc/$OURS/status"; }
descriptors() { find "/proc/$OURS/fd" -mindepth 1 2>/dev/null | wc -l; }
# sample: one line for the verdict; what is in it stays in `seen`.
sample() {
  local peer
  peer=$("$WG4NETNS" show wg0 dump | awk -v key="$(pub b)" '$1 == key { print $7, $5 }')
  read -ra seen <<<"$EPOCHREALTIME $(resident) $(descriptors) $peer"
  [ ${#seen[@]} = 5 ] || fail "nothing to write down: ${seen[*]}"
  echo "${seen[*]}" >>"$W/samples"
}
load() { start load "${inside[@]}" iperf3 -c 10.6.0.2 -b 100M -t 86000 -i 0 --forceflush; LOAD=$STARTED; }

# Each fault lasts at most three seconds and mends itself.
while_for() { "${@:2}"; stays "the helper" "$1" alive "$OURS"; } # SECONDS CMD…
f_link_down() { while_for 1 ip link set h0 down; ip link set h0 up; ip addr replace fd09::1/64 dev h0 nodad; }
f_unreachable() { while_for 1 ip route add unreachable 10.9.0.2; ip route del unreachable 10.9.0.2; }
f_wall() {
  nft add table inet wall; nft 'add chain inet wall out { type filter hook output priority 0; }'
  while_for 2 nft add rule inet wall out udp dport 51820 drop; nft delete table inet wall
}
f_loss() {
  nft add table inet wall; nft 'add chain inet wall in { type filter hook input priority 0; }'
  while_for 3 nft add rule inet wall in udp sport 51820 numgen random mod 100 '<' 10 drop; nft delete table inet wall
}
f_stop() { kill -STOP "$OURS"; stays "the stopped helper" 1 alive "$OURS"; kill -CONT "$OURS"; }
f_mtu() {
  ip link set h0 mtu 1280; on peer ip link set p0 mtu 1280; stays "the helper" 2 alive "$OURS"
  ip link set h0 mtu 1500; on peer ip link set p0 mtu 1500
}
f_port() { "$WG4NETNS" set wg0 listen-port $((40000 + RANDOM % 1000)); }
f_source() {
  ip addr add 10.9.0.11/24 dev h0; ip addr del 10.9.0.1/24 dev h0; ip addr replace 10.9.0.11/24 dev h0
  stays "the helper" 1 alive "$OURS"
  ip addr add 10.9.0.1/24 dev h0; ip addr del 10.9.0.11/24 dev h0; ip addr replace 10.9.0.1/24 dev h0
}
f_junk() { on peer "$INTEGRATION/faults/junk" "$RANDOM" "$("$WG4NETNS" show wg0 listen-port)" >/dev/null; }
f_clients() { timeout 2 perl -e 'use IO::Socket::UNIX; for (1 .. 200) { my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or last; syswrite($s, "set=1\nlisten_po"); push @held, $s } sleep 1' "$(uapi_dir)/wg0.sock" || true; }
f_peers() { local other; other=$(wg genkey | wg pubkey); for _ in {1..20}; do "$WG4NETNS" set wg0 peer "$other" allowed-ips 10.7.0.0/24; "$WG4NETNS" set wg0 peer "$other" remove; done; }
f_link_inside() { in_target ip link set wg0 down; stays "the helper" 1 alive "$OURS"; in_target ip link set wg0 up; }
f_mtu_inside() { in_target ip link set wg0 mtu $((1280 + RANDOM % 141)); }
faults=(f_link_down f_unreachable f_wall f_loss f_stop f_mtu f_port f_source f_junk f_clients f_peers f_link_inside f_mtu_inside)

load
start pings "${inside[@]}" ping -D -O -i 0.1 10.6.0.2
PINGS=$STARTED
: >"$W/windows"
sample
began=$EPOCHSECONDS; ends=$((began + $(awk -v h="$HOURS" 'BEGIN { printf "%d", h * 3600 }')))
restarts=0 count=0 minute=0
until [ "$EPOCHSECONDS" -ge "$ends" ]; do
  fault=${faults[RANDOM % ${#faults[@]}]}
  from=$EPOCHREALTIME
  "$fault"
  # A second for TCP and the handshake timers to notice.
  printf '%s %s %s\n' "$from" "$(awk -v t="$EPOCHREALTIME" 'BEGIN { printf "%.3f", t + 1 }')" "$fault" >>"$W/windows"
  count=$((count + 1))
  next=$((${from%.*} + 10))
  while [ "$EPOCHSECONDS" -lt "$next" ]; do
    alive "$OURS" || fail "the helper has ended"
    if gone "$LOAD"; then restarts=$((restarts + 1)); load; fi
    sample
    sleep 0.5
  done
  if [ $(((EPOCHSECONDS - began) / 60)) -gt "$minute" ]; then
    minute=$(((EPOCHSECONDS - began) / 60))
    note "minute $minute: $count faults, resident ${seen[1]} kB, ${seen[2]} descriptors, $((seen[3] >> 20)) MiB sent"
  fi
done
# The last fault may hold some still.
settled() { sample; [ "$(descriptors)" = "$(head -n 1 "$W/samples" | cut -d ' ' -f 3)" ]; }
deadline=$((EPOCHSECONDS + 5)); until settled || [ "$EPOCHSECONDS" -ge "$deadline" ]; do sleep 0.5; done

kill -INT "$PINGS"
wait_for "the pings' end" 5 grep -q 'packet loss' "$W/pings.log"
printf '%s s, %s faults, %s MiB sent; the load was started anew %s times; pings: %s\n' "$((EPOCHSECONDS - began))" "$count" \
  "$((seen[3] >> 20))" "$restarts" "$(grep 'packet loss' "$W/pings.log")"
if [ -n "${SOAK_KEEP-}" ]; then mkdir -p "$SOAK_KEEP"; cp "$W/samples" "$W/windows" "$W/pings.log" "$SOAK_KEEP"; fi
"$INTEGRATION/tools/soak-verdict" "$W" || fail "the tunnel has not aged well"
kill "$OURS"; wait_for "the end" 3 gone "$OURS"
assert_nothing_left
