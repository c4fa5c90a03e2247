#!/bin/bash
# The short form of the fault suite: see `fault` and faults/*.sh. The long form is run by hand: integration/fault --long
#
#   target (a hostile program in it) wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go nft socat strace perl gcc
# timeout: 240
# as: user
exec bash "$(dirname "$0")/fault" "$@"
