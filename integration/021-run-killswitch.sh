#!/bin/bash
# Nothing of what CMD tries leaves by any way but the tunnel, and no resolver of the host hears a name.
#
#   CMD wg0 ── wg4netns run :host ── h0 ═ p0 ── wireguard-go :peer (DNS and a page at 10.6.0.2)
#              canaries listen on every address of host and at the sockets of its resolvers; nft counts every packet
#
# needs: netns tun wg wireguard-go nft socat curl dnsmasq perl
# timeout: 150
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go nft socat curl dnsmasq perl
peer_world
start_wireguard_go_peer
start dns nsenter --net=/run/netns/peer -- dnsmasq --no-daemon --conf-file=/dev/null --no-hosts --no-resolv --user=root --group=root \
  --pid-file= --listen-address=10.6.0.2 --bind-interfaces --local=/test/ --host-record=svc.test,10.6.0.2 --log-queries
printf 'HTTP/1.0 200 OK\r\n\r\nthe page\n' >"$W/page"
start page nsenter --net=/run/netns/peer -- socat TCP-LISTEN:80,bind=10.6.0.2,fork,reuseaddr "SYSTEM:cat $W/page"
wait_for "the page" 5 on peer curl -sf http://10.6.0.2/
wait_for "the far end's DNS" 5 on peer sh -c 'ss -Hlun | grep -q 10.6.0.2:53'
canaries
run() { "$WG4NETNS" run --config "$W/$1.conf" "${@:2}"; }
our_conf "$W/dns.conf" "DNS = 10.6.0.2"
our_conf "$W/nodns.conf"

cat >"$W/lookup.c" <<'C'
#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv) {
  struct addrinfo *found;
  int error = getaddrinfo(argc > 1 ? argv[1] : "svc.test", "80", 0, &found);
  puts(error ? "no" : "yes");
  return error != 0;
}
C
resolvers=("getent hosts" "curl -s --max-time 20 -o /dev/null" "ping -c 1 -W 5")
if musl-gcc -static -o "$W/lookup-musl" "$W/lookup.c" 2>/dev/null; then resolvers+=("$W/lookup-musl"); else note "no musl-gcc: its resolver is not tried"; fi
if command -v busybox >/dev/null; then resolvers+=("busybox ping -c 1 -W 5" "busybox nslookup"); fi

step "with DNS=: every resolver path finds the name, through the tunnel"
for resolver in "${resolvers[@]}"; do
  # shellcheck disable=SC2086 # a command and its arguments
  capture run dns -- $resolver svc.test
  [ "$STATUS" = 0 ] || { said; fail "$resolver did not find svc.test"; }
done
assert_has "the far end's DNS was asked" "svc.test" "$(cat "$W/dns.log")"
assert_eq "the page" "the page" "$(run dns -- curl -s http://svc.test/)"
assert_canaries_silent

step "without DNS=: no path finds anything, and nobody on host hears"
for resolver in "${resolvers[@]}"; do
  # shellcheck disable=SC2086
  capture run nodns --no-wait -- timeout 20 $resolver svc.test
  [ "$STATUS" != 0 ] || { said; fail "$resolver found svc.test"; }
  # shellcheck disable=SC2086
  capture run nodns --no-wait -- timeout 20 $resolver other.invalid
  [ "$STATUS" != 0 ] || { said; fail "$resolver found other.invalid"; }
done
assert_lacks "resolv.conf is not the host's" nameserver "$(run nodns --no-wait -- cat /etc/resolv.conf)"
assert_canaries_silent

step "the sockets of the host's resolvers and buses cannot be reached"
for socket in nscd/socket systemd/resolve/io.systemd.Resolve dbus/system_bus_socket avahi-daemon/socket; do
  capture run nodns --no-wait -- sh -c "echo hello | timeout 5 socat -u - UNIX-CONNECT:/run/$socket"
  [ "$STATUS" != 0 ] || fail "/run/$socket was reached"
done
assert_canaries_silent

