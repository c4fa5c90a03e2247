# shellcheck shell=bash
# Group C: the network between us and the peer.

# What a fault that failed half-way may have left broken.
mend_network() {
  local kind
  for kind in unreachable prohibit blackhole; do ip route del "$kind" 10.9.0.2 || true; done
  nft delete table inet wall || true; tc qdisc del dev h0 root || true
  ip link set h0 mtu 1500 up || true; on peer ip link set p0 mtu 1500 || true
  ip addr replace 10.9.0.1/24 dev h0 || true; ip addr del 10.9.0.11/24 dev h0 || true
  ip addr replace fd09::1/64 dev h0 nodad || true; on peer ip addr replace fd09::2/64 dev p0 nodad || true
  umount "$(realpath /etc/hosts)" || true; umount /etc/nsswitch.conf || true; umount /run/nscd || true; umount "$(realpath /etc/resolv.conf)" || true
  ip link del h1 || true; on peer ip addr del 10.20.0.2/32 dev lo || true; ip route del default || true
  ip link set wlan9 down || true; ip link set wlan9 name h0 || true; ip link set h0 up || true
  nft delete table ip twice || true; on peer nft delete table ip twice || true
  echo 0 >/proc/sys/net/ipv6/conf/h0/disable_ipv6 || true
  kill -CONT "$PEER_PID" || true
}
# The addresses that a link loses when it goes down.
h0_again() { ip link set h0 up; ip addr replace 10.9.0.1/24 dev h0; ip addr replace fd09::1/64 dev h0 nodad; carries h0; }
# Once a second and for the whole machine the kernel looks at links that have a carrier again, and as seldom it repeats a question
# for a neighbour that was lost meanwhile. What comes after that is ours.
carries() { # INTERFACE
  wait_for "the link" 5 has_carrier "$1"
  ip neigh flush dev "$1"; on peer ip neigh flush dev p0
}
has_carrier() { ip -o link show "$1" | grep -q 'state UP' && on peer ip -o link show p0 | grep -q 'state UP'; }

covered C1 "endpoints roam, names come late and change, sources vanish" 050-endpoints
covered C1b "both ends roam" 051-roaming
covered C5 "30 % loss each way: handshake and TCP" 073-loss-30
covered C10 "the peer restarts with an empty memory" 074-peer-restart
covered C10b "an outage of five minutes" 076-outage

# --- what the kernel says: injected into system calls, a second long -----------------------------------------------

# call_fails CALL ERRNO TIMES: it fails that often in each of our threads; then all is well within a second. Only when it
# fails no more is strace told to go: it cannot let go of a thread in the middle of a call it has changed
# (`ptrace_syscall_info.op`), and the process does not survive it.
call_fails() {
  fresh
  start strace strace -f -qq -o "$W/strace" -e trace="$1" -e inject="$1:error=$2:when=1..$3" -p "$OURS"
  wait_for "the tracer" 5 sh -c "grep -q '^TracerPid:[^0-9]*[1-9]' /proc/$OURS/status"
  in_target ping -c 20 -i 0.04 -W 0.2 -q 10.6.0.2 >/dev/null || true
  [ "$(injected)" -gt 0 ] || fail "nothing was injected: the fault is not real"
  wait_for "the last of its failures" 10 no_more_injected
  lives
  kill "$STARTED"; wait_for "the tracer's end" 3 gone "$STARTED"
  recovers 1
  tell "$(injected) calls failed"
}
injected() { grep -c INJECTED "$W/strace"; }
no_more_injected() { # for a fifth of a second
  local before end; before=$(injected); end=$(($(now_ms) + 200))
  until [ "$(now_ms)" -ge "$end" ]; do sleep 0.05; done
  [ "$(injected)" = "$before" ]
}
for errno in ENETUNREACH EHOSTUNREACH EPERM EACCES EINVAL EMSGSIZE ENOBUFS ENOMEM ECONNREFUSED EIO ENETDOWN; do
  fault "C4s" "sending fails: $errno" "counted, answers ≤ 1 s after" call_fails sendmsg "$errno" 150
