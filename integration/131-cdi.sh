#!/bin/bash
# podman run --network none --device wg4netns.dev/tunnel=NAME: the tunnel as a device, in podman 4.3.1 and 5.4.2, unmodified.
#
#   container: wget ── wg0 ── wg4netns oci-hook :host ── h0 ═ p0 ── wireguard-go :peer ── page, dnsmasq at 10.6.0.2
#
# needs: netns tun wg wireguard-go socat dnsmasq nft engines
# timeout: 60
# as: root
. "$(dirname "$0")/lib.sh"

inside() {
  local run=(podman run --network none --device wg4netns.dev/tunnel=work) dir=/run/cdi
  install -m 600 "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf
  step "generate: mistakes are said now, not when a container starts"
  capture "$WG4NETNS" cdi generate --config absent --name work; assert_status 3
  capture "$WG4NETNS" cdi generate --config work --name a/b; assert_status 2
  assert_eq "what there was not to describe" "" "$OUT"
  "$WG4NETNS" cdi generate --config work --name work --wait-handshake=5 >"$dir/work.json"

  step "one flag: name server, page, nothing else"
  capture "${run[@]}" --rm busybox sh -c 'cat /etc/resolv.conf; ls /sys/class/net; wget -qO- http://far.test/'
  said
  assert_status 0
  assert_has "the tunnel's name server" "nameserver 10.6.0.2" "$OUT"
  assert_has "nothing but the tunnel" $'lo\nwg0' "$OUT"
  assert_has "the far end saw" "you are 10.6.0.1" "$OUT"

  step "it is called after the container and ends with it"
  capture "${run[@]}" --detach --name web busybox sleep 1000
  assert_status 0
  "$WG4NETNS" status "${OUT:0:12}" >/dev/null || fail "not healthy"
  watch_container web
  podman kill web >/dev/null
  wait_for "the namespace's end" 5 container_namespace_gone
  wait_for "no process of ours to be left" 5 no_processes

  step "a tunnel that cannot be had fails the start, with one clear line"
  sed -i 's/^Endpoint.*/Endpoint = 10.9.0.2:9/' ~/.config/wg4netns/work.conf
  "$WG4NETNS" cdi generate --config work --name work --wait-handshake=1 --output "$dir/work.json"
  capture "${run[@]}" --rm busybox sh -c 'echo ran'
  said
  [ "$STATUS" != 0 ] || fail "the container started"
  assert_lacks "what the container says" ran "$OUT"
  assert_eq "lines with our word" 1 "$(grep -c 'wg4netns: no handshake within 1 s' <<<"$ERR")"
  wait_for "no process of ours to be left" 5 no_processes
  rm "$dir/work.json"
}

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft engines
peer_world
start_wireguard_go_peer
far_services
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
chmod 644 "$W/wg0.conf"
# podman of both versions looks in /etc/cdi and /run/cdi alone.
mkdir -m 777 /run/cdi
export ENGINE_BIND=/run/cdi
engine_canaries
in_engines
assert_engine_canaries_silent
