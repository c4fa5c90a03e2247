#!/bin/bash
# wireguard-go as the far end: IPv4, IPv6, ping, TCP, UDP, as initiator and as responder, with and without preshared key.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go iperf3
# timeout: 150
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go iperf3
peer_world
start_wireguard_go_peer
far() { on peer "$@"; }
far_wg() { wg "$@"; }
FAR_INTERFACE=wgp0 FAR_ADDRESS=10.9.0.2 HOST_ADDRESS=10.9.0.1
start iperf nsenter --net=/run/netns/peer -- iperf3 -s
interop_battery
