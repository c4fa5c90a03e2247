#!/bin/bash
# podman run --network none --annotation dev.wg4netns.config=…: an OCI hook makes the tunnel before the container starts,
# in podman 4.3.1 and 5.4.2, unmodified.
#
#   container: wget ── wg0 ── wg4netns oci-hook :host ── h0 ═ p0 ── wireguard-go :peer ── page, dnsmasq at 10.6.0.2
#
# needs: netns tun wg wireguard-go socat dnsmasq nft curl engines
# timeout: 120
# as: root
. "$(dirname "$0")/lib.sh"

inside() {
  local hooks=$W/hooks.d run id tunnel
  install -m 600 "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf
  mkdir "$hooks"; "$WG4NETNS" oci-hook --print-definition >"$hooks/wg4netns.json"
  run=(podman --hooks-dir "$hooks" run --network none --annotation dev.wg4netns.config=work)

  step "a page, fetched by name through the tunnel and nothing else"
  capture "${run[@]}" --rm busybox sh -c 'cat /etc/resolv.conf; ls /sys/class/net; wget -qO- http://far.test/'
  said
  assert_status 0
  assert_has "the tunnel's name server" "nameserver 10.6.0.2" "$OUT"
  assert_has "the far end saw" "you are 10.6.0.1" "$OUT"
  assert_has "nothing but the tunnel" $'lo\nwg0' "$OUT"
  assert_eq "nothing of ours in the container's output" "" "$ERR"

  step "it is called after the container, healthy, and ends with it"
  capture "${run[@]}" --annotation dev.wg4netns.wait-handshake= --detach --name web busybox sleep 1000
  assert_status 0
  id=${OUT:0:12}
  capture "$WG4NETNS" status "$id"; assert_status 0
  read -r tunnel <<<"$(our_processes)"
  assert_eq "UDP sockets in the container" "" "$(podman unshare nsenter --net="/proc/$(podman inspect -f '{{.State.Pid}}' web)/ns/net" ss -Hlun)"
  assert_eq "UDP ports of the host" "$("$WG4NETNS" show "$id" listen-port)" "$(ss -Hlun | awk '{ print $4 }' | sed 's/.*://' | sort -u)"
  assert_eq "readable by everybody inside" "nameserver 10.6.0.2" "$(podman exec --user 12345 web grep nameserver /etc/resolv.conf)"
  watch_container web
  podman kill web >/dev/null
  wait_for "the namespace's end" 5 container_namespace_gone
  wait_for "the tunnel's end" 5 gone "$tunnel"
  wait_for "no process of ours to be left" 5 no_processes
  assert_eq "nothing is listed" "[]" "$("$WG4NETNS" ls --json)"

  step "a restart gives it a new one of the same name"
  podman --hooks-dir "$hooks" start web >/dev/null
  podman --hooks-dir "$hooks" restart --time 0 web >/dev/null
  capture "$WG4NETNS" status "$id" --max-age 1h; said
  assert_has "it is there" "$id" "$OUT"
  capture podman exec web wget -qO- http://far.test/
  assert_eq "the page after a restart" "you are 10.6.0.1" "$OUT"

  step "kill -9 of the helper leaves no network; attach-podman gives it back to the running container"
  read -r tunnel <<<"$(our_processes)"
  kill -9 "$tunnel"; wait_for "the helper's end" 5 gone "$tunnel"
  assert_eq "links of the container" "lo" "$(podman exec web ls /sys/class/net)"
  capture podman exec web wget -qO- http://far.test/
  [ "$STATUS" != 0 ] || fail "a page without a tunnel"
  PATH=$(dirname "$WG4NETNS"):$PATH "$SHARED/helper-scripts/attach-podman" web work
  assert_eq "its name" web "$("$WG4NETNS" ls | awk 'NR == 2 { print $1 }')"
  assert_seen "$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')"
  assert_eq "the page afterwards" "you are 10.6.0.1" "$(podman exec web wget -qO- http://far.test/)"
  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes

  mounted_socket

  step "a published port is there on the host, and goes with the container"
  "${run[@]}" --annotation dev.wg4netns.publish="127.0.0.1:18080:80 127.0.0.1:18081:81" --detach --name web busybox \
    sh -c 'echo inside >/index.html; exec httpd -f -p 80 -h /' >/dev/null
  wait_for "the page from the host" 5 sh -c "curl -sS -m 2 http://127.0.0.1:18080/ | grep -qx inside"
  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes
  ! curl -sS -m 2 http://127.0.0.1:18080/ 2>/dev/null || fail "the port outlived the container"

  step "datagrams are published, single addresses reached, servers and the MTU chosen, as annotations say"
  "${run[@]}" --annotation dev.wg4netns.publish="127.0.0.1:18053:5353/udp" --annotation dev.wg4netns.reach=127.0.0.1:8099 \
    --annotation dev.wg4netns.dns=10.6.0.77 --annotation dev.wg4netns.mtu=1300 --detach --name web busybox sleep 1000 >/dev/null
  start echo podman unshare nsenter --net="/proc/$(podman inspect -f '{{.State.Pid}}' web)/ns/net" perl -MIO::Socket::INET -e '
    my $socket = IO::Socket::INET->new(Proto => "udp", LocalPort => 5353) or die; my $line;
    while (defined $socket->recv($line, 1000)) { $socket->send($line) }'
  wait_for "the datagram" 5 datagram_comes_back 18053
  assert_eq "what is reached" "of the host" "$(podman exec web nc -w 5 127.0.0.1 8099)"
  assert_eq "the name server" "nameserver 10.6.0.77" "$(podman exec web grep nameserver /etc/resolv.conf)"
  assert_has "the MTU" "mtu 1300" "$(podman exec web ip link show wg0)"
  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes

  step "with a user namespace of its own"
  capture "${run[@]}" --rm --userns=keep-id busybox wget -qO- http://far.test/
  said
  assert_eq "the page" "you are 10.6.0.1" "$OUT"

  step "what the user mounts over resolv.conf stays"
  echo "nameserver 10.6.0.99" >"$W/resolv.conf"
  capture "${run[@]}" --rm --volume "$W/resolv.conf:/etc/resolv.conf" busybox cat /etc/resolv.conf
  assert_eq "resolv.conf" "nameserver 10.6.0.99" "$OUT"

  step "a tunnel that cannot be had fails the start, with one clear line"
  sed 's/^Endpoint.*/Endpoint = 10.9.0.2:9/' "$SHARED/wg0.conf" >~/.config/wg4netns/dead.conf; chmod 600 ~/.config/wg4netns/dead.conf
  refused 'no handshake within 1 s' --annotation dev.wg4netns.config=dead --annotation dev.wg4netns.wait-handshake=1
  assert_at_most "ms until then" 5000 "$TOOK_MS"
  refused 'absent.conf' --annotation dev.wg4netns.config=absent
  cut_key "$SHARED/wg0.conf" >~/.config/wg4netns/cut.conf; chmod 600 ~/.config/wg4netns/cut.conf
  refused "$HOME/.config/wg4netns/cut.conf.:2: .PrivateKey.: expected 32 bytes" --annotation dev.wg4netns.config=cut
  assert_lacks_parts "no part of the key is quoted" "$(sed -n 's/^PrivateKey = //p' "$SHARED/wg0.conf")" "$OUT$ERR"
  refused 'unknown annotation .dev.wg4netns.wait_handshake.' --annotation dev.wg4netns.wait_handshake=1
  # podman 5.4.2 with a terminal prints nonsense about conmon whenever a hook fails, whatever the hook.
  [ "$ENGINE" != host ] || refused 'absent.conf' --annotation dev.wg4netns.config=absent --tty
  run=(podman --hooks-dir "$hooks" run --annotation dev.wg4netns.config=work)
  if [ "$ENGINE" = host ]; then refused 'another interface is up: .tap0.' --network slirp4netns; else refused 'another interface is up' --network pasta; fi
  wait_for "no process of ours to be left" 5 no_processes
}

