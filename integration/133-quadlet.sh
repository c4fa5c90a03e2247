#!/bin/bash
# wg4netns quadlet: the printed unit is read by podman 5.4.2's own quadlet, and what that makes of it runs; so does a unit
# made from a compose file of gluetun's.
#
#   container: wget ── wg0 ── wg4netns oci-hook :host ── h0 ═ p0 ── wireguard-go :peer ── page at 10.6.0.2
#
# needs: netns tun wg wireguard-go socat dnsmasq nft curl engines
# timeout: 60
# as: root
. "$(dirname "$0")/lib.sh"

# dryrun NAME: what podman's generator makes of the units, and of NAME in particular.
dryrun() { /usr/libexec/podman/quadlet --dryrun --user >"$W/dryrun" 2>"$W/dryrun.err" && sed -n "/^---$1.service---/,/^---/p" "$W/dryrun"; }

# lines KEY: of the service, as systemd would run them; but here is no systemd to make a cgroup.
lines() { sed -n "s/^$1=//p" <<<"$SERVICE" | sed "s|%t|$XDG_RUNTIME_DIR|g; s|--cgroups=split ||"; }

# run_service: ExecStartPre, then ExecStart. Leaves STATUS, OUT, ERR.
run_service() {
  local line
  while read -r line; do bash -c "$line"; done <<<"$(lines ExecStartPre)"
  capture bash -c "$(lines ExecStart)"
}

