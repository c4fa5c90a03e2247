#!/bin/bash
# rootlesskit 1.1.0 and 2.0.2 (and 2.1, where somebody has put one) with us in slirp4netns's place: the network of rootless Docker and nerdctl.
#
#   rootlesskit's child: curl ── tap0 ── wg4netns (as slirp4netns) :host ── h0 ═ p0 ── wireguard-go :peer ── page at 10.6.0.2
#
# needs: netns tun wg wireguard-go socat dnsmasq nft curl engines
# timeout: 120
# as: root
. "$(dirname "$0")/lib.sh"

inside() {
  local flags=(--net=slirp4netns --disable-host-loopback --copy-up=/etc "--slirp4netns-binary=$W/faces/slirp4netns")
  cp "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf; chmod 600 ~/.config/wg4netns/*
  mkdir "$W/faces"; ln -s "$WG4NETNS" "$W/faces/slirp4netns"
  note "$(rootlesskit --version)"
  # Not through a pipe: it is ended by `grep -q` before it has said all, and that would skip what follows.
  local knows_none=no help; help=$(rootlesskit --help)
  if timeout 10 rootlesskit --net=none true 2>/dev/null; then knows_none=yes; fi

  step "the page, by routes that carry the tunnel's MTU, whatever rootlesskit then sets"
  export WG4NETNS_CONFIG=work
  capture timeout 20 rootlesskit "${flags[@]}" sh -c 'cat /etc/resolv.conf /sys/class/net/tap0/mtu; ip route get 10.200.0.1; curl -sS -m 10 http://10.6.0.2/; echo; curl -sS -m 10 http://far.test/'
  said
  assert_status 0
  assert_has "the page, and again by name" $'you are 10.6.0.1\nyou are 10.6.0.1' "$OUT"
  assert_has "rootlesskit's MTU" 65520 "$OUT"
  assert_has "the route's MTU" "mtu 1420" "$OUT"
  assert_has "the route's source" "src 10.6.0.1" "$OUT"
  wait_for "no process of ours to be left" 5 no_processes

  step "with --ipv6: a name server of IPv6, too"
  capture timeout 20 rootlesskit "${flags[@]}" --ipv6 busybox nslookup far.test fd00::3
  said
  assert_matches "the answer" 'Address:?.* 10\.6\.0\.2' "$OUT"

  step "large transfers, both ways"
  capture timeout 20 rootlesskit "${flags[@]}" sh -c 'iperf3 -c 10.6.0.2 -n 16M && iperf3 -c 10.6.0.2 -p 5202 -n 16M -R'
  [ "$STATUS" = 0 ] || { said; fail "iperf3"; }

  cat >"$W/echo" <<'P'
use IO::Socket::INET;
my $socket = IO::Socket::INET->new(Proto => "udp", LocalPort => 5353) or die; my $line;
while (defined $socket->recv($line, 1000)) { $socket->send($line) }
P
  for driver in builtin slirp4netns; do
    step "-p by its port driver $driver, TCP and UDP"
    start kit rootlesskit "${flags[@]}" --port-driver=$driver -p 127.0.0.1:18081:81/tcp -p 0.0.0.0:18080:80/tcp -p 127.0.0.1:18053:5353/udp sh -c "
      mkdir -p '$W/www/cgi-bin'; echo hallo >'$W/www/index.html'; printf '%s\n' '#!/bin/sh' 'echo; echo from \$REMOTE_ADDR' >'$W/www/cgi-bin/who'
      chmod 755 '$W/www/cgi-bin/who'; busybox httpd -h '$W/www'; busybox httpd -h '$W/www' -p 81
      exec perl '$W/echo'"
    kit=$STARTED
    wait_for "the page" 10 page_is hallo http://127.0.0.1:18080/
    assert_seen "$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')"
    assert_eq "the other page" hallo "$(curl -sS -m 5 http://127.0.0.1:18081/)"
    assert_eq "the page from elsewhere" hallo "$(curl -sS -m 5 http://10.9.0.1:18080/)"
    wait_for "the datagram" 5 datagram_comes_back 18053
    # The builtin driver dials 127.0.0.1 itself; what we forward comes from an address of the namespace.
    if [ $driver = builtin ]; then from=127.0.0.1; else from='10\.(6\.0\.1|0\.2\.100)'; fi
    assert_matches "who asks" "^from (::ffff:)?$from\$" "$(curl -sS -m 5 http://10.9.0.1:18080/cgi-bin/who | tr -d '[]')"
    if [ $driver = builtin ]; then assert_confined tx rx; else assert_confined tx rx forwarder socket-factory remover; fi
    kill "$kit"; wait_for "rootlesskit's end" 5 gone "$kit"
    wait_for "no process of ours to be left" 5 no_processes
    ! curl -sS -m 2 http://127.0.0.1:18080/ 2>/dev/null || fail "the port outlived it"
    assert_eq "sockets left on the UDP port" "" "$(ss -Hlun '( sport = 18053 )')"
  done

  if [[ $help = *--detach-netns* ]]; then
    step "with a detached network namespace, for longer than a look takes"
    capture timeout 20 rootlesskit "${flags[@]}" --detach-netns sh -c '
      page() { nsenter -n"$ROOTLESSKIT_STATE_DIR/netns" curl -sS -m 10 http://10.6.0.2/; }
      page && sleep 1.5 && page && mount --bind "$ROOTLESSKIT_STATE_DIR/resolv.conf" /etc/resolv.conf &&
      nsenter -n"$ROOTLESSKIT_STATE_DIR/netns" curl -sS -m 10 http://far.test/'
    said
    assert_status 0
    assert_has "the page, twice, and by name" "you are 10.6.0.1you are 10.6.0.1you are 10.6.0.1" "$OUT"
    wait_for "no process of ours to be left" 5 no_processes

    step "with a detached network namespace, and a published port"
    mkdir -p "$W/www"; echo hallo >"$W/www/index.html"
    start detached rootlesskit "${flags[@]}" --detach-netns --port-driver=builtin -p 127.0.0.1:18082:82/tcp \
      sh -c "exec nsenter -n\"\$ROOTLESSKIT_STATE_DIR/netns\" busybox httpd -f -h '$W/www' -p 82"
    kit=$STARTED
    wait_for "the page" 10 page_is hallo http://127.0.0.1:18082/
    assert_seen "$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')"
    kill "$kit"; wait_for "rootlesskit's end" 5 gone "$kit"
    wait_for "no process of ours to be left" 5 no_processes

    ln -s "$WG4NETNS" "$W/faces/pasta"
    local pasta=(rootlesskit --net=pasta "--pasta-binary=$W/faces/pasta" --disable-host-loopback --copy-up=/etc)
    if [ $knows_none = yes ]; then
      step "its pasta driver, which from 2.1 on leaves the interface to us"
      capture timeout 20 "${pasta[@]}" sh -c 'curl -sS -m 10 http://10.6.0.2/; echo; curl -sS -m 10 http://far.test/'
      said
      assert_status 0
      assert_has "the page, and again by name" $'you are 10.6.0.1\nyou are 10.6.0.1' "$OUT"
      wait_for "no process of ours to be left" 5 no_processes

      step "that with a detached network namespace, for longer than a look takes"
      capture timeout 20 "${pasta[@]}" --detach-netns sh -c '
        page() { nsenter -n"$ROOTLESSKIT_STATE_DIR/netns" curl -sS -m 10 http://10.6.0.2/; }
        page && sleep 1.5 && page'
      said
      assert_status 0
      assert_has "the page, twice" "you are 10.6.0.1you are 10.6.0.1" "$OUT"
      wait_for "no process of ours to be left" 5 no_processes

      step "its implicit ports cannot be had, and we say why"
      capture timeout 20 "${pasta[@]}" --port-driver=implicit echo ran
      [ "$STATUS" != 0 ] || fail "it started"
      assert_has "why" "wg4netns (as pasta): \`-t auto\` cannot be had with a tunnel: " "$ERR"
      wait_for "no process of ours to be left" 5 no_processes
    else
      step "its pasta driver, which does not ask for configuration (--config-net), cannot be had, and we say why"
      capture timeout 20 "${pasta[@]}" --debug sh -c 'curl -sS -m 2 http://10.6.0.2/'
      said
      [ "$STATUS" != 0 ] || fail "a page"
      assert_has "why" "wg4netns (as pasta): an interface without \`--config-net\` cannot be had with a tunnel: " "$ERR"
    fi
  fi

  # What `--net=none` of rootlesskit 2.1 makes, by whatever means this one has.
  step "a network namespace with \`lo\` alone: attach gives it the tunnel, and goes with it"
  local none=(rootlesskit --net=none)
  [ $knows_none = yes ] || none=(rootlesskit --net=host unshare --net)
  note "${none[*]}"
  rm -f "$W/bare.pid" "$W/go"
  start bare "${none[@]}" sh -c "
    ip link set lo up; ip -o link; echo \$\$ >'$W/bare.pid'
    until [ -e '$W/go' ]; do sleep 0.05; done; curl -sS -m 10 http://10.6.0.2/; echo; sleep 60"
  wait_for "its command" 10 test -s "$W/bare.pid"
  assert_eq "interfaces before" 1 "$(grep -c '^[0-9]*:' "$W/bare.log")"
  "$WG4NETNS" --netns-pid "$(cat "$W/bare.pid")" --config work --background --wait-handshake=10
  assert_seen "$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')"
  : >"$W/go"
  wait_for "the page" 10 grep -q "you are 10.6.0.1" "$W/bare.log"
  kill "$(cat "$W/bare.pid")"; wait_for "no process of ours to be left" 5 no_processes

  if [ $knows_none = yes ]; then
    mkdir -p "$W/www"; echo hallo >"$W/www/index.html"
    step "--net=none with a port it publishes itself, before there is a tunnel and after"
    kit_until_ready --port-driver=builtin -p 127.0.0.1:18083:83/tcp -- busybox httpd -f -h "$W/www" -p 83
    wait_for "the page" 10 page_is hallo http://127.0.0.1:18083/
    "$WG4NETNS" --netns-pid "$child" --config work --background --wait-handshake=10
    assert_seen "$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')"
    assert_has "the far page" "you are 10.6.0.1" "$(nsenter -t "$child" -U -n --preserve-credentials curl -sS -m 10 http://10.6.0.2/)"
    page_is hallo http://127.0.0.1:18083/ || fail "the page is gone"
    kill "$kit"; wait_for "rootlesskit's end" 5 gone "$kit"
    wait_for "no process of ours to be left" 5 no_processes

    step "that with a detached network namespace, which is a file"
    # shellcheck disable=SC2016 # rootlesskit's child is to expand it
    kit_until_ready --detach-netns --port-driver=builtin -p 127.0.0.1:18084:84/tcp -- \
      sh -c 'exec nsenter -n"$ROOTLESSKIT_STATE_DIR/netns" busybox httpd -f -h "$0" -p 84' "$W/www"
    wait_for "the page" 10 page_is hallo http://127.0.0.1:18084/
    # Not by its process: that is in the host's, or here, if a thread of its that had to do something here was its first one.
    local netns=/proc/$child/root$W/state/netns
    "$WG4NETNS" --netns "$netns" --config work --background --wait-handshake=10
    assert_seen "$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')"
    assert_has "the far page" "you are 10.6.0.1" \
      "$(nsenter -t "$child" -U --net="$netns" --preserve-credentials curl -sS -m 10 http://10.6.0.2/)"
    page_is hallo http://127.0.0.1:18084/ || fail "the page is gone"
    kill "$kit"; wait_for "rootlesskit's end" 5 gone "$kit"
    wait_for "no process of ours to be left" 5 no_processes

    step "that from inside"
    # shellcheck disable=SC2016
    kit_until_ready --detach-netns -- sh -c '
      "$0" --netns "$ROOTLESSKIT_STATE_DIR/netns" --config "$1" --background --wait-handshake=10 &&
      nsenter -n"$ROOTLESSKIT_STATE_DIR/netns" curl -sS -m 10 http://10.6.0.2/; sleep 60' "$WG4NETNS" ~/.config/wg4netns/work.conf
    wait_for "the far page" 10 grep -q "you are 10.6.0.1" "$W/none.log"
    kill "$kit"; wait_for "rootlesskit's end" 5 gone "$kit"
    wait_for "no process of ours to be left" 5 no_processes
  fi

  step "a configuration that is not there fails the start"
  # rootlesskit shows what its helpers say only then.
  WG4NETNS_CONFIG=absent capture timeout 20 rootlesskit --debug "${flags[@]}" echo ran
  [ "$STATUS" != 0 ] || fail "it started"
  assert_has "why" "wg4netns (as slirp4netns): no configuration \`absent\`" "$ERR"
  assert_lacks "what the command says" ran "$OUT"

  step "none chosen: the real slirp4netns"
  unset WG4NETNS_CONFIG
  capture timeout 20 rootlesskit "${flags[@]}" cat /sys/class/net/tap0/type
  assert_eq "an Ethernet device" 1 "$OUT"
  no_processes || fail "a process of ours"
}

# kit_until_ready FLAG… -- CMD…: rootlesskit --net=none, its pid in $kit and its child's in $child; with --detach-netns one start of
# seven fails (`nsenter: reassociate to namespaces failed`: it enters the namespaces of its own `nsenter` before that is in them).
kit_until_ready() {
  local try
  for try in {1..10}; do
    rm -rf "$W/state"; : >"$W/none.log"
    local flags=(); for flag; do [ "$flag" != -- ] || break; flags+=("$flag"); done
    start none rootlesskit --net=none --state-dir="$W/state" "${flags[@]}" "${@:${#flags[@]}+2}"
    kit=$STARTED
    wait_for "its child, or its end" 10 has_child_or_ended
    if child=$(cat "$W/state/child_pid" 2>/dev/null); then return; fi
    note "try $try: $(tail -n 1 "$W/none.log")"
  done
  fail "it does not start"
}

has_child_or_ended() { [ -s "$W/state/child_pid" ] || gone "$kit"; }

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft curl iperf3 engines
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf" "DNS = 10.6.0.2" -- "AllowedIPs = 0.0.0.0/0, ::/0"
chmod 644 "$W/wg0.conf"
far_services
start iperf on peer iperf3 -s -B 10.6.0.2
start iperf-back on peer iperf3 -s -B 10.6.0.2 -p 5202
engine_canaries
in_engines
assert_engine_canaries_silent
