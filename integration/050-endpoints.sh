#!/bin/bash
# Endpoints: IPv4, [IPv6], scope ids, names; a resolver that comes late and changes its mind; ports; source addresses.
#
#   target wg0 ── wg4netns :host ── h0 (10.9.0.1, .11; fd09::1) ═ p0 (10.9.0.2, .22; fd09::2) ── wireguard-go :peer
#                 dnsmasq :host 127.0.0.1, its answers in a file
#
# needs: netns tun wg wireguard-go dnsmasq
# timeout: 150
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go dnsmasq
peer_world
on peer ip addr add 10.9.0.22/24 dev p0
start_wireguard_go_peer
start_target
# The world's own resolv.conf: a resolver on loopback that is down at first.
echo 'nameserver 127.0.0.1' >"$W/resolv.conf"; echo 'options timeout:1 attempts:1' >>"$W/resolv.conf"
touch_resolv() { mount --bind "$W/resolv.conf" "$(realpath /etc/resolv.conf)"; }
touch_resolv
answers() { # ADDRESS
  if [ -n "${DNS_PID-}" ]; then kill "$DNS_PID"; wait_for "dnsmasq's end" 5 gone "$DNS_PID"; fi
  start dns dnsmasq --no-daemon --conf-file=/dev/null --no-hosts --no-resolv --user=root --group=root --pid-file= \
    --listen-address=127.0.0.1 --bind-interfaces --local=/test/ --host-record="far.test,$1,1" --host-record="other.test,$1,1"
  DNS_PID=$STARTED
}
works() { in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer: $1"; }
end() { kill "$OURS"; wait_for "the end" 5 gone "$OURS"; }

for endpoint in 10.9.0.2:51820 '[fd09::2]:51820'; do
  step "endpoint $endpoint"
  our_conf "$W/wg0.conf" -- "Endpoint = $endpoint"
  attach; works "$endpoint"
  assert_has "shown" "$endpoint" "$("$WG4NETNS" show wg0 endpoints)"
  end
done

step "a link-local endpoint with its scope"
local_address=$(on peer ip -o -6 addr show dev p0 scope link | sed -n 's#.*inet6 \(fe80[^/]*\)/.*#\1#p')
our_conf "$W/wg0.conf" -- "Endpoint = [$local_address%h0]:51820"
attach; works "scope id"; end

step "a name; the resolver is down at start and comes later"
our_conf "$W/wg0.conf" -- "Endpoint = far.test:51820" "PersistentKeepalive = 1"
attach
in_target ping -c 1 -W 1 10.6.0.2 >/dev/null && fail "an answer without a resolver"
answers 10.9.0.2
wait_for "an answer through the name" 40 in_target ping -c 1 -W 1 10.6.0.2
note "after $WAITED_MS ms"

step "the name's answer changes: found again after failed handshakes"
on peer ip addr del 10.9.0.2/24 dev p0
on peer ip addr add 10.9.0.22/24 dev p0 2>/dev/null || true
answers 10.9.0.22
wait_for "an answer through the new address" 60 in_target ping -c 1 -W 1 10.6.0.2
note "after $WAITED_MS ms"
assert_has "shown" "10.9.0.22:51820" "$("$WG4NETNS" show wg0 endpoints)"

step "switch to another name, and its answer changes: found again, too"
our_conf "$W/other.conf" -- "Endpoint = other.test:51820" "PersistentKeepalive = 1"
capture "$WG4NETNS" switch wg0 "$W/other.conf"
assert_status 0
assert_has "status tells the name" '"endpoint_name":"other.test:51820"' "$("$WG4NETNS" status --json wg0 | tr -d ' \n')"
on peer ip addr del 10.9.0.22/24 dev p0
on peer ip addr add 10.9.0.2/24 dev p0
answers 10.9.0.2
wait_for "an answer through the address before" 60 in_target ping -c 1 -W 1 10.6.0.2
note "after $WAITED_MS ms"
end

step "the source address is removed under a session"
our_conf "$W/wg0.conf"
ip addr add 10.9.0.11/24 dev h0
attach; works "before"
ip addr del 10.9.0.1/24 dev h0
ip addr add 10.9.0.11/24 dev h0 2>/dev/null || true
wait_for "an answer from the other address" 20 in_target ping -c 1 -W 1 10.6.0.2
note "after $WAITED_MS ms"
ip addr add 10.9.0.1/24 dev h0
end

step "listen port: given, taken, 0"
our_conf "$W/wg0.conf" "ListenPort = 51999"
attach; works "port 51999"
assert_eq "the port" 51999 "$("$WG4NETNS" show wg0 listen-port)"
cp "$W/wg0.conf" "$W/second.conf"
capture "$WG4NETNS" --netns-pid "$TARGET" --config "$W/second.conf" --interface wg1
assert_status 6
assert_has "it names the port" 51999 "$ERR"
not in_target ip link show wg1 2>/dev/null || fail "the target was touched"
end
our_conf "$W/wg0.conf" "ListenPort = 0"
attach; works "port 0"
assert_matches "a port was chosen" '^[1-9][0-9]+$' "$("$WG4NETNS" show wg0 listen-port)"
end

step "the process that resolves names is killed: nothing else happens, and nothing spins"
our_conf "$W/wg0.conf" -- "Endpoint = nobody.test:51820" "PersistentKeepalive = 1"
attach
broker=$(pgrep -P "$OURS" -f __broker) || fail "no such process"
kill -9 "$broker"
wait_for "its end" 5 gone "$broker"
ticks() { cut -d' ' -f14,15 "/proc/$OURS/stat" | tr ' ' +; }
before=$(($(ticks))); sleep 2; spent=$(($(ticks) - before))
assert_at_most "clock ticks in 2 s" 20 "$spent"
alive "$OURS" || fail "it ended, too"
end
