#!/bin/bash
# Rootless Docker with us in slirp4netns's place: every container of the daemon is behind the tunnel. And single containers of a
# daemon that has the real slirp4netns: by attach, and as a device.
#
#   container ── docker0 ── rootlesskit's child: tap0 ── wg4netns (as slirp4netns) :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go socat dnsmasq nft curl engines docker
# timeout: 120
# as: root
. "$(dirname "$0")/lib.sh"

# daemon NAME FLAG…: dockerd-rootless.sh as the distribution has it; leaves DAEMON. Returns when it answers or has ended.
daemon() {
  local name=$1; shift
  start "$name" dockerd-rootless.sh --storage-driver=vfs "$@"; DAEMON=$STARTED
  wait_for "the daemon" 20 answers_or_dead
}
answers_or_dead() { docker info || gone "$DAEMON"; }
daemon_ends() {
  docker ps --all --quiet | xargs --no-run-if-empty docker rm --force >/dev/null 2>&1 || true
  kill "$DAEMON"; wait_for "the daemon's end" 10 gone "$DAEMON"
  wait_for "no process of ours to be left" 5 no_processes
}

inside() {
  local run=(docker run --rm --add-host none:127.0.0.1 busybox) tunnel
  export PATH=/usr/share/docker.io/contrib:$PATH DOCKER_HOST=unix://$XDG_RUNTIME_DIR/docker.sock
  export DOCKERD_ROOTLESS_ROOTLESSKIT_NET=slirp4netns
  install -m 600 "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf

  printed_environment Docker DOCKERD_ROOTLESS_ROOTLESSKIT
  no_daemon_without_configuration DOCKERD_ROOTLESS_ROOTLESSKIT

  step "every container is behind the tunnel"
  daemon docker
  note "$(docker --version)"
  docker import - busybox <"$SHARED/image.tar" >"$W/import.log"
  capture "${run[@]}" sh -c 'cat /etc/resolv.conf; wget -qO- http://far.test/'
  said
  assert_status 0
  assert_has "the far end saw" "you are 10.6.0.1" "$OUT"
  assert_seen "$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')"
  # The far end has this address, too; beside the tunnel it would say 10.9.0.1.
  assert_eq "a page that the host has a way to" "you are 10.6.0.1" "$("${run[@]}" wget -qO- http://10.9.0.2:8080/)"

  step "large packets find their way through the bridge, both ways"
  capture "${run[@]}" sh -c 'head -c 8000000 /dev/zero | nc -w 10 10.6.0.2 81'; said
  wait_for "eight million bytes" 5 sunk 8000000
  assert_eq "bytes of a large page" 8000000 "$("${run[@]}" sh -c 'nc -w 10 10.6.0.2 82 </dev/null' | wc -c)"

  step "a published port answers from the host"
  docker run --detach --name web -p 127.0.0.1:18080:80 busybox sh -c 'echo hallo >/index.html; exec httpd -f -h /' >/dev/null
  wait_for "the page" 5 page_is hallo http://127.0.0.1:18080/

  step "kill -9 of the helper leaves no network, and never the host's"
  tunnel=$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')
  kill -9 "$tunnel"; wait_for "the helper's end" 5 gone "$tunnel"
  for page in 10.6.0.2 10.9.0.2:8080; do no_page "http://$page/" docker exec web; done
  daemon_ends

  step "nothing chosen: the real slirp4netns"
  unset WG4NETNS_CONFIG
  mkdir "$W/cdi"
  echo '{ "features": { "cdi": true }, "cdi-spec-dirs": ["'"$W/cdi"'"] }' >"$W/daemon.json"
  daemon real --config-file "$W/daemon.json"
  assert_eq "a page by way of the host" "you are 10.9.0.1" "$("${run[@]}" wget -qO- http://10.9.0.2:8080/)"
  no_processes || fail "a process of ours"

  step "attach gives a single container its tunnel; it ends with the container"
  docker run --detach --name single --network none busybox sleep 1000 >/dev/null
  "$WG4NETNS" --netns-pid "$(docker inspect --format '{{.State.Pid}}' single)" --config work --background --wait-handshake
  assert_seen "$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')"
  assert_eq "links" $'lo\nwg0' "$(docker exec single ls /sys/class/net)"
  assert_eq "the far end saw" "you are 10.6.0.1" "$(docker exec single wget -qO- http://10.6.0.2/)"
  docker rm --force single >/dev/null
  wait_for "no process of ours to be left" 5 no_processes

  step "the tunnel as a device; Docker puts a resolv.conf of its own over ours, so it is told the server"
  "$WG4NETNS" cdi generate --config work --name work --wait-handshake=5 >"$W/cdi/work.json"
  capture docker run --rm --network none --dns 10.6.0.2 --device wg4netns.dev/tunnel=work busybox sh -c 'cat /etc/resolv.conf; ls /sys/class/net; wget -qO- http://far.test/'
  said
  assert_status 0
  assert_has "the tunnel's name server" "nameserver 10.6.0.2" "$OUT"
  assert_has "nothing but the tunnel" $'lo\nwg0' "$OUT"
  assert_has "the far end saw" "you are 10.6.0.1" "$OUT"
  wait_for "no process of ours to be left" 5 no_processes
  daemon_ends
}


in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft curl engines docker
daemon_world
engine_canaries
in_engines trixie
assert_engine_canaries_silent
