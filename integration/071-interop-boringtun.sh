#!/bin/bash
# boringtun's own program as the far end: the same battery as 070.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── boringtun-cli :peer
#
# The peer of `wg4netns demo --peer` is boringtun, too: 025-on-this-machine talks to that one.
#
# needs: netns tun wg boringtun-cli iperf3
# timeout: 150
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg boringtun-cli iperf3
peer_world
start_boringtun_cli_peer
far() { on peer "$@"; }
far_wg() { wg "$@"; }
FAR_INTERFACE=wgp0 FAR_ADDRESS=10.9.0.2 HOST_ADDRESS=10.9.0.1
start iperf nsenter --net=/run/netns/peer -- iperf3 -s
interop_battery