done
# Those have a thread call again at once.
for errno in ECONNREFUSED ENOMEM ENOBUFS EHOSTUNREACH ENETDOWN EINTR; do
  fault "C4r" "receiving fails: $errno" "counted, answers ≤ 1 s after" call_fails recvmmsg "$errno" 3000
done
for errno in EAGAIN EINTR; do
  fault "C4t" "reading the TUN fails: $errno" "counted, answers ≤ 1 s after" call_fails preadv2 "$errno" 3000
done
# After those it waits a tenth of a second.
for errno in EIO ENOMEM; do
  fault "C4t" "reading the TUN fails: $errno" "counted, answers ≤ 1 s after" call_fails preadv2 "$errno" 8
done
for errno in EIO EINVAL ENOBUFS EAGAIN ENOMEM; do
  fault "C4w" "writing the TUN fails: $errno" "counted, answers ≤ 1 s after" call_fails writev "$errno" 150
done

# --- the same, by what the host's network does ---------------------------------------------------------------------

# host_network 'BROKEN' 'MENDED'
host_network() {
  fresh
  bash -c "$1"
  not in_target ping -c 20 -i 0.04 -W 0.2 -q 10.6.0.2 >/dev/null || fail "an answer came: the fault is not real"
  lives
  bash -c "$2"
  carries h0
  recovers 1
}
fault C2a "the host's link is down for a second" "answers ≤ 1 s after" host_link_down
host_link_down() { host_network 'ip link set h0 down' 'ip link set h0 up; ip addr replace fd09::1/64 dev h0 nodad'; }
# A running session keeps to the interface its peer's last datagram came by; so these meet a tunnel that begins.
begins_without_route() { # KIND
  hostile_target
  ip route add "$1" 10.9.0.2
  attach
  not in_target ping -c 5 -i 0.04 -W 0.2 -q 10.6.0.2 >/dev/null || fail "an answer came: the fault is not real"
  lives
  ip route del "$1" 10.9.0.2
  recovers 7
}
fault C2b "the host's route is unreachable when the tunnel begins" "answers with the next try, ≤ 6 s" begins_without_route unreachable
fault C2c "the host's route is prohibited when the tunnel begins" "answers with the next try, ≤ 6 s" begins_without_route prohibit
fault C2d "the host's route is a black hole when the tunnel begins" "answers with the next try, ≤ 6 s" begins_without_route blackhole
fault C2e "a firewall drops what we send" "answers ≤ 1 s after" host_network \
  'nft add table inet wall; nft "add chain inet wall out { type filter hook output priority 0; }"; nft add rule inet wall out udp dport 51820 drop' 'nft delete table inet wall'
fault C2f "a firewall drops what comes" "answers ≤ 1 s after" host_network \
  'nft add table inet wall; nft "add chain inet wall in { type filter hook input priority 0; }"; nft add rule inet wall in udp sport 51820 drop' 'nft delete table inet wall'
