#!/bin/bash
# The filters of system calls against every way of living: whatever one of our threads is refused under its filter, in any
# mode, is one of the few calls that are known to be tried in vain; and nothing is killed for a call. With this binary:
# the allow-lists differ between C libraries (tests/netns/calls.rs compares those of the one that it is built with).
# Under each filter there is a landlock rule set, which the kernel has taken.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer, a name server and a page
#
# needs: netns tun wg wireguard-go socat dnsmasq strace perl curl iperf3 gcc
# timeout: 180
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go socat dnsmasq strace perl curl iperf3 gcc
peer_world
start_wireguard_go_peer
far_services
start iperf on peer iperf3 -s
wait_for "iperf3" 5 on peer sh -c 'ss -Hltn | grep -q :5201'
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
trace() { strace -f -qq -e abbrev='!seccomp' ${INJECT:+-e "inject=$INJECT"} -o "$W/trace.$1" "${@:2}"; }
# stops: each of our processes for a moment; what a thread waited in then goes on as restart_syscall(2).
stops() {
  local pid stopped
  stopped=$(our_processes)
  [ -n "$stopped" ] || fail "nobody to stop"
  for pid in $stopped; do kill -STOP "$pid"; done
  for pid in $stopped; do wait_for "process $pid to stop" 5 grep -q '^State:.[tT]' "/proc/$pid/status"; done
  for pid in $stopped; do kill -CONT "$pid"; done
}

# judge WHAT: of each thread, what comes behind its second filter (or that of whoever started it).
judge() {
  local refused TRACE=$W/trace.$1
  "$INTEGRATION/tools/role-calls" "$TRACE" >"$W/calls"
  refused=$(sed -n 's/ refused / /p' "$W/calls")
  assert_eq "$1: calls without landlock" "" "$(sed -n '/ unruled /p' "$W/calls")"
  grep -q 'SECCOMP_SET_MODE_FILTER' "$TRACE" || fail "$1: no filter was installed: this proves nothing"
  ! grep -q 'killed by SIGSYS' "$TRACE" || fail "$1: killed for a call: $(grep -B 1 'killed by SIGSYS' "$TRACE" | head -n 2)"
  note "$1: refused: ${refused:-nothing}"
  # Tried in vain: threads of the broker (an older call starts them, too), pidfds of helpers that are to be killed, the
  # signal stack at the end.
  refused=$(sed -E '/ (clone3|pidfd_open|sigaltstack)$/d' <<<"$refused")
  assert_eq "$1: calls that a thread needs and does not have" "" "$refused"
}

# life NAME ARG…: a tunnel that is used, changed, and ended.
life() {
  local name=$1 port; shift
  start_target
  rm -f "$W/wg0.ready"
  start wg0 trace "$name" "$WG4NETNS" -v --netns-pid "$TARGET" --config "$W/wg0.conf" --name wg0 --ready-fd 9 "$@" 9>"$W/wg0.ready"
  OURS=$STARTED
  wait_for "ready" 20 ready_or_dead wg0 "$OURS"; [ -s "$W/wg0.ready" ] || fail "it did not begin"
  in_target ping -c 3 -i 0.2 -W 5 10.6.0.2 >/dev/null || fail "no answer"
  in_target ping -c 1 -W 5 fd06::2 >/dev/null || fail "no answer by IPv6"
  in_target curl -s -m 10 http://10.6.0.2/ | grep -q 'you are' || fail "no page"
  "$WG4NETNS" set wg0 listen-port 51888
  "$WG4NETNS" set wg0 peer "$(pub b)" persistent-keepalive 1 endpoint '[fd09::2]:51820'
  in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer by the new endpoint"
  "$WG4NETNS" syncconf wg0 "$W/wg0.conf"; "$WG4NETNS" switch wg0 "$W/wg0.conf"
  "$WG4NETNS" status wg0 --json >/dev/null; wg show wg0 >/dev/null 2>&1 || "$WG4NETNS" show wg0 >/dev/null
  in_target sh -c 'ip link set wg0 mtu 1300; ip link set wg0 down; ip link set wg0 up'
  # Sending that fails, and says so.
  ip link set h0 down; in_target ping -c 3 -i 0.2 -W 0.2 10.6.0.2 >/dev/null 2>&1 || true
  ip link set h0 up; ip addr replace fd09::1/64 dev h0 nodad
  if [ -n "${PORT-}" ]; then
    start inside nsenter -t "$TARGET" -U -n --preserve-credentials -- socat TCP-LISTEN:8080,fork,reuseaddr SYSTEM:'echo here'
    wait_for "the server inside" 5 in_target sh -c 'ss -Hltn | grep -q 8080'
    wait_for "the published port" 5 sh -c "timeout 2 socat -u TCP4:127.0.0.1:8080 - | grep -q here"
  fi
  if [ -n "${BUSY-}" ]; then
    # Each data thread has a direction then; otherwise one carries both. The server may still be at its last client.
    wait_for "much to be sent" 30 in_target timeout 10 iperf3 -t 1 -c 10.6.0.2
    wait_for "much to be received" 30 in_target timeout 10 iperf3 -t 1 -R -c 10.6.0.2
  fi
  stops
  in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer after a stop"
  port=$("$WG4NETNS" show wg0 listen-port); [ "$port" -gt 0 ] || fail "no port"
  "$WG4NETNS" stop wg0
  wait_for "the end" 10 gone "$OURS"
  kill "$TARGET"
  judge "$name"
}

