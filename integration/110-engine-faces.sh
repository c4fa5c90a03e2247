#!/bin/bash
# podman run --network pasta:--wg-config,NAME (5.4.2) and slirp4netns with WG4NETNS_CONFIG (4.3.1 and 5.4.2), unmodified.
#
#   container: wget ── wg0/tap0 ── wg4netns (as pasta, as slirp4netns) :host ── h0 ═ p0 ── wireguard-go :peer ── page at 10.6.0.2
#
# needs: netns tun wg wireguard-go socat dnsmasq nft engines
# timeout: 150
# as: root
. "$(dirname "$0")/lib.sh"

inside() {
  cp "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf
  sed 's/^Endpoint.*/Endpoint = 10.9.0.2:9/' "$SHARED/wg0.conf" >~/.config/wg4netns/dead.conf
  chmod 600 ~/.config/wg4netns/*
  "$WG4NETNS" drop-ins install >"$W/install.out"
  if [ "$ENGINE" = trixie ]; then with_pasta; faces; fi
  with_slirp4netns; faces
}

# run CONFIG FLAG… IMAGE CMD…, by either face; $helper is the name of the process.
with_pasta() {
  helper=pasta link=wg0
  # shellcheck disable=SC2317 # called by faces
  run() { podman run --network "pasta:--wg-config,$1${wait:+,--wait-handshake=$wait}" "${@:2}"; }
}
with_slirp4netns() {
  helper=slirp4netns link=tap0
  # shellcheck disable=SC2317 # called by faces
  run() { WG4NETNS_CONFIG=$1 WG4NETNS_WAIT_HANDSHAKE=${wait-} podman run --network slirp4netns "${@:2}"; }
}

faces() {
  local id tunnel wait=''

  step "$helper: a page, fetched through the tunnel and nothing else"
  capture run work --rm --cap-add net_raw busybox sh -c 'ls /sys/class/net; wget -qO- http://10.6.0.2/; ping -c 1 -W 5 fd06::2'
  said
  assert_status 0
  assert_has "the far end saw" "you are 10.6.0.1" "$OUT"
  assert_has "IPv6" "1 packets received" "$OUT"
  assert_has "nothing but the tunnel" "lo"$'\n'"$link"$'\n' "$OUT"
  assert_eq "nothing of ours in the container's output" "" "$ERR"

  step "$helper: it is listed, healthy, and ends with the container"
  wait=5
  capture run work --detach --name web busybox sleep 1000
  assert_status 0
  id=${OUT:0:12}
  tunnel=$(listed 2)
  capture "$WG4NETNS" status "$(listed 1)"; assert_status 0
  [ $helper = pasta ] || assert_eq "its name" "$id" "$(listed 1)"
  podman kill web >/dev/null
  wait_for "the tunnel's end" 2 gone "$tunnel"
  wait_for "no process of ours to be left" 2 no_processes
  assert_eq "nothing is listed" "" "$(listed 1)"
  assert_eq "nothing in the socket directory" "" "$(ls "$XDG_RUNTIME_DIR/wireguard")"

  if [ $helper = pasta ]; then
    step "$helper: a restart gives it a new one"
    podman start web >/dev/null
    podman restart --time 0 web >/dev/null
    assert_eq "the page after a restart" "you are 10.6.0.1" "$(podman exec web wget -qO- http://10.6.0.2/)"
  else
    # The configuration came from the environment of podman run; start has its own.
    WG4NETNS_CONFIG=work podman start web >/dev/null
  fi

  step "$helper: kill -9 of the helper leaves no network; attach gives it back to the running container"
  tunnel=$(listed 2)
  kill -9 "$tunnel"; wait_for "the helper's end" 2 gone "$tunnel"
  wait_for "the link's end" 2 links_are lo
  capture podman exec web wget -qO- http://10.6.0.2/
  [ "$STATUS" != 0 ] || fail "a page without a tunnel"
  "$WG4NETNS" --netns-pid "$(podman inspect -f '{{.State.Pid}}' web)" --config work --background --wait-handshake
  assert_eq "the page afterwards" "you are 10.6.0.1" "$(podman exec web wget -qO- http://10.6.0.2/)"
  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 2 no_processes

  step "$helper: with a user namespace of its own"
  capture run work --rm --userns=keep-id busybox wget -qO- http://10.6.0.2/
  said
  assert_eq "the page" "you are 10.6.0.1" "$OUT"

  step "$helper: a tunnel that cannot be had fails the start, in time and with one clear line"
  wait=1
  refused dead 'no handshake within 1 s'
  assert_at_most "ms until then" 4000 "$TOOK_MS"
  wait=''
  refused absent 'no configuration .absent.'
  refused "$W/absent.conf" "cannot open .$W/absent.conf.: No such file"
  wait_for "no process of ours to be left" 2 no_processes
}

listed() { "$WG4NETNS" ls | awk -v column="$1" 'NR == 2 { print $column }'; }
links_are() { [ "$(podman exec web ls /sys/class/net)" = "$1" ]; }

refused() { # CONFIG PATTERN
  capture run "$1" --rm busybox echo ran
  said
  [ "$STATUS" != 0 ] || fail "the container started"
  assert_lacks "what the container says" ran "$OUT"
  assert_eq "lines with our word" 1 "$(grep -c "wg4netns (as $helper): .*$2" <<<"$ERR")"
}

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft engines
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
chmod 644 "$W/wg0.conf"
far_services
engine_canaries
in_engines
assert_eq "packets of host that are not the tunnel's, questions to its name servers" 0 "$(canary_count sent)"