fault C2g "the source address is taken away, another is there" "answers ≤ 1 s after" source_removed
source_removed() {
  fresh
  ip addr add 10.9.0.11/24 dev h0; ip addr del 10.9.0.1/24 dev h0; ip addr replace 10.9.0.11/24 dev h0
  recovers 1
  ip addr add 10.9.0.1/24 dev h0; ip addr del 10.9.0.11/24 dev h0; ip addr replace 10.9.0.1/24 dev h0
  recovers 1
}
fault C2h "the link to the peer is slow: 1 Mbit/s, a queue of 20 ms" "lives, answers" slow_link
slow_link() {
  fresh
  tc qdisc add dev h0 root tbf rate 1mbit burst 4kb latency 20ms
  in_target timeout 2 ping -f -s 1300 -q 10.6.0.2 >/dev/null || true
  lives
  tc qdisc del dev h0 root
  recovers 1
}
fault C2i "the default route moves to another link, the first one goes down" "answers ≤ 2 s" other_default
other_default() {
  ip link add h1 type veth peer name p1 netns peer
  ip addr add 10.8.0.1/24 dev h1; ip link set h1 up
  on peer ip addr add 10.8.0.2/24 dev p1; on peer ip link set p1 up; on peer ip addr add 10.20.0.2/32 dev lo
  ip route add default via 10.9.0.2
  hostile_target
  our_conf "$W/far.conf" -- "Endpoint = 10.20.0.2:51820"
  ours wg0 --netns-pid "$TARGET" --config "$W/far.conf" --name wg0
  talks
  ip link set h0 down; ip route replace default via 10.8.0.2
  recovers 2
  ip route del default; h0_again; ip link del h1; on peer ip addr del 10.20.0.2/32 dev lo
}
fault C2j "the host's interface gets another name" "answers ≤ 1 s after" other_name
other_name() {
  fresh
  ip link set h0 down; ip link set h0 name wlan9; ip link set wlan9 up
  carries wlan9
  recovers 1
  ip link set wlan9 down; ip link set wlan9 name h0; h0_again
  recovers 1
}
# only_family 4|6: the host has addresses of one family alone.
only_family() {
  if [ "$1" = 4 ]; then echo 1 >/proc/sys/net/ipv6/conf/h0/disable_ipv6; else ip addr del 10.9.0.1/24 dev h0; fi
  hostile_target
  our_conf "$W/family.conf" -- "Endpoint = $([ "$1" = 4 ] && echo 10.9.0.2 || echo '[fd09::2]'):51820"
  ours wg0 --netns-pid "$TARGET" --config "$W/family.conf" --name wg0
  talks; recovery "$WAITED_MS"
  echo 0 >/proc/sys/net/ipv6/conf/h0/disable_ipv6; h0_again
}
fault C12a "the host has IPv4 only" "works" only_family 4
fault C12b "the host has IPv6 only" "works" only_family 6
fault C3 "the endpoint's name does not resolve, then does" "starts all the same, answers ≤ 35 s" late_name
# The one who rightly asks the host's resolvers is our broker, for the endpoint: their canary is put aside while it does.
no_nscd() { mount -t tmpfs none /run/nscd; }
late_name() {
  hostile_target
  no_nscd
  # A resolver that is down is one that refuses; the name is then put where it is asked first.
  cp /etc/hosts "$W/hosts"; mount --bind "$W/hosts" "$(realpath /etc/hosts)"
  our_conf "$W/named.conf" -- "Endpoint = far.test:51820" "PersistentKeepalive = 1"
  ours wg0 --netns-pid "$TARGET" --config "$W/named.conf" --name wg0
  not answer >/dev/null 2>&1 || fail "an answer without a name"
  echo '10.9.0.2 far.test' >>"$W/hosts"
  recovers 35
  umount "$(realpath /etc/hosts)" /run/nscd
}