step "attach"
BUSY=yes life attach --sandbox=require
step "a kernel that does not read a TUN without waiting (as 6.1)"
INJECT=preadv2:error=EOPNOTSUPP BUSY=yes life older --sandbox=require
step "ports, reach, a name server, a pid file, a name for an endpoint"
cp /etc/hosts "$W/hosts"; echo '10.9.0.2 far.test' >>"$W/hosts"; mount --bind "$W/hosts" "$(realpath /etc/hosts)"
our_conf "$W/wg0.conf" "DNS = 10.6.0.2" -- "Endpoint = far.test:51820"
PORT=yes life ports -p 127.0.0.1:8080:8080 --dns-forward=10.0.2.3 --pidfile "$W/pid"
umount "$(realpath /etc/hosts)"

step "a name server for the endpoint: many addresses, which takes a connection"
printf '%s\n' 'nameserver 127.0.0.1' >"$W/resolv.conf"; printf '%s\n' 'hosts: files dns' >"$W/nsswitch.conf"
mount --bind "$W/resolv.conf" "$(realpath /etc/resolv.conf)"; mount --bind "$W/nsswitch.conf" /etc/nsswitch.conf
printf -v many -- '--host-record=many.test,10.9.1.%s\n' {1..60}
mapfile -t many <<<"${many%$'\n'}"
start names dnsmasq --no-daemon --conf-file=/dev/null --no-hosts --no-resolv --user=root --group=root --pid-file= \
  --listen-address=127.0.0.1 --bind-interfaces --local=/test/ --host-record=far.test,10.9.0.2,fd09::2 \
  "${many[@]}"
wait_for "the name server" 5 sh -c 'ss -Hlun | grep -q 127.0.0.1:53'
our_conf "$W/wg0.conf" "DNS = 10.6.0.2" -- "Endpoint = far.test:51820"
# Nothing answers there.
printf '\n[Peer]\nPublicKey = %s\nAllowedIPs = 10.7.0.0/24\nEndpoint = many.test:9\n' "$(wg genkey | wg pubkey)" >>"$W/wg0.conf"
life names
umount "$(realpath /etc/resolv.conf)" /etc/nsswitch.conf
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"

step "as slirp4netns: ports that are published later, TCP and UDP"
start_target
start inside nsenter -t "$TARGET" -U -n --preserve-credentials -- socat UDP4-LISTEN:8081,fork,reuseaddr EXEC:cat
ln -s "$WG4NETNS" "$W/slirp4netns"
start later trace later "$W/slirp4netns" --wg-config "$W/wg0.conf" -c --api-socket "$W/api" "$TARGET" tap0
OURS=$STARTED
wait_for "an answer" 20 in_target ping -c 1 -W 1 10.6.0.2
ask() { perl -MIO::Socket::UNIX -e 'my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die; print $s $ARGV[1]; $s->shutdown(1); print <$s>' "$W/api" "$1"; }
for protocol in tcp udp; do
  assert_has "$protocol" '"id":' "$(ask '{"execute":"add_hostfwd","arguments":{"proto":"'$protocol'","host_addr":"127.0.0.1","host_port":8081,"guest_port":8081}}')"
done
wait_for "a datagram to come back" 10 datagram_comes_back 8081
capture socat -u -T 1 TCP4:127.0.0.1:8081 -
stops
wait_for "a datagram to come back" 10 datagram_comes_back 8081
ask '{"execute":"remove_hostfwd","arguments":{"id":1}}' >/dev/null
tunnel=$("$WG4NETNS" ls | awk 'NR == 2 { print $1 }')
"$WG4NETNS" stop "$tunnel"; wait_for "the end" 10 gone "$OURS"; kill "$TARGET"
judge later

step "without /dev/net/tun: veth and a packet socket"
start_target
# In a mount namespace of its own, where the device is not.
start wg0 trace veth unshare -m sh -c 'mount -t tmpfs none /dev/net; exec "$@"' sh "$WG4NETNS" -v --netns-pid "$TARGET" --config "$W/wg0.conf" --name wg0
OURS=$STARTED
wait_for "an answer" 20 in_target ping -c 1 -W 1 10.6.0.2
in_target curl -s -m 10 http://10.6.0.2/ | grep -q 'you are' || fail "no page"
"$WG4NETNS" stop wg0; wait_for "the end" 10 gone "$OURS"; kill "$TARGET"
judge veth

