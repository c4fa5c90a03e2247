#!/bin/bash
# The filters of system calls against every way of living: whatever one of our threads is refused under its filter, in any
# mode, is one of the few calls that are known to be tried in vain; and nothing is killed for a call. With this binary:
# the allow-lists differ between C libraries (tests/netns/calls.rs compares those of the one that it is built with).
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer, a name server and a page
#
# needs: netns tun wg wireguard-go socat dnsmasq strace perl curl
# timeout: 120
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go socat dnsmasq strace perl curl
peer_world
start_wireguard_go_peer
far_services
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
# trace NAME CMD…; FAULT is injected, if there is one.
trace() { strace -f -qq -o "$W/trace.$1" ${FAULT:+-e "inject=$FAULT"} "${@:2}"; }

# judge WHAT: of each thread, what comes behind its second filter (or that of whoever started it).
judge() {
  local refused TRACE=$W/trace.$1
  refused=$(perl -ne '
    my ($pid, $line) = /^(\d+) +(.*)/ or next;
    $filters{$pid}++ if $line =~ /^seccomp\(SECCOMP_SET_MODE_FILTER/;
    # Threads and processes begin with the filters of whoever starts them.
    $filters{$1} = $filters{$pid} || 0 if $line =~ /^(?:<\.\.\. )?(?:clone3?|v?fork)\b.* = (\d+)$/;
    $seen{$1}++ if ($filters{$pid} || 0) >= 2 && $line =~ /= -1 ENOSYS/ && $line =~ /^(?:<\.\.\. )?(\w+)/;
    END { print "$_ ($seen{$_})\n" for sort keys %seen }' "$TRACE")
  grep -q 'SECCOMP_SET_MODE_FILTER' "$TRACE" || fail "$1: no filter was installed: this proves nothing"
  ! grep -q 'killed by SIGSYS' "$TRACE" || fail "$1: killed for a call: $(grep -B 1 'killed by SIGSYS' "$TRACE" | head -n 2)"
  note "$1: refused: ${refused:-nothing}"
  # Tried in vain: threads of the broker (an older call starts them, too), pidfds of helpers that are to be killed, the
  # signal stack at the end.
  refused=$(sed -E '/^(clone3|pidfd_open|sigaltstack) /d' <<<"$refused")
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
  port=$("$WG4NETNS" show wg0 listen-port); [ "$port" -gt 0 ] || fail "no port"
  "$WG4NETNS" stop wg0
  wait_for "the end" 10 gone "$OURS"
  kill "$TARGET"
  judge "$name"
}

step "attach"
life attach --sandbox=require
step "attach, on a kernel that does not read a TUN without waiting (as 6.1)"
FAULT=preadv2:error=EOPNOTSUPP life old --sandbox=require
step "ports, reach, a name server, a pid file, a name for an endpoint"
cp /etc/hosts "$W/hosts"; echo '10.9.0.2 far.test' >>"$W/hosts"; mount --bind "$W/hosts" "$(realpath /etc/hosts)"
our_conf "$W/wg0.conf" "DNS = 10.6.0.2" -- "Endpoint = far.test:51820"
PORT=yes life ports -p 127.0.0.1:8080:8080 --dns-forward=10.0.2.3 --pidfile "$W/pid"
umount "$(realpath /etc/hosts)"
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"

step "without /dev/net/tun: veth and a packet socket"
start_target
# In a mount namespace of its own, where the device is not.
start wg0 trace veth unshare -m sh -c 'mount -t tmpfs none /dev/net; exec "$@"' sh "$WG4NETNS" -v --netns-pid "$TARGET" --config "$W/wg0.conf" --name wg0
OURS=$STARTED
wait_for "an answer" 20 in_target ping -c 1 -W 1 10.6.0.2
in_target curl -s -m 10 http://10.6.0.2/ | grep -q 'you are' || fail "no page"
"$WG4NETNS" stop wg0; wait_for "the end" 10 gone "$OURS"; kill "$TARGET"
judge veth

step "run, with a signal for the command"
trace run "$WG4NETNS" run --config "$W/wg0.conf" -- sh -c 'curl -s -m 10 http://far.test/ | grep "you are" >&2 && kill -TERM $$' || status=$?
assert_eq "the command's end" 143 "${status-0}"
judge run

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