step "a hostile program with every capability of its namespace"
cat >"$W/hostile" <<'H'
#!/bin/bash
# Every line may fail; whatever gets out is heard outside. What must fail says LEAK if it works.
exec 2>&1
hosts='10.9.0.1 10.9.0.2 10.5.0.1 192.0.2.1 127.0.0.1'
for h in $hosts; do
  timeout 2 bash -c "echo x >/dev/udp/$h/53"; timeout 2 bash -c "echo x >/dev/tcp/$h/80" && [ "$h" != 127.0.0.1 ] && echo "LEAK tcp $h"
  ping -c 1 -W 1 "$h" >/dev/null && [ "$h" != 127.0.0.1 ] && echo "LEAK ping $h"
done
for h in fd09::1 fd09::2 2001:db8::1; do ping -c 1 -W 1 "$h" >/dev/null && echo "LEAK ping $h"; done
# Raw sockets, with our own header, to the outer addresses.
perl -e 'use Socket; socket(S, PF_INET, SOCK_RAW, 255) or exit; for my $to (@ARGV) {
  my $udp = pack("nnnn", 5353, 53, 12, 0) . "leak";
  my $ip = pack("CCnnnCCna4a4", 0x45, 0, 32, 1, 0, 64, 17, 0, inet_aton("10.6.0.1"), inet_aton($to)) . $udp;
  send(S, $ip, 0, sockaddr_in(0, inet_aton($to))); }' $hosts
# AF_PACKET on every link: whole packets, no route asked.
perl -e 'use Socket; socket(S, 17, SOCK_DGRAM, unpack("S", pack("n", 0x0800))) or exit; for my $index (1 .. 9) { for my $to (@ARGV) {
  my $ip = pack("CCnnnCCna4a4", 0x45, 0, 32, 1, 0, 64, 17, 0, inet_aton("10.6.0.1"), inet_aton($to)) . pack("nnnn", 5353, 53, 12, 0) . "leak";
  send(S, $ip, 0, pack("SniSCCa8", 17, 0x0800, $index, 0, 0, 0, "")); } }' $hosts
