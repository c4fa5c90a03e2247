#!/bin/bash
# podman-example/ as it stands: up.sh with a peer on this machine, down.sh, nothing left; and the user unit
# contrib/systemd/wg4netns@.service, started as a service manager would, brings the network of a container back.
#
#   container: wget ── wg0 ── wg4netns ── 127.0.0.1 ── wg4netns demo --peer (boringtun)
#
# needs: netns tun nft perl engines
# timeout: 60
# as: root
. "$(dirname "$0")/lib.sh"

inside() {
  local example=$SHARED/podman-example notified pid
  export PATH=$PATH:$SHARED/bin
  step "up.sh"
  capture env IMAGE=localhost/busybox "$example/up.sh"
  said
  assert_status 0
  assert_has "nothing but the tunnel" "its links: lo wg0" "$OUT"
  assert_has "the page of the peer" "boringtun" "$OUT"
  capture env IMAGE=localhost/busybox "$example/up.sh"
  assert_status 1

  step "the user unit attaches to it again after a kill, and tells the service manager"
  for pid in $(our_processes); do
    case $(tr '\0' ' ' </proc/"$pid"/cmdline) in *attach*) kill -9 "$pid"; wait_for "the helper's end" 5 gone "$pid" ;; esac
  done
  assert_eq "links" "lo" "$(podman exec wg4netns-example ls /sys/class/net)"
  cp ~/.config/wg4netns/example.conf ~/.config/wg4netns/wg4netns-example.conf
  # shellcheck disable=SC2016
  start notified perl -MIO::Socket::UNIX -MSocket -e '$| = 1;
    my $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $ARGV[0]) or die; while (1) { $s->recv(my $m, 4096); print $m }' "$W/notify"
  notified=$W/notified.log
  wait_for "the socket" 5 test -S "$W/notify"
  unit=$(sed -n 's/^ExecStart=//p' "$SHARED/wg4netns@.service" | sed 's/%i/wg4netns-example/g')
  start unit env "NOTIFY_SOCKET=$W/notify" bash -c "exec $unit"; pid=$STARTED
  wait_for "READY=1" 10 grep -q READY=1 "$notified"
  assert_seen "$pid"
  assert_has "from the process that the manager started" "MAINPID=$pid" "$(cat "$notified")"
  assert_has "the page of the peer" "boringtun" "$(podman exec wg4netns-example wget -qO- http://demo.wg4netns/)"

  step "down.sh: nothing is left, and the unit's process ends well"
  "$example/down.sh"
  wait_for "the unit's end" 5 gone "$pid"
  wait "$pid" || fail "the unit's process ended with $?"
  wait_for "no process of ours to be left" 5 no_processes
  assert_eq "files of the example" "" "$(find "$XDG_RUNTIME_DIR/wg4netns" ~/.config/wg4netns -name 'example*')"

  step "down.sh once more: the peer's number is another process's by now"
  mkdir -p "$XDG_RUNTIME_DIR/wg4netns"
  start other sleep 1000; echo "$STARTED" >"$XDG_RUNTIME_DIR/wg4netns/example-peer.pid"
  "$example/down.sh"
  stays "the other process" 1 alive "$STARTED"

  step "the unit, while its container is down: it fails in a way that is tried again"
  podman create --name down --network none busybox sleep 1 >/dev/null
  capture bash -c "exec ${unit//wg4netns-example/down}"; said
  [ "$STATUS" != 0 ] || fail "it ended well, and would not be tried again"
  for line in StartLimitIntervalSec=0 Restart=on-failure RestartSec=2; do
    grep -qx "$line" "$SHARED/wg4netns@.service" || fail "not in the unit: $line"
  done
  if command -v systemd-analyze >/dev/null; then
    capture systemd-analyze verify --man=no "$SHARED/wg4netns@.service"
    assert_lacks "what systemd says of the unit" "Unknown" "$ERR"
  fi
}

in_engine
in_world "$@"
need tun nft perl engines
root=$(beside podman-example)
cp -r "$root/podman-example" "$W/"; cp "$root/contrib/systemd/wg4netns@.service" "$W/"
mkdir "$W/bin"; ln -s "$WG4NETNS" "$W/bin/wg4netns"
engine_canaries
in_engines
assert_engine_canaries_silent
