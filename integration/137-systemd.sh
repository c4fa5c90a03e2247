#!/bin/bash
# Beside a real systemd of the user's, with podman 5.4.2: the unit that `wg4netns quadlet` prints, the user unit
# contrib/systemd/wg4netns@.service, and podman-example/ as it stands. Each starts when the tunnel is ready, says why it does
# not, and leaves nothing when it is stopped.
#
#   web, work: wget ── wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer ── page at 10.6.0.2
#   example:   wget ── wg0 ── wg4netns ── 127.0.0.1 ── wg4netns demo --peer
#
# needs: netns tun wg wireguard-go socat dnsmasq nft curl engines systemd
# timeout: 60
# as: root
. "$(dirname "$0")/lib.sh"

property() { systemctl --user show --property "$2" --value "$1"; } # UNIT PROPERTY
is() { [ "$(property "$1" ActiveState)/$(property "$1" SubState)" = "$2" ]; } # UNIT STATE/SUBSTATE
# starts UNIT: the start succeeds; if not, what the journal has is shown.
starts() {
  systemctl --user start "$1" && return
  systemctl --user status --no-pager --full "$1" >&2 || true
  journalctl --user --no-pager --lines=30 >&2
  fail "$1 does not start"
}
page() { timeout 10 podman exec "$1" wget -qO- http://10.6.0.2/; } # CONTAINER
page_at() { [ "$(curl -sS -m 2 "http://$1/")" = "of the unit" ]; }
sees_page() { [ "$(page "$1")" = "you are $2" ]; } # CONTAINER OUR-ADDRESS
# Not our_processes: whose they are, but not what they run, is seen of those that protect their memory from their own user.
our_programs() {
  local file name
  for file in /proc/[0-9]*/cmdline; do
    { IFS= read -r -d '' name <"$file"; } 2>/dev/null || continue
    case $name in wg4netns | */wg4netns | /proc/self/exe) printf '%s ' "${file//[!0-9]/}" ;; esac
  done
}
no_programs() { [ -z "$(our_programs)" ]; }
sockets() { find "$XDG_RUNTIME_DIR/wireguard" -type s; }
# What systemd keeps of a stopped service besides a line in its journal.
assert_unit_gone() { # UNIT
  assert_eq "$1" "inactive dead success 0" "$(for each in ActiveState SubState Result MainPID; do property "$1" $each; done | paste -sd ' ')"
  assert_eq "processes of ours" "" "$(our_programs)"
  assert_eq "containers" "" "$(podman ps --all --quiet)"
  assert_eq "sockets" "" "$(sockets)"
}

quadlet_starts_and_stops() {
  step "the quadlet: it is active when the tunnel is there, and its port answers"
  "$WG4NETNS" quadlet web --image localhost/busybox -p 18061:80 -- \
    sh -c 'echo of the unit >/index.html; trap "exit 0" TERM; httpd -h /; sleep 1000 & wait' >"$quadlets/web.container"
  systemctl --user daemon-reload
  starts web.service
  is web.service active/running || fail "it is not active: $(systemctl --user status web.service)"
  assert_eq "links" $'lo\nwg0' "$(podman exec web ls /sys/class/net)"
  assert_eq "what the far end saw" "you are 10.6.0.1" "$(page web)"
  wait_for "the page" 5 page_at 127.0.0.1:18061
  page_at 10.9.0.1:18061 || fail "no page from elsewhere"
  ! no_programs || fail "our processes are not seen"
  [ -n "$(sockets)" ] || fail "our socket is not seen"

  step "stop: nothing is left"
  systemctl --user stop web.service
  assert_unit_gone web.service
  assert_eq "who listens on the port" "" "$(ss -Hltn '( sport = 18061 )')"
}

quadlet_without_a_peer() {
  step "the quadlet without a peer: the start fails, and the journal says why"
  "$WG4NETNS" quadlet web --image localhost/busybox --config dead --wait-handshake=1 -- sleep 1000 >"$quadlets/web.container"
  systemctl --user daemon-reload
  capture systemctl --user start web.service; said
  [ "$STATUS" != 0 ] || fail "it started"
  # The journal takes lines in after the service has ended; and there may have been a second try.
  wait_for "the line in the journal" 5 why_not
  assert_eq "different lines" 1 "$(grep -o 'wg4netns: .*' "$W/wait_for.out" | sort -u | wc -l)"
  systemctl --user stop web.service
  rm "$quadlets/web.container"; systemctl --user daemon-reload; systemctl --user reset-failed
  assert_eq "processes of ours" "" "$(our_programs)"
  assert_eq "containers" "" "$(podman ps --all --quiet)"
}

why_not() { journalctl --user --unit web --output cat --no-pager | grep 'wg4netns: no handshake within 1 s'; }

# As its head says: a container with `--network none`, here a quadlet of the same name.
unit_waits_and_tells() {
  local starting
  step "the unit: start returns when the peer has answered, not before"
  printf '%s\n' '[Container]' ContainerName=work Image=localhost/busybox Network=none \
    'Exec=sh -c "trap \"exit 0\" TERM; sleep 1000 & wait"' '[Service]' Restart=always RestartSec=1 \
    >"$quadlets/work.container"
  mkdir -p ~/.config/systemd/user
  cp "$SHARED/wg4netns@.service" ~/.config/systemd/user/
  systemctl --user daemon-reload
  starts work.service
  start starting systemctl --user enable --now wg4netns@work; starting=$STARTED
  wait_for "its status" 10 says wg4netns@work "waiting up to 30 s for a peer to answer"
  is wg4netns@work activating/start || fail "it is ready"
  alive "$starting" || fail "start returned"
  : >"$W/open"
  wait_for "the start's end" 15 gone "$starting"
  wait "$starting" || fail "the start failed"
  is wg4netns@work active/running || fail "it is not active"
  assert_eq "links" $'lo\nwg0' "$(podman exec work ls /sys/class/net)"
  assert_eq "what the far end saw" "you are 10.6.0.3" "$(page work)"
  assert_has "the status" 'Status: "`work` is ready"' "$(systemctl --user status --no-pager wg4netns@work)"
}
says() { [ "$(property "$1" StatusText)" = "$2" ]; } # UNIT TEXT

unit_comes_back() {
  local before
  step "kill -9: systemd starts it again, and the network is back"
  before=$(property wg4netns@work MainPID)
  assert_has "the process that systemd watches is ours" " $before " " $(our_programs)"
  kill -9 "$before"
  wait_for "the second start" 15 is_restarted
  wait_for "the page" 10 sees_page work 10.6.0.3

  step "the container is started anew by systemd, and its network with it"
  kill -9 "$(podman inspect --format '{{.State.Pid}}' work)"
  wait_for "the page" 15 sees_page work 10.6.0.3
}
is_restarted() { [ "$(property wg4netns@work NRestarts)" = 1 ] && is wg4netns@work active/running; }

unit_stops() {
  step "stop: the tunnel ends well, the container goes on without a network"
  systemctl --user stop wg4netns@work
  assert_eq "how it ended" "inactive dead success exited 0" \
    "$(for each in ActiveState SubState Result ExecMainCode ExecMainStatus; do property wg4netns@work $each; done | sed 's/^1$/exited/' | paste -sd ' ')"
  assert_eq "processes of ours" "" "$(our_programs)"
  assert_eq "links" lo "$(podman exec work ls /sys/class/net)"

  step "the container's service takes the tunnel with it, and brings it back"
  systemctl --user restart work.service
  wait_for "the page" 15 sees_page work 10.6.0.3
  systemctl --user stop work.service
  wait_for "the tunnel's end" 5 is wg4netns@work inactive/dead
  systemctl --user disable wg4netns@work
  rm "$quadlets/work.container"; systemctl --user daemon-reload
  assert_unit_gone wg4netns@work.service
}

example() {
  step "podman-example: up.sh makes a service, down.sh takes all back"
  capture env PATH="$PATH:$HOME/.local/bin" IMAGE=localhost/busybox "$SHARED/podman-example/up.sh"; said
  assert_status 0
  assert_has "the branch with systemd" "started as wg4netns-example.service" "$OUT"
  assert_has "nothing but the tunnel" "its links: lo wg0" "$OUT"
  assert_has "the page of the peer" "boringtun" "$OUT"
  is wg4netns-example.service active/running || fail "it is not active"
  capture "$SHARED/podman-example/down.sh"; said
  assert_status 0
  wait_for "no process of ours to be left" 5 no_programs
  assert_unit_gone wg4netns-example.service
  assert_eq "unit files" "" "$(systemctl --user list-unit-files --no-legend 'wg4netns-example*' || true)"
  assert_eq "files" "" "$(find "$XDG_RUNTIME_DIR/wg4netns" ~/.config -name '*example*')"
}

inside() {
  local quadlets=$HOME/.config/containers/systemd
  mkdir -p "$quadlets" ~/.local/bin
  # Where a user puts it.
  ln -s "$WG4NETNS" ~/.local/bin/wg4netns
  install -m 600 "$SHARED/wg0.conf" ~/.config/wg4netns/web.conf
  install -m 600 "$SHARED/work.conf" ~/.config/wg4netns/work.conf
  sed 's/^Endpoint.*/Endpoint = 10.9.0.2:9/' "$SHARED/wg0.conf" >~/.config/wg4netns/dead.conf; chmod 600 ~/.config/wg4netns/dead.conf
  note "$(systemctl --version | head -n 1), $(systemctl is-system-running), the user's $(systemctl --user is-system-running)"

  quadlet_starts_and_stops
  quadlet_without_a_peer
  unit_waits_and_tells
  unit_comes_back
  unit_stops
  example

  step "no unit has failed, and no key is in the journal"
  assert_eq "failed units" "" "$(systemctl --user --failed --no-legend --plain)"
  journalctl --all --output export --no-pager >"$W/journal"
  note "$(wc -c <"$W/journal") bytes of journal, $(grep -ac '_COMM=wg4netns' "$W/journal" || true) entries of ours"
  grep -qa 'no handshake within 1 s' "$W/journal" || fail "what we say is not in it"
  sed -n 's/^PrivateKey = //p' ~/.config/wg4netns/*.conf >"$W/keys"
  [ -s "$W/keys" ] || fail "no keys to look for"
  assert_eq "lines with a key in the journal" 0 "$(grep -acFf "$W/keys" "$W/journal" || true)"
}

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft curl engines systemd
peer_world
start_wireguard_go_peer
far_services
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
make_key c
our_conf "$W/work.conf" "PrivateKey = $(key c)" "Address = 10.6.0.3/24"
chmod 644 "$W"/*.conf
root=$INTEGRATION/..
[ -d "$root/podman-example" ] || root=$INTEGRATION
cp -r "$root/podman-example" "$W/"; cp "$root/contrib/systemd/wg4netns@.service" "$W/"
# The far end knows the key of `work` when the gate opens.
# shellcheck disable=SC2016
start gate bash -c 'until [ -e "$1/systemd/open" ]; do sleep 0.05; done; wg set wgp0 peer "$(cat "$1/c.pub")" allowed-ips 10.6.0.3/32' -- "$W"
engine_canaries
in_engines systemd
assert_engine_canaries_silent
