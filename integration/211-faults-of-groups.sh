#!/bin/bash
# The faults of the suite that take control groups, which only root can make here: too little memory, and the freezer.
#
#   target (a hostile program in it) wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go nft socat strace perl gcc
# timeout: 60
# as: root
exec bash "$(dirname "$0")/fault" B7g B9b
