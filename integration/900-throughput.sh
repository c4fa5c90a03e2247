#!/bin/bash
# Throughput, CPU, latency and memory of several implementations, alternating in one go. Not part of integration/run.
#
#   one end: iperf3 ── wg0 (MTU 1420) ── IMPL ── veth, MTU 1500 ── IMPL ── wg0 ── iperf3 :other end
#
#   900-throughput.sh [-r ROUNDS] [-t SECONDS] [-o PREFIX] [-m OUTER-MTU] [-p PEERS] [-k TESTS] [NAME=COMMAND…]
#   900-throughput.sh -d FILE.json [-o PREFIX]     draws the plot of an earlier run again
#
# COMMAND is started in each end's network namespace with the interface's name as last argument, and stays in the
# foreground or not; then `wg` configures it over /var/run/wireguard/NAME.sock. Both ends run the same implementation.
# Without any: wg4netns (the binary found as by the other scenarios) and what tools/bench-peers has fetched.
# TESTS is a regular expression: only the rows that it matches are measured (`-k ping`).
# Writes PREFIX.json and PREFIX.svg (default integration/.out/throughput) and prints a table: medians over the rounds,
# and ratios to the first implementation. The plot that the README shows is docs/throughput.svg.
#
# Everything runs on one machine: both daemons, iperf3's client and its server share the processors. CPU-seconds (both
# daemons, user and system) suffer less from other work on the machine than Gbit/s do. UDP is sent as fast as iperf3
# can; what counts is what its server receives, and both have 4 MiB of socket buffer, or the figure would be the
# server's own losses. Round trips are medians.
#
# needs: netns tun wg iperf3 jq
. "$(dirname "$0")/lib.sh"
need netns tun wg iperf3 jq
rounds=3 seconds=4 prefix=$INTEGRATION/.out/throughput outer_mtu=1500 peers=10000 draw=- tests=.
if [ -z "${BENCH_ARGS_READ-}" ]; then
  while getopts r:t:o:m:p:d:k: option; do
    case $option in
      r) rounds=$OPTARG ;; t) seconds=$OPTARG ;; o) prefix=$OPTARG ;; m) outer_mtu=$OPTARG ;; p) peers=$OPTARG ;; k) tests=${OPTARG// /.} ;;
      d) draw=$(realpath "$OPTARG") ;; *) exit 2 ;;
    esac
  done
  shift $((OPTIND - 1))
  mkdir -p "$(dirname "$prefix")"; prefix=$(realpath "$prefix")
  export BENCH_ARGS_READ="$rounds $seconds $outer_mtu $peers $tests $draw $prefix"
fi
read -r rounds seconds outer_mtu peers tests draw prefix <<<"$BENCH_ARGS_READ"
# draw FILE.json: PREFIX.svg, bars, one group a test; plain SVG, no fonts or scripts needed.
draw() {
  jq -r '
    ["#2a6f97", "#a9a9a9", "#c8b89a", "#b5838d", "#84a98c", "#6d6875"] as $colours
    | { "TCP 1 up CPU-s/Gbit": "Processor seconds per Gbit, TCP, both ends together (less is better)",
        "UDP 64 CPU-s/Mpacket": "Processor seconds per million 64-byte packets, both ends together (less is better)",
        "TCP 1 up Gbit/s": "TCP, one stream (Gbit/s, more is better)",
        "TCP both ways Gbit/s": "TCP, both directions at once (Gbit/s, more is better)",
        "outer MTU 1280, TCP 1 up Gbit/s": "TCP where every outer packet is fragmented (Gbit/s, more is better)",
        "resident MB": "Memory under load (MB, less is better)" } as $titles
    | .names as $names | .medians as $medians
    | [$titles | to_entries[] | select($medians[.key])] as $groups
    | ($names | length) as $n | ($n * 16 + 28) as $step | (($groups | length) * $step + 44) as $height
    | def text($x; $y; $s; $more): "<text x=\"\($x)\" y=\"\($y)\" font-family=\"sans-serif\" font-size=\"12\" \($more)>\($s)</text>";
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 \($height)\" width=\"720\" height=\"\($height)\">",
    "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>",
    text(10; 22; "Medians of \(.rounds) rounds; one machine with \(.cpus) processors runs both ends and iperf3"; "fill=\"#555\""),
    ($groups | to_entries[] | .key as $g | .value as $group | $medians[$group.key] as $values
      | ([$values[] | numbers] | max) as $max | (44 + $g * $step) as $top
      | text(10; $top + 6; $group.value; "font-weight=\"bold\""),
        ($names | to_entries[] | .key as $i | .value as $name | $values[$name] as $v | ($top + 12 + $i * 16) as $y
          | (if $v and $max > 0 then $v / $max * 440 else 0 end | . * 10 | round / 10) as $width
          | text(10; $y + 11; $name; ""),
            "<rect x=\"160\" y=\"\($y)\" width=\"\($width)\" height=\"13\" fill=\"\($colours[$i % 6])\"/>",
            text(166 + $width; $y + 11; (if $v then ($v * 1000 | round / 1000 | tostring) else "failed" end); ""))),
    "</svg>"' "$1" >"$prefix.svg"
}
if [ "$draw" != - ]; then draw "$draw"; note "written: $prefix.svg"; exit; fi

