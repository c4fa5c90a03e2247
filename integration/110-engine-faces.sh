#!/bin/bash
# podman run --network pasta:--wg-config,NAME (5.4.2) and slirp4netns with WG4NETNS_CONFIG (4.3.1 and 5.4.2), unmodified.
#
#   container: wget ── wg0/tap0 ── wg4netns (as pasta, as slirp4netns) :host ── h0 ═ p0 ── wireguard-go :peer ── page at 10.6.0.2
#
# needs: netns tun wg wireguard-go socat dnsmasq nft engines
# timeout: 200
# as: root
. "$(dirname "$0")/lib.sh"

inside() {
  cp "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf
  sed 's/^Endpoint.*/Endpoint = 10.9.0.2:9/' "$SHARED/wg0.conf" >~/.config/wg4netns/dead.conf
  sed 's/^AllowedIPs.*/AllowedIPs = 0.0.0.0\/0, ::\/0/' "$SHARED/wg0.conf" >~/.config/wg4netns/all.conf
  cut_key "$SHARED/wg0.conf" >~/.config/wg4netns/cut.conf
  chmod 600 ~/.config/wg4netns/*
  cp -p ~/.config/wg4netns/work.conf "$W/x.conf"
  mkdir "$W/directory.conf"
  "$WG4NETNS" drop-ins install >"$W/install.out"
  BESIDE=(podman unshare)
  if [ "$ENGINE" = trixie ]; then with_pasta; faces; pasta_options; fi
  with_slirp4netns; faces
  slirp4netns_options
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
  run() {
    WG4NETNS_CONFIG=$1 WG4NETNS_WAIT_HANDSHAKE=${wait-} podman run --network slirp4netns:port_handler=slirp4netns "${@:2}"
  }
}

faces() {
  local id tunnel after wait=''

  step "$helper: its version names us, and the program whose place we took"
  capture env WG4NETNS_CONFIG=work ~/.local/share/wg4netns/libexec/$helper --version
  assert_matches "a configuration is chosen" "^wg4netns v[0-9.]+ as $helper\$" "$OUT"
  capture ~/.local/share/wg4netns/libexec/$helper --version
  # This version of pasta prints its own to terminals alone.
  if [ $helper = pasta ]; then after=; else after=$'\n'slirp4netns; fi
  assert_matches "none is" "^wg4netns v[0-9.]+ as $helper$after" "$OUT"

  step "$helper: a page, fetched through the tunnel and nothing else"
  capture run work --rm --cap-add net_raw busybox sh -c 'ls /sys/class/net; wget -qO- http://10.6.0.2/; ping -c 1 -W 5 fd06::2'
  said
  assert_status 0
  assert_has "the far end saw" "you are 10.6.0.1" "$OUT"
  assert_has "IPv6" "1 packets received" "$OUT"
  assert_has "nothing but the tunnel" "lo"$'\n'"$link"$'\n' "$OUT"
  assert_eq "nothing of ours in the container's output" "" "$ERR"

  step "$helper: it is listed, healthy, and ends with the container, whose ports are published"
  wait=5
  capture run work --detach --name web -p 127.0.0.1:18071:80 busybox sleep 1000
  assert_status 0
  id=${OUT:0:12}
  tunnel=$(listed 2)
  assert_seen "$tunnel"
  [ -n "$(forwarder_process)" ] || fail "no forwarder is seen"
  [ -n "$(published)" ] || fail "no published port is seen"
  [ $helper = pasta ] || [ -n "$(api_sockets)" ] || fail "no socket of podman's is seen"
  capture "$WG4NETNS" status "$(listed 1)"; assert_status 0
  [ $helper = pasta ] || assert_eq "its name" "$id" "$(listed 1)"
  if [ $helper = pasta ]; then assert_confined tx rx forwarder socket-factory; else assert_confined tx rx forwarder socket-factory remover; fi
  watch_container web
  not container_namespace_gone || fail "the watch shows nothing"
  podman kill web >/dev/null
  wait_for "the namespace's end" 5 container_namespace_gone
  wait_for "the tunnel's end" 5 gone "$tunnel"
  wait_for "no process of ours to be left" 5 no_processes
  assert_eq "nothing is listed" "" "$(listed 1)"
  nothing_stays

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
  kill -9 "$tunnel"; wait_for "the helper's end" 5 gone "$tunnel"
  wait_for "no process of ours to be left, the forwarder neither" 5 no_processes
  assert_eq "sockets for ports" "" "$(api_sockets)"
  wait_for "the link's end" 5 links_are lo
  no_page http://10.6.0.2/ podman exec web
  "$WG4NETNS" --netns-pid "$(podman inspect -f '{{.State.Pid}}' web)" --config work --background --wait-handshake
  assert_seen "$(listed 2)"
  assert_eq "the page afterwards" "you are 10.6.0.1" "$(podman exec web wget -qO- http://10.6.0.2/)"
  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes
  nothing_stays

  step "$helper: with a user namespace of its own"
  capture run work --rm --userns=keep-id busybox wget -qO- http://10.6.0.2/
  said
  assert_eq "the page" "you are 10.6.0.1" "$OUT"

  step "$helper: a configuration by its path"
  capture run "$W/x.conf" --rm busybox wget -qO- http://10.6.0.2/
  assert_eq "the page" "you are 10.6.0.1" "$OUT"

  step "$helper: a tunnel that cannot be had fails the start, in time and with one clear line"
  wait=1
  refused dead 'no handshake within 1 s'
  assert_at_most "ms until then" 4000 "$TOOK_MS"
  wait=''
  refused absent 'no configuration .absent.'
  refused "$W/absent.conf" "cannot open .$W/absent.conf.: No such file"
  refused "$SHARED/closed.conf" "cannot open .$SHARED/closed.conf.: Permission denied"
  refused "$W/directory.conf" ".$W/directory.conf. is a directory, not a file"
  refused cut "$HOME/.config/wg4netns/cut.conf.:2: .PrivateKey.: expected 32 bytes"
  assert_lacks_parts "no part of the key is quoted" "$(sed -n 's/^PrivateKey = //p' "$SHARED/wg0.conf")" "$OUT$ERR"
  wait_for "no process of ours to be left" 5 no_processes
}

pasta_options() {
  local forwarder name
  step "pasta: the interface is called as the container wishes"
  capture podman run --rm --network pasta:--wg-config,work,--ns-ifname,eth0 busybox sh -c 'ls /sys/class/net; wget -qO- http://10.6.0.2/'
  said
  assert_eq "links and page" $'eth0\nlo\nyou are 10.6.0.1' "$OUT"

  step "pasta: podman's name for the host is refused at once, and one port of it can be opened"
  capture podman run --rm --network pasta:--wg-config,all busybox sh -c 'ip route get 169.254.1.2; nc -w 5 host.containers.internal 8099'
  said
  [ "$STATUS" != 0 ] || fail "the host answered"
  assert_has "why" "No route to host" "$ERR"
  capture podman run --rm --network pasta:--wg-config,all,--reach,127.0.0.1:8099 busybox sh -c 'nc -w 5 127.0.0.1 8099; nc -w 2 10.9.0.1 8099'
  said
  assert_eq "what is opened, and no more" "of the host" "$OUT"

  step "pasta: what a tunnel cannot do fails the start and says why"
  for option in --map-host-loopback,169.254.1.2 -T,8099 -t,auto -t,all --no-udp; do
    capture podman run --rm --network "pasta:--wg-config,work,$option" busybox echo ran
    [ "$STATUS" != 0 ] || fail "the container started: $option"
    assert_matches "why" "wg4netns \(as pasta\): .${option/,/ }. cannot be had with a tunnel: " "$ERR"
  done

  step "pasta: a port that is taken for a moment, as by the run before, is waited for"
  start taken timeout 0.6 perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1:18072", Listen => 1); sleep 100'
  wait_for "the port to be taken" 5 port_is_taken 18072
  capture podman run --rm --network pasta:--wg-config,work -p 127.0.0.1:18072:80 busybox echo ran
  said
  assert_status 0
  wait_for "no process of ours to be left" 5 no_processes

  step "pasta: faults after the fork are in the log, also when the tunnel is gone"
  podman run --detach --name web --network pasta:--wg-config,work -p 18070:80 busybox sleep 1000 >/dev/null
  name=$(listed 1)
  forwarder=$(forwarder_process)
  kill -9 "$forwarder"; wait_for "the forwarder's end" 5 gone "$forwarder"
  wait_for "the log" 5 logged "$name" "ports are no longer forwarded"
  assert_eq "the page, all the same" "you are 10.6.0.1" "$(podman exec web wget -qO- http://10.6.0.2/)"
  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes
  logged "$name" "ports are no longer forwarded" || fail "the log went with the tunnel"
}

slirp4netns_options() {
  local network=slirp4netns:cidr=10.7.0.0/24
  step "slirp4netns: another network of its own, and names over IPv6"
  export WG4NETNS_CONFIG=work
  capture podman run --rm --network $network busybox sh -c 'wget -qO- http://far.test/; echo; ip -o addr'
  said
  assert_has "the page by name" "you are 10.6.0.1" "$OUT"
  assert_has "its own address there" "inet 10.7.0.100/32" "$OUT"
  for server in 10.7.0.3 10.0.2.3 fd00::3; do
    capture podman run --rm --network $network busybox nslookup far.test $server
    said
    assert_matches "the answer of $server" "Address:?.* 10.6.0.2" "$OUT"
  done
  capture podman run --rm --network $network busybox nc -w 5 10.7.0.2 80
  [ "$STATUS" != 0 ] || fail "the host answered"
  assert_has "the gateway's address is the host's, and refused" "No route to host" "$ERR"
  unset WG4NETNS_CONFIG
  wait_for "no process of ours to be left" 5 no_processes

  step "slirp4netns: it ends by its --exit-fd, which podman's conmon holds, while the namespace stays"
  local tunnel namespace
  run work --detach --name web busybox sleep 1000 >/dev/null
  tunnel=$(listed 2); namespace=$(podman inspect -f '{{.NetworkSettings.SandboxKey}}' web)
  watch_container web
  kill -9 "$(podman inspect -f '{{.State.ConmonPid}}' web)"
  wait_for "the helper's end" 5 gone "$tunnel"
  test -e "$namespace" || fail "the namespace's file went"
  not container_namespace_gone || fail "the namespace went"
  # podman 5 has to be told twice of a container that nobody watches any more.
  podman rm --force --time 0 web >/dev/null 2>&1 || podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes
}

logged() { "$WG4NETNS" logs "$1" | grep -q "$2"; }
forwarder_process() {
  local pid
  for pid in $(our_processes); do
    if tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q __forwarder; then echo "$pid"; fi
  done
}
# Sockets that podman had us make to be told of ports.
api_sockets() { find "$XDG_RUNTIME_DIR" -type s -name '*.net'; }
port_is_taken() { [ -n "$(ss -Hltn "( sport = $1 )")" ]; }
published() { ss -Hltn '( sport = 18071 )'; }
nothing_stays() {
  assert_eq "in the socket directory" "" "$(ls "$XDG_RUNTIME_DIR/wireguard")"
  assert_eq "sockets for ports" "" "$(api_sockets)"
  assert_eq "published ports" "" "$(published)"
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
# The helpers run as root of podman's user namespace, for whom no mode closes a file of the user's own.
install -m 600 "$W/wg0.conf" "$W/closed.conf"
chmod 644 "$W/wg0.conf"
far_services
engine_canaries
# Services of the host, one of its loopback.
for address in 127.0.0.1 10.9.0.1; do start page socat "TCP-LISTEN:8099,bind=$address,fork,reuseaddr" 'SYSTEM:echo of the host'; done
host_pages() { [ "$(ss -Hltn '( sport = 8099 )' | wc -l)" = 2 ]; }
wait_for "the host's pages" 5 host_pages
in_engines
assert_engine_canaries_silent