step "an answer of the namespace child that is longer than a record"
start_target
# Routes that somebody else has: a warning for each.
routes=$(for i in {0..11}; do for j in {0..255}; do printf '10.%d.%d.0/24 ' $((100 + i)) "$j"; done; done)
in_target ip link add other0 type veth peer name other1; in_target ip link set other0 up; in_target ip link set other1 up
for route in $routes; do echo "route add $route dev other0"; done | in_target ip -batch -
our_conf "$W/many.conf" -- "AllowedIPs = 10.6.0.0/24, $(tr ' ' , <<<"${routes% }")"
start many trace many "$WG4NETNS" --netns-pid "$TARGET" --config "$W/many.conf" --name wg0 --keep-other-links
OURS=$STARTED
wait_for "an answer" 20 in_target ping -c 1 -W 1 10.6.0.2
assert_eq "warnings" 3072 "$(grep -c 'goes by another interface already' "$W/many.log")"
"$WG4NETNS" stop wg0; wait_for "the end" 10 gone "$OURS"; kill "$TARGET"
judge many

step "run, with a signal for the command, and with one for us"
trace run "$WG4NETNS" run --config "$W/wg0.conf" -- sh -c 'curl -s -m 10 http://far.test/ | grep "you are" >&2 && kill -TERM $$' || status=$?
assert_eq "the command's end" 143 "${status-0}"
judge run
start signal trace signal "$WG4NETNS" run --config "$W/wg0.conf" -- sh -c 'echo begun; exec sleep 1000'
OURS=$STARTED
wait_for "the command" 20 grep -q begun "$W/signal.log"
kill -TERM "$(our_processes | tr ' ' '\n' | sort -n | grep -m 1 .)"; wait_for "the end" 10 gone "$OURS"
judge signal

step "in the background, with a log file"
start_target
start background trace background "$WG4NETNS" -vv --background --netns-pid "$TARGET" --config "$W/wg0.conf"
OURS=$STARTED
wait_for "an answer" 20 in_target ping -c 1 -W 1 10.6.0.2
"$WG4NETNS" stop wg0; wait_for "the end" 10 gone "$OURS"; kill "$TARGET"
judge background

step "as wireguard-go"
mkdir -p /run/wireguard
start device trace device env WG_PROCESS_FOREGROUND=1 "$WG4NETNS" device wgf0
OURS=$STARTED
wait_for "the interface" 20 test -S /run/wireguard/wgf0.sock
wg set wgf0 private-key "$W/a.key" fwmark 7 peer "$(pub b)" allowed-ips 10.6.0.0/24 endpoint 10.9.0.2:51820
ip addr add 10.6.0.1/24 dev wgf0; ip link set wgf0 up
ping -c 2 -i 0.2 -W 5 10.6.0.2 >/dev/null || fail "no answer"
wg show wgf0 >/dev/null
ip link del wgf0; wait_for "the end" 10 gone "$OURS"
judge device

# spare ROLE: what a role has though no life here need show it.
spare() {
  # Memory grows and shrinks when it must, time is read without a call where it can be, a lock is waited for when it is held.
  echo brk madvise mmap munmap mremap clock_gettime getrandom futex
  # A panic says so and ends the process, by whatever its C library needs for that; a thread may end.
  echo exit exit_group getpid gettid tgkill tkill rt_sigprocmask rt_sigreturn sigaltstack
  # A stop may fall upon another call; a debug build looks whether what it closes is open.
  echo restart_syscall fcntl
  # A log line goes to standard error, to a file, or to the journal, and a long one there as a descriptor.
  echo write sendto sendmsg recvmsg
  case $1 in
    # A log file that is full; many datagrams at once that each go alone (a flood's cookies, packets of many sizes).
    control) echo ftruncate sendmmsg ;;
    # And: a thread's memory grows; a packet without a way is answered by whichever thread has read it.
    tx | rx) echo ftruncate sendmmsg mprotect writev ;;
    # glibc loads what /etc/nsswitch.conf names; musl before 1.2.4 reads files by another call, and asks by ioctl for the
    # index of an interface that an address names (050).
    broker) echo fstat pread64 readv ioctl ;;
    # With it, it installs the next.
    socket-factory-begin) echo seccomp ;;
  esac
}
step "no role has a call that none of its threads ever made, but for those with a reason"
"$INTEGRATION/tools/role-calls" "$W"/trace.* >"$W/calls"
assert_eq "roles" "broker control forwarder namespace-child remover rx socket-factory socket-factory-begin tx " "$(cut -d ' ' -f 1 "$W/calls" | sort -u | tr '\n' ' ')"
loose=''
while read -r role; do
  assert_at_most "calls of $role" 45 "$(grep -c "^$role [0-9]* \(used\|unused\) " "$W/calls")"
  unused=$(sed -n "s/^$role 0 unused //p" "$W/calls" | grep -vxFf <(spare "$role" | tr ' ' '\n') || true)
  [ -z "$unused" ] || loose+="$role: ${unused//$'\n'/ }"$'\n'
done < <(cut -d ' ' -f 1 "$W/calls" | sort -u)
assert_eq "calls that a role has and nobody makes" "" "$loose"