# A name server on loopback that answers as told: see faults/names. The host's files are replaced for a while.
names() { # ANSWER
  no_nscd
  echo "$1" >"$W/answer"; rm -f "$W/wg0.log"
  start names "$FAULTS/names" 127.0.0.9 "$W/answer"
  wait_for "the name server" 5 grep -q answering "$W/names.log"
  echo 'hosts: dns' >"$W/nsswitch"; echo 'nameserver 127.0.0.9' >"$W/resolv"
  mount --bind "$W/nsswitch" /etc/nsswitch.conf; mount --bind "$W/resolv" "$(realpath /etc/resolv.conf)"
}
no_names() { umount /etc/nsswitch.conf "$(realpath /etc/resolv.conf)" /run/nscd; }
# named ANSWER 'SAID': the tunnel starts all the same, and says that; when the name gets its address it works.
named() {
  hostile_target
  names "$1"
  our_conf "$W/named.conf" -- "Endpoint = far.test:51820" "PersistentKeepalive = 1"
  ours wg0 --netns-pid "$TARGET" --config "$W/named.conf" --name wg0
  wait_for "a word about it" 15 grep -qE "$2" "$W/wg0.log"
  not answer >/dev/null 2>&1 || fail "an answer without a name"
  echo 10.9.0.2 >"$W/answer"
  recovers 35
  no_names
}
fault C3a "the endpoint's name does not exist (NXDOMAIN), then does" "starts, says so, answers ≤ 35 s" named nxdomain 'cannot resolve .*far.test'
fault C3b "the name server fails (SERVFAIL), then does not" "starts, says so, answers ≤ 35 s" named servfail 'cannot resolve .*far.test'
long_fault C3c "the name is said to be on loopback, then elsewhere" "warns, answers ≤ 35 s" named 127.0.0.1 'this machine|loopback'
# named_well ANSWER SECONDS: the tunnel is ready at once and works when the answer has come.
named_well() {
  hostile_target
  names "$1"
  our_conf "$W/named.conf" -- "Endpoint = far.test:51820" "PersistentKeepalive = 1"
  local begin; begin=$(now_ms)
  ours wg0 --netns-pid "$TARGET" --config "$W/named.conf" --name wg0
  [ $(($(now_ms) - begin)) -le 1500 ] || fail "a slow answer kept the tunnel from starting"
  recovers "$2"
  no_names
}
fault C3d "the name has an IPv6 address only" "works" named_well fd09::2 10
fault C3e "the name server takes three seconds" "ready at once, answers ≤ 10 s" named_well 'slow 10.9.0.2' 10

# --- the wire: a seeded relay between us and the peer --------------------------------------------------------------