# Routes and links of its own.
ip link set lo up
ip route add default dev wg0; ip route replace 10.9.0.0/24 dev wg0; ip -6 route add default dev wg0
ip route add local 10.9.0.9/32 dev lo
ip addr add 10.9.0.1/32 dev wg0
timeout 2 bash -c 'echo x >/dev/udp/10.9.0.2/53'; timeout 2 bash -c 'echo x >/dev/udp/192.0.2.1/53'; ping -c 1 -W 1 10.9.0.2 >/dev/null && echo "LEAK ping with a route of its own"
ip addr del 10.9.0.1/32 dev wg0
ip link add esc0 type veth peer name esc1
ip link set esc1 netns 1 && echo "LEAK a link was moved to the host"
ip link set wg0 netns 1 && echo "LEAK the tunnel was moved to the host"
# Back to where it came from.
nsenter --net=/proc/1/ns/net true && echo "LEAK setns"
nsenter --target "$PPID" --net ip link show h0 && echo "LEAK setns to the parent"
for fd in /proc/self/fd/*; do case $(readlink "$fd") in net:*|/dev/net/tun|socket:*) echo "LEAK descriptor $fd $(readlink "$fd")" ;; esac; done
cat "/proc/$PPID/environ" >/dev/null && [ "$(tr '\0' ' ' <"/proc/$PPID/comm")" = wg4netns ] && echo "LEAK environment of the parent"
# Multicast, broadcast, router advertisements. (Its own stack answers the first.)
ping -c 1 -W 1 ff02::1%wg0 >/dev/null
for to in 224.0.0.251 224.0.0.1 239.255.255.250 255.255.255.255 10.6.0.255; do
  perl -e 'use Socket; socket(S, PF_INET, SOCK_DGRAM, 17); setsockopt(S, SOL_SOCKET, SO_BROADCAST, 1); send(S, "leak", 0, sockaddr_in(5353, inet_aton($ARGV[0])))' "$to"
done
# A router of its own making, which it may obey: what then goes that way is in the tunnel.
echo 2 >/proc/sys/net/ipv6/conf/all/accept_ra; echo 2 >/proc/sys/net/ipv6/conf/wg0/accept_ra
ip addr add fe80::a/64 dev wg0 nodad
"$INTEGRATION/faults/advertise" "$(ip -o link show wg0 | cut -d : -f 1)" fe80::a ff02::1 ff02::2 fd06::1 & router=$!
for _ in {1..20}; do if ip -6 route show proto ra | grep -q default; then echo obeyed a router; break; fi; sleep 0.1; done
for h in 2001:db8::1 2001:db8:bad::1 fd09::1; do
  timeout 2 bash -c "echo x >/dev/udp/$h/53"; ping -c 1 -W 1 "$h" >/dev/null && echo "LEAK ping $h by a router's word"
done
kill $router
# Source routing, transparent sockets, other tables.
ping -c 1 -W 1 -I 10.6.0.1 10.9.0.2 >/dev/null && echo "LEAK ping from the tunnel's address"
ip rule add from all lookup 7; ip route add default dev lo table 7; timeout 2 bash -c 'echo x >/dev/udp/10.9.0.1/53'; ip rule del lookup 7
echo survived
H
chmod +x "$W/hostile"
export INTEGRATION
for as in "" --map-root; do
  # shellcheck disable=SC2086
  capture run dns $as -- "$W/hostile"
  grep LEAK <<<"$OUT" >&2 || true
  assert_lacks "the hostile program ($as)" LEAK "$OUT"
  assert_has "it came to its end" survived "$OUT"
  assert_canaries_silent
done

step "router advertisements of the far end: not obeyed, though they are such as would be"
start_target
our_conf "$W/wg0.conf" -- "AllowedIPs = 0.0.0.0/0, ::/0"
attach --wait-handshake=10
wg set wgp0 peer "$(pub a)" allowed-ips 10.6.0.1/32,fd06::1/128,ff02::1/128
# It sends to itself, too, and is not to be led.
on peer sh -c 'echo 0 >/proc/sys/net/ipv6/conf/wgp0/accept_ra'
on peer ip addr add fe80::1/64 dev wgp0 nodad
start router nsenter --net=/run/netns/peer -- "$INTEGRATION/faults/advertise" "$(on peer ip -o link show wgp0 | cut -d : -f 1)" fe80::1 ff02::1 fd06::1
heard() { [ "$(in_target awk '$1 == "Icmp6InRouterAdvertisements" { print $2 }' /proc/net/snmp6)" -ge 10 ]; }
obeyed() { in_target ip -6 route show proto ra | grep -q . || in_target ip -6 addr show dev wg0 | grep -q 2001:db8:bad; }
wait_for "ten advertisements inside" 20 heard
not obeyed || fail "a router was obeyed: $(in_target ip -6 route show proto ra)"
# They are worth what they would do: whoever does not ignore routers obeys these.
in_target sh -c 'echo 1 >/proc/sys/net/ipv6/conf/wg0/accept_ra'
wait_for "the control, which lets itself be led, to obey" 20 obeyed
assert_canaries_silent
kill "$STARTED" "$OURS"; wait_for "the end" 5 gone "$OURS"; kill "$TARGET"

step "refusals come at once, not by time-out"
capture run nodns -- curl -s --max-time 20 http://10.9.0.1/
[ "$STATUS" != 0 ] || fail "10.9.0.1 was reached"
assert_at_most "time to be refused (ms)" 3000 "$TOOK_MS"

step "after the tunnel died there is no way out either"
start victim "$WG4NETNS" run --name victim --config "$W/dns.conf" -- sh -c 'curl -s http://svc.test/; echo ready; while ! [ -e "$W/go" ]; do sleep 0.05; done; exec "$W/hostile"'
wait_for "the victim" 15 grep -q ready "$W/victim.log"
assert_has "it had a network" "the page" "$(cat "$W/victim.log")"
: >"$W/go"; kill -9 "$STARTED"
wait_for "the hostile program to come to its end" 90 grep -qx survived "$W/victim.log"
assert_lacks "the hostile program without a tunnel" LEAK "$(cat "$W/victim.log")"
assert_canaries_silent
