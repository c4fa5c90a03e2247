#!/bin/bash
# Published ports and DNS under podman: -p by pasta's flags, by rootlessport and by slirp4netns's API socket; names are asked of
# the tunnel's server and of nobody else, above all not of who has the addresses of the host's name servers at the far end.
#
#   :host 18080 ── wg4netns's forwarder ── container's httpd        container: far.test? ── alias inside ── tunnel ── dnsmasq :peer
#
# needs: netns tun wg wireguard-go socat dnsmasq nft curl engines
# timeout: 240
# as: root
. "$(dirname "$0")/lib.sh"

inside() {
  cp "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf; chmod 600 ~/.config/wg4netns/*
  "$WG4NETNS" drop-ins install >"$W/install.out"
  sed 's/^AllowedIPs.*/AllowedIPs = 0.0.0.0\/0, ::\/0/' "$SHARED/wg0.conf" >~/.config/wg4netns/all.conf
  grep -v ^DNS ~/.config/wg4netns/all.conf >~/.config/wg4netns/none.conf; chmod 600 ~/.config/wg4netns/*
  if [ "$ENGINE" = trixie ]; then names pasta; fi
  names slirp4netns
  if [ "$ENGINE" = trixie ]; then
    published pasta:--wg-config,work
    step "pasta: clients look local only where they are, and somebody asked"
    serve_page pasta:--wg-config,work,--host-lo-to-ns-lo
    assert_eq "a client of the host's loopback" "from 127.0.0.1" "$(who 127.0.0.1:18090)"
    assert_eq "one of a port that is everybody's" "from 10.6.0.1" "$(who 127.0.0.1:18080)"
    podman rm --force --time 0 web >/dev/null
    wait_for "no process of ours to be left" 5 no_processes
    step "pasta: a port that is taken fails the start"
    capture podman run --rm --network pasta:--wg-config,work -p "18082:80" busybox echo ran
    said
    [ "$STATUS" != 0 ] || fail "it started"
    assert_has "what is taken" "18082" "$ERR"
  fi
  export WG4NETNS_CONFIG=work
  published slirp4netns
  published slirp4netns:port_handler=slirp4netns
  later
}

# With all addresses in the tunnel, and containers that know of the host's name servers (HOST_DNS, HOST_DNS6).
names() { # FACE
  local server
  # shellcheck disable=SC2317 # called below
  case $1 in
    pasta) on_all() { podman run --rm --network "pasta:--wg-config,$1" "${@:2}"; } ;;
    *) on_all() { WG4NETNS_CONFIG=$1 podman run --rm --network slirp4netns "${@:2}"; } ;;
  esac
  step "$1: every name server that a container knows of answers what the tunnel's does"
  capture on_all all busybox sh -c 'cat /etc/resolv.conf; wget -qO- http://far.test/'; said
  assert_has "it knows of the host's" "nameserver $HOST_DNS" "$OUT"
  assert_has "and of the tunnel's own" "nameserver 10.6.0.2" "$OUT"
  assert_has "the page by name" "you are 10.6.0.1" "$OUT"
  # shellcheck disable=SC2016 # for the container's shell
  capture on_all all busybox sh -c 'for server in $(/bin/busybox sed -n "s/^nameserver //p" /etc/resolv.conf) '"$HOST_DNS6"'; do
    echo "asked $server"; nslookup absent.test $server >/tmp/absent 2>&1; nslookup far.test $server >/tmp/far 2>&1; cat /tmp/far
    /bin/busybox sed "1,/^Name/d" /tmp/far | grep -q "10\.6\.0\.2$" && echo "answered $server"; done'; said
  [ "$(grep -c ^asked <<<"$OUT")" -ge 4 ] || fail "too few name servers"
  assert_eq "who answers" "$(sed -n 's/^asked //p' <<<"$OUT")" "$(sed -n 's/^answered //p' <<<"$OUT")"
  capture on_all all busybox wget -qO- http://absent.test/
  [ "$STATUS" != 0 ] || fail "a page of nobody"
  step "$1: the same over TCP; the other ports of that address are where they were"
  on_all all busybox sh -c "printf '\\0\\032\\0\\007\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3far\\4test\\0\\0\\1\\0\\1' | nc -w 5 $HOST_DNS 53" >"$W/answer"
  assert_matches "the answer" " 10 +6 +0 +2$" "$(od -An -tu1 -w1000 "$W/answer")"
  assert_eq "a page there" "you are 10.6.0.1" "$(on_all all busybox wget -qO- "http://$HOST_DNS/")"
  step "$1: without DNS= in the configuration the host's name servers are refused at once"
  for server in "$HOST_DNS" "$HOST_DNS6"; do
    capture on_all none busybox nslookup far.test "$server"; said
    [ "$STATUS" != 0 ] || fail "an answer"
    assert_lacks "what it waited for" "timed out" "$OUT$ERR"
  done
  step "$1: a name server that the user chooses is asked through the tunnel"
  capture on_all all --dns "$CHOSEN_DNS" busybox wget -qO- http://chosen.test/; said
  assert_eq "the page by name" "you are 10.6.0.1" "$OUT"
  capture on_all none --dns "$CHOSEN_DNS" busybox wget -qO- http://chosen.test/; said
  assert_eq "the same without DNS=" "you are 10.6.0.1" "$OUT"
  wait_for "no process of ours to be left" 5 no_processes
}

published() { # NETWORK
  step "$1: names by the tunnel's server"
  capture podman run --rm --network "$1" busybox sh -c 'cat /etc/resolv.conf /etc/hosts; nslookup far.test; wget -qO- http://far.test/'
  said
  assert_status 0
  assert_has "the page by name" "you are 10.6.0.1" "$OUT"
  case $1 in pasta*) assert_matches "its own entry in /etc/hosts" $'10.6.0.1\t[0-9a-f]{12}' "$OUT" ;; esac

  step "$1: published ports answer, and nobody from outside looks local"
  serve_page "$1"
  start echo podman unshare nsenter --net="/proc/$(podman inspect -f '{{.State.Pid}}' web)/ns/net" perl -MIO::Socket::INET -e '
    for my $port (5354, 5355, 5353) {
      next if $port != 5353 && fork;
      my $socket = IO::Socket::INET->new(Proto => "udp", LocalPort => $port) or die; my $line;
      while (defined $socket->recv($line, 1000)) { $socket->send($line eq "hallo\n" ? $line : $port) }
    }'
  wait_for "the page" 5 curl -sS -m 2 -o "$W/page.out" http://127.0.0.1:18080/
  for port in 18080 18090 18091; do
    assert_eq "the page at $port" hallo "$(curl -sS -m 5 "http://127.0.0.1:$port/")"
  done
  assert_eq "the page over IPv6" hallo "$(curl -sS -m 5 "http://[::1]:18092/")"
  assert_eq "the page from elsewhere" hallo "$(curl -sS -m 5 "http://10.9.0.1:18080/")"
  for address in 127.0.0.1:18080 127.0.0.1:18090 10.9.0.1:18080; do
    assert_matches "who asks at $address" '^from (10\.6\.0\.1|10\.0\.2\.100)$' "$(who $address)"
  done
  for port in 18053 18054 18055; do wait_for "the datagram of $port" 5 datagram_comes_back $port; done
  wait_for "5354 to answer at 18054" 5 answered_by 5354 127.0.0.1 18054
  wait_for "5355 to answer at 18055" 5 answered_by 5355 127.0.0.1 18055
  wait_for "5353 to answer at 18053 of every address" 5 answered_by 5353 10.9.0.1 18053
  answered_by "" 10.9.0.1 18054 || fail "18054 answers at every address"
  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes
  not curl -sS -m 2 -o /dev/null http://127.0.0.1:18080/ 2>/dev/null || fail "the port still answers"
}

serve_page() { # NETWORK
  podman run --detach --name web --network "$1" -p 18080:80 -p 127.0.0.1:18090-18091:90-91 -p '[::1]:18092:92' -p 18053:5353/udp -p 127.0.0.1:18054-18055:5354-5355/udp \
    busybox sh -c '
    echo hallo >/index.html; mkdir /cgi-bin; printf "%s\n" "#!/bin/sh" "echo; echo from \$REMOTE_ADDR" >/cgi-bin/who
    /bin/busybox chmod 755 /cgi-bin/who; httpd -h /; httpd -h / -p 90; httpd -h / -p 91; httpd -h / -p 92; exec sleep 1000' >/dev/null
  wait_for "the page" 5 curl -sS -m 2 -o "$W/page.out" http://127.0.0.1:18080/
}
# Of the ports inside, WANTED gets what is sent there, and says so.
answered_by() { # WANTED ADDRESS PORT
  [ "$( (exec 7<>"/dev/udp/$2/$3"; echo whose >&7; timeout 1 dd bs=100 count=1 <&7) 2>/dev/null)" = "$1" ]
}
chosen_answers() { [ -n "$(on peer ss -Hlun "src $CHOSEN_DNS:53")" ]; }
who() { curl -sS -m 5 "http://$1/cgi-bin/who" | sed 's/::ffff://; s/[][]//g'; }

# What podman itself does not ask of the socket that it has us make.
later() {
  local id api
  step "list_hostfwd, remove_hostfwd and add_hostfwd, while the container runs"
  serve_page slirp4netns:port_handler=slirp4netns
  api=$(find "$XDG_RUNTIME_DIR" -name "$(podman inspect -f '{{.Id}}' web).net")
  ask() { perl -MIO::Socket::UNIX -e 'my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die; print $s $ARGV[1]; $s->shutdown(1); print <$s>' "$api" "$1"; }
  capture ask '{"execute":"list_hostfwd"}'; said
  assert_eq "entries" 7 "$(grep -o '"id":' <<<"$OUT" | wc -l)"
  id=$(tr '{' '\n' <<<"$OUT" | grep '"host_port":18080' | sed 's/.*"id":\([0-9]*\).*/\1/')
  assert_has "removed" '"return"' "$(ask "{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":$id}}")"
  wait_for "the port to be free" 5 not curl -sS -m 2 -o /dev/null http://127.0.0.1:18080/
  assert_eq "entries" 6 "$(ask '{"execute":"list_hostfwd"}' | grep -o '"id":' | wc -l)"
  assert_has "removed twice" '"error"' "$(ask "{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":$id}}")"
  assert_has "a new one" '"id":' "$(ask '{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"127.0.0.1","host_port":18083,"guest_addr":"127.0.0.1","guest_port":80}}')"
  assert_eq "who names the guest's loopback asks for clients that look local" "from 127.0.0.1" "$(who 127.0.0.1:18083)"

  step "a helper that was killed with the process that removes its socket leaves it, and the next start does not mind"
  local helper pid; helper=$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')
  for pid in $(our_processes); do
    case $(tr '\0' ' ' <"/proc/$pid/cmdline") in *__remover*) kill -9 "$pid" ;; esac
  done
  kill -9 "$helper"; wait_for "the helper's end" 5 gone "$helper"
  test -S "$api" || fail "nothing is left behind"
  podman restart --time 0 web >/dev/null
  wait_for "the page" 5 curl -sS -m 2 -o "$W/page.out" http://127.0.0.1:18080/

  podman rm --force --time 0 web >/dev/null
  wait_for "no process of ours to be left" 5 no_processes
}

