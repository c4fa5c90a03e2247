#!/bin/bash
# How long a handshake takes while strangers flood the responder with initiations whose MAC1 is valid: with ours,
# boringtun-cli and wireguard-go as the responder. The initiator is ours, and for each try a new process with a new key.
# Not part of integration/run.
#
#   911-handshakes-under-flood.sh [TRIES]         default: 7, in about seven minutes
#
#   wg4netns wgp0 :peer ── p0 ═ h0 ── :51821 responder wg0 :host ── h1 ═ s0 ── flood :stranger
#
# 200 initiations a second from one address; 20 000 from 16; 20 000 each from another address; and beside these a second
# handshake of the same initiator, which holds a cookie by then. What is measured is its first ping: it waits for the
# handshake. The second handshake begins when the initiator is given another key, so there it is everything from before
# `wg set` to after `ping`. Wants a quiet machine, and a release build with `cargo build --release --example flood`.
#
# needs: netns tun wg wireguard-go boringtun-cli
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go boringtun-cli
tries=${1-7}
flood=${FLOOD-$INTEGRATION/../target/release/examples/flood}
[ -x "$flood" ] || skip flood "not built: cargo build --release --example flood"
peer_world
veth_pair stranger h1 s0 8
on stranger ip route add 10.9.0.0/24 via 10.8.0.1
# Where answers to forged sources go.
ip route add 10.64.0.0/10 via 10.8.0.2
for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >"$file" 2>/dev/null || true; done

begin_responder() { # COMMAND…
  start responder "$@" wg0; RESPONDER=$STARTED
  wait_for "its socket" 5 test -S /run/wireguard/wg0.sock
  wg set wg0 private-key "$W/a.key" listen-port 51821
  ip addr add 10.6.0.1/24 dev wg0; ip link set wg0 mtu 1420 up
}

end() { # PID INTERFACE
  kill "$1"; wait_for "its end" 5 gone "$1"
  rm -f "/run/wireguard/$2.sock"
}

begin_flood() { # RATE [SOURCES]
  local rate=$1 before; shift
  start flood nsenter --net=/run/netns/stranger -- "$flood" initiations "$rate" 1200 10.9.0.1:51821 "$(pub a)" "$@"; FLOODER=$STARTED
  before=$(received)
  wait_for "a second of the flood" 10 flooded $((before + rate))
}
received() { awk '$1 == "Ip:" && $3 ~ /^[0-9]/ { print $4 }' /proc/net/snmp; }
flooded() { [ "$(received)" -ge "$1" ]; }

# introduce: the initiator's next key, known to the responder in place of the one before.
introduce() {
  local before; before=$(pub b)
  make_key b
  wg set wg0 peer "$before" remove
  wg set wg0 peer "$(pub b)" allowed-ips 10.6.0.2/32
}

# begin_initiator: a new one, with a new key. Leaves in TOOK the milliseconds of its first handshake.
begin_initiator() {
  introduce
  start initiator nsenter --net=/run/netns/peer -- "$WG4NETNS" device --foreground wgp0; INITIATOR=$STARTED
  wait_for "the initiator's socket" 5 test -S /run/wireguard/wgp0.sock
  wg set wgp0 private-key "$W/b.key" peer "$(pub a)" allowed-ips 10.6.0.1/32 endpoint 10.9.0.1:51821
  on peer ip addr add 10.6.0.2/24 dev wgp0; on peer ip link set wgp0 mtu 1420 up
  TOOK=$(on peer ping -c 1 -W 60 10.6.0.1 | sed -n 's/.* time=\([0-9]*\)[0-9.]* ms/\1/p')
  TOOK=${TOOK:-60000}
}

first_handshake() { begin_initiator; end "$INITIATOR" wgp0; }

# second_handshake: the same, of an initiator that was told to come again with a cookie, and did. Fails if none is told so:
# a responder that keeps up with the flood is under no load.
second_handshake() {
  local attempt begin
  for attempt in {1..20}; do
    begin_initiator
    [ "$TOOK" -lt 1000 ] || break
    end "$INITIATOR" wgp0
    [ "$attempt" != 20 ] || return 1
  done
  introduce
  begin=$(now_ms)
  wg set wgp0 private-key "$W/b.key"
  on peer ping -c 1 -W 60 10.6.0.1 >/dev/null
  TOOK=$(($(now_ms) - begin))
  end "$INITIATOR" wgp0
}

# row ENGINE WHAT LIMIT [TRY]: as many tries, their median and the worst; ours keeps the limit, in milliseconds.
row() {
  local engine=$1 what=$2 limit=$3 try
  : >"$W/times"
  for ((try = 0; try < tries; try++)); do
    "${4-first_handshake}" || { printf '%-14s %-36s no cookie is demanded: it keeps up\n' "$engine" "$what"; return; }
    echo "$TOOK" >>"$W/times"
  done
  sort -n -o "$W/times" "$W/times"
  awk -v engine="$engine" -v what="$what" -v limit="$limit" '{ v[NR] = $1; all = all sprintf(" %.3f", $1 / 1000) }
    END { printf "%-14s %-36s %10.3f %10.3f %10.3f  (%s)\n", engine, what, v[int((NR + 1) / 2)] / 1000, v[NR] / 1000, limit / 1000, substr(all, 2) }' "$W/times"
  [ "$engine" != wg4netns ] || awk -v l="$limit" '$1 > l { exit 1 }' "$W/times" || broken+=("$what")
}

broken=()
printf '%-14s %-36s %10s %10s %10s\n' responder flood 'median s' 'worst s' 'limit s'
for engine in wg4netns boringtun-cli wireguard-go; do
  case $engine in
    wg4netns) begin_responder "$WG4NETNS" device --foreground ;;
    boringtun-cli) begin_responder "$CACHE/bin/boringtun-cli" --foreground --disable-drop-privileges ;;
    wireguard-go) begin_responder env WG_PROCESS_FOREGROUND=1 LOG_LEVEL=error wireguard-go ;;
  esac
  row "$engine" "none" 100
  begin_flood 200 1; row "$engine" "200/s, one source" 100; end "$FLOODER" flood
  begin_flood 20000 16; row "$engine" "20 000/s, 16 sources" 1000; end "$FLOODER" flood
  begin_flood 20000; row "$engine" "20 000/s, forged sources" 5600
  row "$engine" "20 000/s, forged, with a cookie" 100 second_handshake; end "$FLOODER" flood
  end "$RESPONDER" wg0
done
[ ${#broken[@]} = 0 ] || fail "longer than the limit with ours: ${broken[*]}"
