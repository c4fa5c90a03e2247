#!/bin/bash
# One tunnel for several containers: a named network namespace made in `podman unshare`, --network ns:PATH for each; when
# the helper is killed, `attach` brings it back to the containers that run, and reattach-when-dead does so by itself. In podman
# 4.3.1 and 5.4.2, unmodified.
#
#   container a ─┐
#                ├─ wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer ── page, dnsmasq at 10.6.0.2
#   container b ─┘
#
# needs: netns tun wg wireguard-go socat dnsmasq nft engines
# timeout: 60
# as: root
. "$(dirname "$0")/lib.sh"

inside() {
  local ns=$XDG_RUNTIME_DIR/vpn tunnel other kept
  install -m 600 "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf
  tunnel() { podman unshare "$WG4NETNS" --netns "$ns" --config work --background --wait-handshake; }
  # shellcheck disable=SC2317 # called by wait_for
  page_is_here() { [ "$(page a)" = "you are 10.6.0.1" ]; }
  page() { podman exec "$1" wget -qO- http://far.test/; }

  step "a namespace with a name, and two containers in it"
  : >"$ns"; podman unshare unshare --net="$ns" true
  tunnel
  for other in a b; do podman run --detach --name $other --network "ns:$ns" --dns 10.6.0.2 busybox sleep 1000 >/dev/null; done
  assert_eq "links" $'lo\nwg0' "$(podman exec a ls /sys/class/net)"
  assert_eq "what the far end saw of a" "you are 10.6.0.1" "$(page a)"
  assert_eq "what the far end saw of b" "you are 10.6.0.1" "$(page b)"
  capture "$WG4NETNS" status work; said; assert_status 0

  step "kill -9 of the helper: no network, and never another"
  read -r tunnel <<<"$(our_processes)"
  kill -9 "$tunnel"; wait_for "the helper's end" 5 gone "$tunnel"
  for other in a b; do
    assert_eq "links of $other" "lo" "$(podman exec $other ls /sys/class/net)"
    ! page $other 2>/dev/null || fail "a page without a tunnel"
  done

  step "attach gives it back to both, as they run"
  tunnel
  assert_eq "what the far end saw of a" "you are 10.6.0.1" "$(page a)"
  assert_eq "what the far end saw of b" "you are 10.6.0.1" "$(page b)"

  step "reattach-when-dead does so whenever the helper was killed"
  "$WG4NETNS" stop work
  wait_for "no process of ours to be left" 5 no_processes
  start kept env PATH="$(dirname "$WG4NETNS"):$PATH" podman unshare "$SHARED/helper-scripts/reattach-when-dead" "$ns" work work; kept=$STARTED
  for other in once twice; do
    wait_for "the page ($other)" 10 page_is_here
    tunnel=$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')
    assert_seen "$tunnel"
    kill -9 "$tunnel"; wait_for "the helper's end" 5 gone "$tunnel"
  done
  wait_for "the page" 10 page_is_here

  step "one container goes, the other stays; the tunnel ends with the namespace's name"
  podman rm --force --time 0 a >/dev/null
  assert_eq "what the far end saw of b" "you are 10.6.0.1" "$(page b)"
  podman unshare umount "$ns"
  wait_for "no process of ours to be left" 5 no_processes
  wait_for "the end of reattach-when-dead" 5 gone "$kept"
  wait "$kept" || fail "reattach-when-dead ended with $?"
  ! page b 2>/dev/null || fail "a page without a tunnel"
}

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft engines
peer_world
start_wireguard_go_peer
far_services
copy_helper_scripts
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
chmod 644 "$W/wg0.conf"
engine_canaries
in_engines
assert_engine_canaries_silent