# Of the host; at the far end somebody else has them.
HOST_DNS=10.77.0.53 HOST_DNS6=fd77::53
# Of nobody but the far end.
CHOSEN_DNS=10.77.0.9

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft curl engines
peer_world
start_wireguard_go_peer
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
chmod 644 "$W/wg0.conf"
far_services
engine_canaries
start taken socat TCP-LISTEN:18082,fork /dev/null
printf 'nameserver %s\n' "$HOST_DNS" "$HOST_DNS6" 10.6.0.2 >"$W/resolv.conf"; chmod 644 "$W/resolv.conf"
for address in "$HOST_DNS/32" "$CHOSEN_DNS/32" "$HOST_DNS6/128"; do on peer ip addr add "$address" dev lo; done
start chosen on peer dnsmasq --no-daemon --conf-file=/dev/null --no-hosts --no-resolv --user=root --group=root --pid-file= \
  --address=/chosen.test/10.6.0.2 --listen-address="$CHOSEN_DNS" --bind-interfaces
wait_for "the chosen name server" 5 chosen_answers
on peer nft -f - <<N
table inet stray {
  counter stray {}
  chain in {
    type filter hook prerouting priority 0
    ip daddr { 10.6.0.2, $CHOSEN_DNS } accept
    meta l4proto { tcp, udp } th dport 53 counter name stray
  }
}
N
strays() { on peer nft -j list counter inet stray stray | sed 's/.*"packets": *\([0-9]*\).*/\1/'; }
export RESOLV_CONF=$W/resolv.conf
in_engines
assert_engine_canaries_silent
assert_eq "questions at the far end to other addresses than the name servers'" 0 "$(strays)"
on peer bash -c "echo control >/dev/udp/$HOST_DNS/53"
assert_eq "the control" 1 "$(strays)"
