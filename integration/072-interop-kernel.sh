#!/bin/bash
# The kernel's WireGuard as the far end, in a virtual machine: the same battery as 070.
#
#   target wg0 ── wg4netns :host ── tap0 (10.5.0.1) ═ eth0 (10.5.0.2) ── wg0, iperf3 in a virtual machine
#
# needs: netns tun wg vm iperf3
# timeout: 300
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg vm iperf3
make_key a; make_key b
start_kernel_peer
far() { vm "$*"; }
far_wg() { vm "wg $*"; }
# The machine is emulated: less is enough.
IPERF_BYTES=4M
FAR_INTERFACE=wg0 FAR_ADDRESS=10.5.0.2 HOST_ADDRESS=10.5.0.1
interop_battery

step "the kernel counts the same bytes: ten pings are 1372 one way, 1460 the other"
our_conf "$W/wg0.conf" "ListenPort = 51821" -- "Endpoint = $FAR_ADDRESS:51820"
vm "ip link del wg0; ip link add wg0 type wireguard && wg set wg0 private-key /b.key listen-port 51820 peer $(pub a) allowed-ips 10.6.0.1/32; ip addr add 10.6.0.2/24 dev wg0; ip link set wg0 up"
start_target; attach
in_target ping -c 10 -i 0.2 -W 5 10.6.0.2 >/dev/null || fail "no answer"
theirs=$(vm "wg show wg0 transfer" | cut -f2,3)
ours_now=$("$WG4NETNS" show wg0 transfer | cut -f2,3)
assert_eq "received by the peer is what we sent" "$(cut -f1 <<<"$theirs")" "$(cut -f2 <<<"$ours_now")"
assert_eq "sent by the peer is what we received" "$(cut -f2 <<<"$theirs")" "$(cut -f1 <<<"$ours_now")"
assert_matches "the figures of the kernel's own test" '1372|1428|1460' "$ours_now"