inside() {
  local units=$HOME/.config/containers/systemd
  mkdir -p "$units"
  install -m 600 "$SHARED/wg0.conf" ~/.config/wg4netns/web.conf

  step "the unit is read without a complaint"
  "$WG4NETNS" quadlet web --image localhost/busybox -- sleep 1000 >"$units/web.container"
  SERVICE=$(dryrun web) || { cat "$W/dryrun.err" >&2; fail "quadlet refuses the unit"; }
  assert_eq "complaints" "" "$(grep -iE 'error|unsupported|warn' "$W/dryrun.err" || true)"
  assert_has "no network" "--network none" "$(lines ExecStart)"
  assert_has "the hook" "--hooks-dir=$XDG_RUNTIME_DIR/wg4netns/web.hooks.d" "$(lines ExecStart)"

  step "what it makes of it runs, in the tunnel"
  run_service
  assert_status 0
  assert_eq "links" $'lo\nwg0' "$(podman exec web ls /sys/class/net)"
  assert_eq "what the far end saw" "you are 10.6.0.1" "$(podman exec web wget -qO- http://far.test/)"
  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes

  step "a port that is published with -p is reached from here and from elsewhere, and goes with the container"
  "$WG4NETNS" quadlet web --image localhost/busybox -p 18061:80 -- sh -c 'echo of the unit >/index.html; exec httpd -f -h /' \
    >"$units/web.container"
  SERVICE=$(dryrun web) || { cat "$W/dryrun.err" >&2; fail "quadlet refuses the unit"; }
  run_service
  assert_status 0
  wait_for "the page" 5 page_at 127.0.0.1:18061
  page_at 10.9.0.1:18061 || fail "no page from elsewhere"
  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes
  assert_eq "who listens on the port" "" "$(ss -Hltn '( sport = 18061 )')"

  step "without a peer the service fails, and says why"
  "$WG4NETNS" quadlet web --image localhost/busybox --config dead --wait-handshake=1 -- sleep 1000 >"$units/web.container"
  sed 's/^Endpoint.*/Endpoint = 10.9.0.2:9/' "$SHARED/wg0.conf" >~/.config/wg4netns/dead.conf; chmod 600 ~/.config/wg4netns/dead.conf
  SERVICE=$(dryrun web)
  run_service
  [ "$STATUS" != 0 ] || fail "the service started"
  assert_has "the reason" "wg4netns: no handshake within 1 s" "$ERR"
  podman rm --force --time 0 --ignore web >/dev/null

  step "a unit with Network=pasta:--wg-config,… and PublishPort="
  "$WG4NETNS" drop-ins install >"$W/install.out"
  printf '%s\n' '[Container]' ContainerName=pasted Image=localhost/busybox 'Exec=sh -c "echo of the unit >/index.html; exec httpd -f -h /"' \
    Network=pasta:--wg-config,web,--wait-handshake=5 PublishPort=127.0.0.1:18060:80 >"$units/pasted.container"
  SERVICE=$(dryrun pasted) || { cat "$W/dryrun.err" >&2; fail "quadlet refuses the unit"; }
  assert_has "the network" "--network pasta:--wg-config,web,--wait-handshake=5" "$(lines ExecStart)"
  run_service; said
  assert_status 0
  assert_eq "links" $'lo\nwg0' "$(podman exec pasted ls /sys/class/net)"
  assert_eq "what the far end saw" "you are 10.6.0.1" "$(podman exec pasted wget -qO- http://far.test/)"
  assert_eq "the published port" "of the unit" "$(curl -sS -m 5 --retry 5 --retry-all-errors --retry-delay 1 http://127.0.0.1:18060/)"
  podman rm --force --time 0 pasted >/dev/null
  wait_for "no process of ours to be left" 5 no_processes
  "$WG4NETNS" drop-ins remove >"$W/remove.out"

  step "the example's unit is read without a complaint"
  cp "$SHARED/example.container" "$units/"
  SERVICE=$(dryrun example) || { cat "$W/dryrun.err" >&2; fail "quadlet refuses the example"; }
  assert_eq "complaints" "" "$(grep -iE 'error|unsupported|warn' "$W/dryrun.err" || true)"
  assert_has "no network of podman's" "--network none" "$(lines ExecStart)"
  assert_matches "the hook's directory" 'hooks-dir=[^ ]*/wg4netns/example.hooks.d' "$(lines ExecStart)"
  assert_has "time for the image and the peer" 300 "$(lines TimeoutStartSec)"
  rm "$units/example.container"

  step "from gluetun's compose file"
  compose >"$W/compose.yml"
  grep '^PrivateKey' "$SHARED/wg0.conf" | sed 's/.* = /KEY=/' >"$W/.env"
  capture "$WG4NETNS" quadlet app --from-gluetun "$W/compose.yml" -- sh -c 'echo of the unit >/index.html; exec httpd -f -h /'
  said
  assert_status 0
  assert_lacks "a key in the unit" "$(sed 's/^KEY=//' "$W/.env")" "$OUT$ERR"
  assert_has "its own port is left out, and said to be" "left out, gluetun's own: 8888:8888/tcp" "$OUT"
  assert_eq "the other one is kept" "Annotation=dev.wg4netns.publish=127.0.0.1:18062:80" "$(grep publish <<<"$OUT")"
  printf '%s\n' "$OUT" >"$units/app.container"
  assert_eq "mode of the configuration" 600 "$(stat -c %a ~/.config/wg4netns/app.conf)"
  SERVICE=$(dryrun app)
  assert_has "the image of the service that used gluetun's network" " localhost/busybox" "$(lines ExecStart)"
  run_service
  assert_status 0
  assert_eq "what the far end saw" "you are 10.6.0.1" "$(podman exec app wget -qO- http://far.test/)"
  wait_for "the page at the port that is kept" 5 page_at 127.0.0.1:18062
  podman rm --force --time 0 app >/dev/null
  wait_for "no process of ours to be left" 5 no_processes

  step "a configuration that is there already is not overwritten"
  capture "$WG4NETNS" quadlet app --from-gluetun "$W/compose.yml"
  assert_status 6
  assert_eq "and there is no unit" "" "$OUT"
}

page_at() { [ "$(curl -sS -m 2 "http://$1/")" = "of the unit" ]; }

compose() {
  cat <<C
services:
  gluetun:
    image: docker.io/qmcgee/gluetun:v3.40
    cap_add: [NET_ADMIN]
    ports: ["8888:8888/tcp", "127.0.0.1:18062:80"]
    environment:
      - VPN_SERVICE_PROVIDER=custom
      - VPN_TYPE=wireguard
      - WIREGUARD_ENDPOINT_IP=10.9.0.2
      - WIREGUARD_ENDPOINT_PORT=51820
      - WIREGUARD_PUBLIC_KEY=$(sed -n 's/^PublicKey = //p' "$SHARED/wg0.conf")
      - WIREGUARD_PRIVATE_KEY=\${KEY}
      - WIREGUARD_ADDRESSES=10.6.0.1/32
      - DNS_ADDRESS=10.6.0.2
  app:
    image: localhost/busybox
    network_mode: "service:gluetun"
C
}

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft curl engines
peer_world
start_wireguard_go_peer
far_services
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
chmod 644 "$W/wg0.conf"
root=$INTEGRATION/..
[ -d "$root/podman-example" ] || root=$INTEGRATION
cp "$root/podman-example/example.container" "$W/"
engine_canaries
in_engines trixie
assert_engine_canaries_silent