# wire FAULT…: through the relay with these faults a handshake comes about and 200 kB come through TCP whole.
wire() {
  hostile_target
  start relay nsenter --net=/run/netns/peer -- "$FAULTS/relay" "$SEED" 10.9.0.2:51999 "$@"
  wait_for "the relay" 5 grep -q relaying "$W/relay.log"
  our_conf "$W/relayed.conf" -- "Endpoint = 10.9.0.2:51999"
  ours wg0 --netns-pid "$TARGET" --config "$W/relayed.conf" --name wg0
  wait_for "an answer" 30 in_target ping -c 1 -W 1 10.6.0.2; recovery "$WAITED_MS"
  head -c 200000 /dev/urandom >"$W/sent"; rm -f "$W/received"
  start sink nsenter --net=/run/netns/peer -- socat -u TCP-LISTEN:7000,bind=10.6.0.2,reuseaddr "OPEN:$W/received,creat,trunc"
  local sink=$STARTED
  wait_for "the sink" 5 on peer sh -c 'ss -Hltn | grep -q :7000'
  in_target timeout 60 socat -u "OPEN:$W/sent" TCP:10.6.0.2:7000,connect-timeout=30 || fail "TCP did not complete"
  wait_for "the sink to have all" 60 gone "$sink"
  cmp "$W/sent" "$W/received" || fail "what arrived is not what was sent"
  connections_close
}
fault C5a "a wire that loses 1 %" "TCP whole" wire loss=1
fault C5b "a wire that loses 5 %" "TCP whole" wire loss=5
fault C5c "a wire that delivers 10 % twice" "TCP whole" wire dup=10
fault C5d "a wire that reorders 20 %" "TCP whole" wire reorder=20
fault C5e "a wire that flips a bit in 2 %" "TCP whole" wire corrupt=2
fault C5f "a wire of 100 ms each way" "TCP whole" wire delay=100
fault C5g "a wire that loses bursts of 20" "TCP whole" wire burst=20
fault C5h "a wire that does all of it" "TCP whole" wire loss=1 dup=5 reorder=10 corrupt=1 delay=10
fault C5i "the kernels deliver every datagram twice (nft dup)" "no packet comes twice" twice
twice() {
  hostile_target
  nft -f - <<<'table ip twice { chain out { type filter hook output priority 0; udp dport 51820 dup to 10.9.0.2 device "h0"; }; }'
  on peer nft -f - <<<'table ip twice { chain out { type filter hook output priority 0; udp sport 51820 dup to 10.9.0.1 device "p0"; }; }'
  attach
  # wireguard-go's workers sometimes take both copies of an initiation at once, answer both, and forget the session of the
  # first; we begin anew after 15 s without an answer.
  wait_for "an answer" 30 answer
  local said; said=$(in_target ping -c 50 -i 0.01 -W 1 10.6.0.2) || fail "packets are lost"
  assert_lacks "answers" "DUP!" "$said"; assert_has "answers" " 0% packet loss" "$said"
  on peer nft list table ip twice >/dev/null; nft delete table ip twice; on peer nft delete table ip twice
}
fault C6a "a black hole for datagrams over 1320 bytes, an MTU to match" "full packets pass" black_hole
black_hole() {
  hostile_target
  start relay nsenter --net=/run/netns/peer -- "$FAULTS/relay" "$SEED" 10.9.0.2:51999 cut=1320
  wait_for "the relay" 5 grep -q relaying "$W/relay.log"
  our_conf "$W/relayed.conf" "MTU = 1280" -- "Endpoint = 10.9.0.2:51999"
  ours wg0 --netns-pid "$TARGET" --config "$W/relayed.conf" --name wg0
  talks
  in_target ping -c 3 -i 0.05 -s 1252 -W 1 10.6.0.2 >/dev/null || fail "packets of the MTU are lost"
}
# narrow MTU BYTES: the way out is narrower than a datagram of a full packet; it is fragmented, and goodput does not collapse.
narrow() {
  fresh
  ip link set h0 mtu "$1"; on peer ip link set p0 mtu "$1"
  in_target ping -c 3 -i 0.05 -s 1392 -W 1 10.6.0.2 >/dev/null || fail "full packets are lost"
  start sink nsenter --net=/run/netns/peer -- socat -u TCP-LISTEN:7000,bind=10.6.0.2,reuseaddr "OPEN:/dev/null"
  local sink=$STARTED begin
  wait_for "the sink" 5 on peer sh -c 'ss -Hltn | grep -q :7000'
  begin=$(now_ms)
  in_target sh -c "head -c $2 /dev/zero | timeout 20 socat -u - TCP:10.6.0.2:7000" || fail "TCP did not complete"
  wait_for "the sink to have all" 20 gone "$sink"
  tell "$2 bytes in $(($(now_ms) - begin)) ms"
  [ $(($(now_ms) - begin)) -le 8000 ] || fail "$2 bytes took $(($(now_ms) - begin)) ms"
  connections_close
  ip link set h0 mtu 1500; on peer ip link set p0 mtu 1500
  ip addr replace fd09::1/64 dev h0 nodad; on peer ip addr replace fd09::2/64 dev p0 nodad
  recovers 1
}
fault C6b "the outer MTU is 1280 of a sudden" "fragments, does not collapse" narrow 1280 3000000
fault C6c "the outer MTU is 576 of a sudden" "fragments, does not collapse" narrow 576 3000000
fault C6d "the outer MTU is 68 of a sudden" "fragments, does not collapse" narrow 68 300000

# --- hostile datagrams ---------------------------------------------------------------------------------------------

