#!/bin/bash
# attach --tun-fd: a TUN that somebody else has made, with and without the virtio header; addresses, routes and MTU are theirs.
#
#   target wgt0 (made by perl, moved there) ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go perl
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go perl
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf"

# with_tun FLAGS CMD…: CMD --tun-fd N, with a TUN named wgt0 that has these flags.
cat >"$W/with_tun" <<'P'
my $flags = hex shift;
sysopen(my $tun, "/dev/net/tun", 2) or die "open: $!";
ioctl($tun, 0x400454CA, pack("Z16 S x22", "wgt0", $flags)) or die "TUNSETIFF: $!";
fcntl($tun, 2, 0) or die "fcntl: $!";
exec { $ARGV[0] } @ARGV, "--tun-fd", fileno($tun) or die "exec: $!";
P

for flags in 1001 5001; do
  step "packets go both ways (flags 0x$flags)"
  rm -f "$W/given.ready"
  start given env --default-signal=INT,QUIT perl "$W/with_tun" "$flags" "$WG4NETNS" --config "$W/wg0.conf" --name given --ready-fd 9 9>"$W/given.ready"
  OURS=$STARTED
  wait_for "ready" 10 ready_or_dead given "$OURS"
  assert_lacks "addresses are the caller's" inet "$(ip -o addr show wgt0)"
  ip link set wgt0 netns "$TARGET"
  in_target ip addr add 10.6.0.1/24 dev wgt0; in_target ip addr add fd06::1/64 dev wgt0 nodad; in_target ip link set wgt0 mtu 1400 up
  in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer over IPv4"
  in_target ping -c 1 -W 5 fd06::2 >/dev/null || fail "no answer over IPv6"
  on peer ping -c 1 -s 4000 -W 5 10.6.0.1 >/dev/null || fail "no answer to the peer's fragments"
  assert_eq "the MTU is the caller's" "mtu 1400" "$(in_target ip link show wgt0 | grep -o 'mtu [0-9]*')"
  capture "$WG4NETNS" exec given -- true
  assert_eq "what exec says" "wg4netns: \`given\` does not know its namespace: it was started with \`--tun-fd\`" "$ERR"
  assert_status 125
  kill "$OURS"; wait_for "the end" 5 gone "$OURS"
  not in_target ip link show wgt0 2>/dev/null || fail "the TUN outlived its last descriptor"
  assert_nothing_left
done

step "what cannot be done with it"
refused 2 "ports cannot be forwarded into a TUN device: its namespace is not known" 'name the target by `--netns-pid` or `--netns`' -- \
  perl "$W/with_tun" 1001 "$WG4NETNS" --config "$W/wg0.conf" -p 8080:80
refused 5 "cannot use the TUN device: interface \`wgt0\` is a TAP device, not a TUN device" '' -- perl "$W/with_tun" 1002 "$WG4NETNS" --config "$W/wg0.conf"
exec 7</dev/null
refused 5 "cannot use the TUN device: descriptor is not a TUN device" '' -- "$WG4NETNS" --config "$W/wg0.conf" --tun-fd 7
exec 7<&-
capture "$WG4NETNS" --config "$W/wg0.conf" --tun-fd 77
assert_has "a descriptor that is not open" "Bad file descriptor (os error 9)" "$ERR"
assert_status 2