# A container that has the configuration socket of another one's tunnel. The socket's mode is opened on purpose: who asks is to
# be refused by the server, not by the file.
mounted_socket() {
  local id socket libraries=() directory
  step "a configuration socket that is mounted into a container serves its owner there, and no other user of the container"
  "${run[@]}" --detach --name web busybox sleep 1000 >/dev/null
  id=$(podman inspect -f '{{.Id}}' web)
  socket=$XDG_RUNTIME_DIR/wireguard/${id:0:12}.sock
  test -S "$socket" || fail "no socket: $socket"
  chmod 666 "$socket"
  cat >"$W/ask" <<'P'
use IO::Socket::UNIX; $SIG{PIPE} = "IGNORE";
my $s = IO::Socket::UNIX->new(Peer => "/uapi.sock") or die "connect: $!";
my $answer; syswrite($s, "get=1\n\n");
print "uid $>: ", sysread($s, $answer, 11) ? $answer : "nothing", "\n";
P
  chmod 644 "$W/ask"
  for directory in /usr /lib /lib64; do libraries+=(--volume "$directory:$directory:ro"); done
  asked_as() { # WANTED FLAG…
    capture podman run --rm --network none "${libraries[@]}" --volume "$W/ask:/ask:ro" --volume "$socket:/uapi.sock" "${@:2}" \
      busybox /usr/bin/perl /ask
    said
    assert_status 0
    assert_eq "what is answered to: ${*:2}" "$1" "$OUT"
  }
  asked_as "uid 0: private_key" --user 0
  asked_as "uid 12345: nothing" --user 12345
  asked_as "uid $(id -u): private_key" --userns=keep-id
  asked_as "uid 0: nothing" --userns=keep-id --user 0
  wait_for "the log" 5 sh -c "'$WG4NETNS' logs ${id:0:12} | grep -c 'refused a configuration client of another user' | grep -qx 2"
  assert_eq "the page, all the same" "you are 10.6.0.1" "$(podman exec web wget -qO- http://far.test/)"
  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes
}

refused() { # PATTERN FLAG…
  capture "${run[@]}" "${@:2}" --rm busybox sh -c 'echo ran'
  said
  [ "$STATUS" != 0 ] || fail "the container started"
  assert_lacks "what the container says" ran "$OUT"
  assert_eq "lines with our word" 1 "$(grep -c "wg4netns: .*$1" <<<"$ERR")"
}

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft curl engines
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
chmod 644 "$W/wg0.conf"
far_services
copy_helper_scripts
start host socat TCP-LISTEN:8099,bind=127.0.0.1,fork,reuseaddr 'SYSTEM:echo of the host'
engine_canaries
in_engines
assert_engine_canaries_silent
