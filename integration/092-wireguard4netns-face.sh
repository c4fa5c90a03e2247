#!/bin/bash
# Called as wireguard4netns: returns when configured, leaves addresses and link state to its caller; also WG_TUN_FD and WG_UAPI_FD.
#
#   target wg-app ── wg4netns (as wireguard4netns) :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go perl
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go perl
peer_world
start_wireguard_go_peer
mkdir -m 700 "$W/bin" "$W/run"; ln -s "$WG4NETNS" "$W/bin/wireguard4netns"; ln -s "$WG4NETNS" "$W/bin/wireguard-go"
our_conf "$W/wg0.conf"
no_face() { [ -z "$(our_processes)" ]; }

step "it returns with the interface configured and bare"
start_target
capture "$W/bin/wireguard4netns" --tmpdir "$W/run" "$TARGET" wg-app "$W/wg0.conf"
said
assert_status 0
assert_lacks "down" UP "$(in_target ip -o link show wg-app | sed 's/LOWER_UP//')"
assert_lacks "no address" inet "$(in_target ip -o addr show wg-app)"
test -S "$W/run/wg-app.sock" || fail "no socket when it returned"
in_target ip addr add 10.6.0.1/24 dev wg-app; in_target ip link set wg-app up
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"

step "it ends with its socket"
rm "$W/run/wg-app.sock"
wait_for "its end" 5 no_face
not in_target ip link show wg-app 2>/dev/null || fail "the interface is left"

step "it ends with the target"
"$W/bin/wireguard4netns" --tmpdir "$W/run" "$TARGET" wg-app "$W/wg0.conf"
kill "$TARGET"
wait_for "its end" 5 no_face
not test -e "$W/run/wg-app.sock" || fail "the socket is left"

step "what it refuses"
capture "$W/bin/wireguard4netns" 4242 wg-app
assert_status 2
capture "$W/bin/wireguard4netns" --tmpdir "$W/run" 999999999 wg-app "$W/wg0.conf"
assert_status 4

step "a TUN and a listening socket that somebody else made"
mkdir -p /run/wireguard
cat >"$W/hand-over" <<'P'
use Socket;
sysopen(my $tun, "/dev/net/tun", 2) or die "open: $!";
my $request = pack("Z16 S x22", "wgf0", 0x1001);
ioctl($tun, 0x400454CA, $request) or die "TUNSETIFF: $!";
umask 077;
my $listener;
socket($listener, AF_UNIX, SOCK_STREAM, 0) && bind($listener, sockaddr_un("/run/wireguard/wgf0.sock")) && listen($listener, 5) or die "socket: $!";
fcntl($_, 2, 0) or die "fcntl: $!" for $tun, $listener;
$ENV{WG_TUN_FD} = fileno $tun; $ENV{WG_UAPI_FD} = fileno $listener;
exec { $ARGV[0] } @ARGV, "wgf0" or die "exec: $!";
P
perl "$W/hand-over" "$W/bin/wireguard-go" || fail "it did not take them over"
wg set wgf0 private-key "$W/a.key" peer "$(pub b)" allowed-ips 10.6.0.0/24 endpoint 10.9.0.2:51820
ip addr add 10.6.0.1/24 dev wgf0; ip link set wgf0 up
ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
rm /run/wireguard/wgf0.sock
wait_for "its end with the socket" 5 no_face
not ip link show wgf0 2>/dev/null || fail "the interface is left"