fault C7 "every malformed datagram: all lengths, types, truncations" "silence, memory ≤ 1 MB more" malformed
malformed() {
  fresh
  local port before sent back; port=$("$WG4NETNS" show wg0 listen-port); before=$(resident)
  read -r sent back <<<"$(on peer "$FAULTS/junk" "$SEED" "$port")"
  assert_eq "answers" 0 "$back"
  lives
  [ $(($(resident) - before)) -le 1024 ] || fail "resident memory grew by $(($(resident) - before)) kB"
  recovers 1
  tell "$sent datagrams, $back answers"
}
fault C9 "a recorded handshake and its data, replayed from elsewhere" "nothing moves, nothing counts" replayed
replayed() {
  hostile_target
  start record "$FAULTS/capture" "$W/record.pcap" h0
  local record=$STARTED shown sent back before
  wait_for "the recorder" 5 grep -q listening "$W/record.log"
  attach; talks
  in_target ping -c 5 -i 0.02 -s 500 -W 1 -q 10.6.0.2 >/dev/null
  kill "$record"; wait_for "the recorder's end" 3 gone "$record"
  # What it sends counts, too.
  kill "$BABBLE"; wait_for "the hostile program's end" 3 gone "$BABBLE"; BABBLE=''
  shown=$("$WG4NETNS" show wg0 endpoints)
  received() { "$WG4NETNS" show wg0 transfer | cut -f 2; }
  before=$(received)
  read -r sent back <<<"$(on peer "$FAULTS/replay" "$W/record.pcap" "$("$WG4NETNS" show wg0 listen-port)")"
  [ "$sent" -ge 5 ] || fail "only $sent datagrams were recorded"
  assert_eq "answers to a replay" 0 "$back"
  assert_eq "the endpoint" "$shown" "$("$WG4NETNS" show wg0 endpoints)"
  [ $(($(received) - before)) -le 1000 ] || fail "$(($(received) - before)) replayed bytes counted"
  recovers 1
  tell "$sent datagrams, $back answers"
}
fault C11 "peers come and go while there is traffic" "no packet lost" peers_churn
peers_churn() {
  fresh
  in_target ping -i 0.02 -c 100 -W 1 -q 10.6.0.2 >"$W/ping.out" & local pings=$!
  local n other; other=$(wg genkey | wg pubkey)
  for ((n = 0; n < $(how_many 40 400); n++)); do
    "$WG4NETNS" set wg0 peer "$other" allowed-ips "10.7.$((n % 250)).0/24" persistent-keepalive 1
    "$WG4NETNS" set wg0 peer "$other" remove
  done
  wait "$pings" || fail "the pings failed"
  assert_has "the pings" " 0% packet loss" "$(cat "$W/ping.out")"
}
fault C12 "the listen port is in use" "exit 6, names it, target untouched" port_in_use
port_in_use() {
  hostile_target
  start holder socat -u UDP4-RECV:51888 /dev/null
  wait_for "the port to be taken" 5 sh -c "ss -Hlun | grep -q :51888"
  our_conf "$W/port.conf" "ListenPort = 51888"
  refuses 6 51888 "$WG4NETNS" --netns-pid "$TARGET" --config "$W/port.conf"
  nothing_made "a port in use"
}
fault C13b "the listen port is changed to one that is in use" "refused; answers by the old one" port_refused
port_refused() {
  fresh
  start holder socat -u UDP4-RECV:51888 /dev/null
  wait_for "the port to be taken" 5 sh -c "ss -Hlun | grep -q :51888"
  local port; port=$("$WG4NETNS" show wg0 listen-port)
  capture "$WG4NETNS" set wg0 listen-port 51888
  [ "$STATUS" != 0 ] || { said; fail "it was not refused"; }
  assert_eq "the port" "$port" "$("$WG4NETNS" show wg0 listen-port)"
  recovers 1
}
fault C13 "the listen port is changed under traffic" "answers ≤ 1 s" port_changed
port_changed() {
  fresh
  "$WG4NETNS" set wg0 listen-port 51877
  recovers 1
  assert_eq "the port" 51877 "$("$WG4NETNS" show wg0 listen-port)"
}
fault C14 "the peer is stopped for two seconds (SIGSTOP), then continued" "answers ≤ 1 s after" peer_stopped
peer_stopped() {
  fresh
  kill -STOP "$PEER_PID"
  not in_target ping -c 20 -i 0.1 -W 0.2 -q 10.6.0.2 >/dev/null || fail "an answer came: it is not stopped"
  lives
  kill -CONT "$PEER_PID"
  recovers 1
}