in_world "$@"

names=() commands=()
add() { names+=("$1"); commands+=("$2"); }
if [ $# -gt 0 ]; then
  for pair; do add "${pair%%=*}" "${pair#*=}"; done
else
  add wg4netns "$WG4NETNS device --foreground"
  [ ! -x "$CACHE/bin/wireguard-go-20231211" ] || add wireguard-go "env WG_PROCESS_FOREGROUND=1 $CACHE/bin/wireguard-go-20231211"
  [ ! -x "$CACHE/bin/boringtun-cli" ] || add boringtun "$CACHE/bin/boringtun-cli --foreground --disable-drop-privileges"
  [ ! -x "$CACHE/bin/gotatun" ] || add gotatun "$CACHE/bin/gotatun --foreground --disable-drop-privileges"
fi
[ ${#names[@]} -gt 0 ] || fail "nothing to measure"

make_key a; make_key b
# Two ends; neither is the world's own namespace, so that nothing else is in them.
ip netns add left; ip netns add right
ip link add l0 netns left type veth peer name r0 netns right
on left ip addr add 10.9.0.1/24 dev l0; on right ip addr add 10.9.0.2/24 dev r0
for end in left right; do on $end ip link set lo up; done
set_outer_mtu() { on left ip link set l0 mtu "$1" up; on right ip link set r0 mtu "$1" up; }
set_outer_mtu "$outer_mtu"

ticks=$(getconf CLK_TCK)
# cpu PID…: seconds of user and system time, threads included.
cpu() { local pid; for pid; do sed 's/.*) //' "/proc/$pid/stat"; done | awk -v t="$ticks" '{ s += $12 + $13 } END { printf "%.2f", s / t }'; }
resident() { local pid; for pid; do awk '/^VmRSS/ { print $2 / 1024 }' "/proc/$pid/status"; done | sort -n | tail -n 1; }
daemons_of() { # interfaces' processes: whoever holds the TUN
  local fd; for fd in /proc/[0-9]*/fd/*; do
    if [ "$(readlink "$fd" 2>/dev/null)" = /dev/net/tun ]; then cut -d/ -f3 <<<"$fd"; fi
  done | sort -un
}

begin_impl() { # INDEX
  local end interface
  mkdir -p /run/wireguard
  for end in left right; do
    interface=wg${end:0:1}
    # shellcheck disable=SC2086 # a command line
    start "$end" nsenter --net=/run/netns/$end -- ${commands[$1]} $interface
    wait_for "the socket of ${names[$1]}" 10 test -S "/run/wireguard/$interface.sock"
  done
  wg set wgl private-key "$W/a.key" listen-port 51820 peer "$(pub b)" allowed-ips 10.6.0.2/32 endpoint 10.9.0.2:51820
  wg set wgr private-key "$W/b.key" listen-port 51820 peer "$(pub a)" allowed-ips 10.6.0.1/32 endpoint 10.9.0.1:51820
  on left ip addr add 10.6.0.1/24 dev wgl; on left ip link set wgl mtu 1420 up
  on right ip addr add 10.6.0.2/24 dev wgr; on right ip link set wgr mtu 1420 up
  start iperf nsenter --net=/run/netns/right -- iperf3 -s
  IPERF=$STARTED
  wait_for "an answer through ${names[$1]}" 15 on left ping -c 1 -W 1 10.6.0.2
  wait_for "iperf3" 5 on right sh -c 'ss -Hltn | grep -q :5201'
  mapfile -t DAEMONS < <(daemons_of)
}

end_impl() {
  kill "$IPERF" "${DAEMONS[@]}" 2>/dev/null || true
  local pid; for pid in "${DAEMONS[@]}"; do
    for _ in {1..200}; do alive "$pid" || break; sleep 0.01; done; kill -9 "$pid" 2>/dev/null || true
  done
  wait_for "the interfaces to go" 10 no_links
  rm -f /run/wireguard/*.sock
}
no_links() { ! on left ip link show wgl 2>/dev/null && ! on right ip link show wgr 2>/dev/null; }

# put NAME TEST VALUE: one figure.
put() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$W/figures"; }

# per AMOUNT BEFORE AFTER: what one of the amount took; nothing if nothing came through.
per() { awk -v n="$1" -v b="$2" -v a="$3" 'BEGIN { if (n > 0) print (a - b) / n }'; }

wanted() { [[ $1 =~ $tests ]]; } # TEST

# tcp NAME TEST IPERF-ARG…: Gbit/s delivered, and CPU-seconds of both daemons per Gbit.
tcp() {
  local name=$1 test=$2 before after out gbit; shift 2
  wanted "$test" || return 0
  before=$(cpu "${DAEMONS[@]}")
  out=$(on left iperf3 -J -t "$seconds" -c 10.6.0.2 "$@") || { note "$name: $test failed"; return; }
  after=$(cpu "${DAEMONS[@]}")
  gbit=$(jq '([.end.sum_received.bytes, (.end.sum_received_bidir_reverse.bytes // 0)] | add) * 8 / 1e9' <<<"$out")
  put "$name" "$test Gbit/s" "$(jq -n "$gbit / $seconds")"
  put "$name" "$test CPU-s/Gbit" "$(per "$gbit" "$before" "$after")"
}

udp() { # NAME TEST LENGTH
  local out before after thousands
  wanted "$2" || return 0
  before=$(cpu "${DAEMONS[@]}")
  out=$(on left iperf3 -J -t "$seconds" -u -b 0 -w 4M -l "$3" -c 10.6.0.2) || { note "$1: $2 failed"; return; }
  after=$(cpu "${DAEMONS[@]}")
  thousands=$(jq '(.end.sum.packets - .end.sum.lost_packets) / 1000' <<<"$out")
  put "$1" "$2 kpackets/s" "$(jq -n "$thousands / $seconds")"
  put "$1" "$2 CPU-s/Mpacket" "$(per "$(jq -n "$thousands / 1000")" "$before" "$after")"
}

median() { sort -n | awk '{ v[NR] = $1 } END { if (NR) print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }
round_trip() { # NAME TEST
  wanted "$2" || return 0
  put "$1" "$2 ms" "$(on left ping -c 200 -i 0.005 10.6.0.2 | sed -n 's/.*time=\([0-9.]*\) ms.*/\1/p' | median)"
}

ping_under_load() { # NAME TEST
  wanted "$2" || return 0
  start load nsenter --net=/run/netns/left -- iperf3 -t 2 -c 10.6.0.2
  sleep 0.5
  round_trip "$1" "$2"
  wait_for "the load's end" 10 gone "$STARTED"
}

# A configuration of that many peers, each with an address of its own and a key whose secret nobody knows.
many_peers_file() {
  printf '[Interface]\nPrivateKey = %s\n' "$(key a)"
  head -c $((peers * 33)) /dev/urandom | base64 -w 44 | awk '{
    i = NR - 1
    printf "[Peer]\nPublicKey = %sA=\nAllowedIPs = 10.%d.%d.%d/32\n", substr($0, 1, 42), 100 + int(i / 65536), int(i / 256) % 256, i % 256 }'
}

elapsed_ms() { local begin; begin=$(now_ms); "$@" >"$W/elapsed.out" 2>&1 || return; echo $(($(now_ms) - begin)); }
new_daemons() { daemons_of | grep -vxF "$(printf '%s\n' "${DAEMONS[@]}")"; }

# many_peers NAME INDEX: setconf, show and memory with that many peers, over a device of its own.
many_peers() {
  local pid before
  # shellcheck disable=SC2086 # a command line
  start many nsenter --net=/run/netns/left -- ${commands[$2]} wgm
  wait_for "the socket of $1" 10 test -S /run/wireguard/wgm.sock
  on left ip link set wgm up
  pid=$(new_daemons)
  put "$1" "$peers peers: setconf ms" "$(elapsed_ms wg setconf wgm "$W/many.conf")"
  put "$1" "$peers peers: show ms" "$(for _ in 1 2 3 4 5; do elapsed_ms wg show wgm dump; done | median)"
  put "$1" "$peers peers: resident MB" "$(resident "$pid")"
  before=$(cpu "$pid"); sleep 2
  put "$1" "$peers peers: idle CPU %" "$(awk -v a="$(cpu "$pid")" -v b="$before" 'BEGIN { print (a - b) / 2 * 100 }')"
  kill "$pid"
  wait_for "the interface to go" 10 not on left ip link show wgm
  rm -f /run/wireguard/wgm.sock
}
wanted "$peers peers" || peers=0
[ "$peers" = 0 ] || many_peers_file >"$W/many.conf"

for ((round = 1; round <= rounds; round++)); do
  for index in "${!names[@]}"; do
    name=${names[$index]}
    step "round $round: $name"
    begin_impl "$index"
    round_trip "$name" "ping idle"
    tcp "$name" "TCP 1 up"
    tcp "$name" "TCP 1 down" -R
    tcp "$name" "TCP 4 up" -P 4
    tcp "$name" "TCP 4 down" -P 4 -R
    tcp "$name" "TCP both ways" --bidir
    udp "$name" "UDP 1300" 1300
    udp "$name" "UDP 64" 64
    ping_under_load "$name" "ping under TCP"
    ! wanted "resident MB" || put "$name" "resident MB" "$(resident "${DAEMONS[@]}")"
    set_outer_mtu 1280
    tcp "$name" "outer MTU 1280, TCP 1 up"
    set_outer_mtu "$outer_mtu"
    # Once is enough: it takes some of them ten seconds, and memory is the same every time.
    if [ "$round" = 1 ] && [ "$peers" != 0 ]; then many_peers "$name" "$index"; fi
    end_impl
  done
done

# --- the table, the JSON, the plot ---------------------------------------------------------------------------------
jq -R -s --arg names "$(printf '%s\n' "${names[@]}")" --arg rounds "$rounds" --arg seconds "$seconds" --arg mtu "$outer_mtu" --arg kernel "$(uname -r)" --arg cpus "$(nproc)" '
  def median: sort | if length == 0 then null elif length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
  [split("\n")[] | select(length > 0) | split("\t") | { name: .[0], test: .[1], value: (.[2] | tonumber? // null) }]
  | { names: ($names | split("\n") | map(select(length > 0))), rounds: ($rounds | tonumber), seconds: ($seconds | tonumber), outer_mtu: ($mtu | tonumber), kernel: $kernel, cpus: ($cpus | tonumber),
      medians: (group_by(.test) | map({ key: .[0].test, value: (group_by(.name) | map({ key: .[0].name, value: ([.[].value | numbers] | median) }) | from_entries) }) | from_entries),
      figures: . }' "$W/figures" >"$prefix.json"

print_table() {
  local test name value first
  printf '%-34s' "median of $rounds"; printf '%20s' "${names[@]}"; echo
  cut -f2 "$W/figures" | awk '!seen[$0]++' | while IFS= read -r test; do
    printf '%-34s' "$test"; first=
    for name in "${names[@]}"; do
      value=$(jq -r --arg t "$test" --arg n "$name" '.medians[$t][$n] // "-"' "$prefix.json")
      if [ "$value" = - ]; then printf '%20s' -; continue; fi
      if [ -z "$first" ]; then first=$value; printf '%20.3f' "$value"
      else printf '%20s' "$(awk -v a="$value" -v b="$first" 'BEGIN { printf "%.3f (%.2f ×)", a, b ? a / b : 0 }')"; fi
    done
    echo
  done
}
print_table

draw "$prefix.json"
note "written: $prefix.json $prefix.svg"
