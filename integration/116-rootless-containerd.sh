#!/bin/bash
# Rootless containerd as nerdctl has it, with us in slirp4netns's place: every container of the daemon is behind the tunnel.
#
#   container ── nerdctl0 ── rootlesskit's namespace: tap0 ── wg4netns (as slirp4netns) :host ── h0 ═ p0 ── wireguard-go :peer
#
# rootlesskit, containerd, its shim, runc and the CNI plugins are the real ones. nerdctl's own two programs are not there, for Debian
# does not have them: `containerd-rootless` below starts what its containerd-rootless.sh starts, told by the same variables, and
# `ctr` stands where its command line would. Both have the CNI plugins work in rootlesskit's network namespace.
#
# needs: netns tun wg wireguard-go socat dnsmasq nft curl engines containerd
# timeout: 120
# as: root
. "$(dirname "$0")/lib.sh"

write_launcher() {
  cat >"$W/containerd-rootless" <<'S'
set -euo pipefail
if [ "${1-}" != inside ]; then
  flags=(--net="$CONTAINERD_ROOTLESS_ROOTLESSKIT_NET" --mtu="${CONTAINERD_ROOTLESS_ROOTLESSKIT_MTU-1500}"
    --slirp4netns-sandbox=auto --slirp4netns-seccomp=auto --disable-host-loopback --port-driver=builtin
    --copy-up=/etc --copy-up=/run --copy-up=/var/lib --propagation=rslave)
  [ "${CONTAINERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS-true}" != true ] || flags+=(--detach-netns)
  exec rootlesskit --state-dir="$STATE" "${flags[@]}" $CONTAINERD_ROOTLESS_ROOTLESSKIT_FLAGS bash "$0" inside
fi
# own DIRECTORY PLACE: the user's, in place of a link to what the machine has.
own() { rm -f "$2"; mkdir -p "$1" "$2"; mount --bind "$1" "$2"; }
own "$XDG_RUNTIME_DIR/containerd" /run/containerd
own ~/.local/share/containerd /var/lib/containerd
own ~/.local/share/cni /var/lib/cni
own ~/.config/containerd /etc/containerd
own ~/.config/cni /etc/cni
rm -f /run/xtables.lock
exec containerd
S
}

# daemon NAME: leaves DAEMON. Returns when it answers or has ended.
daemon() {
  rm -rf "$STATE"
  start "$1" bash "$W/containerd-rootless"; DAEMON=$STARTED
  wait_for "containerd" 20 answers_or_dead
}
answers_or_dead() { in_kit ctr version || gone "$DAEMON"; }
daemon_ends() {
  kill "$DAEMON"; wait_for "containerd's end" 10 gone "$DAEMON"
  wait_for "no process of ours to be left" 5 no_processes
  # rootlesskit, too, ends its helpers by kill -9: whoever looks next removes what they could not.
  assert_eq "tunnels" "" "$("$WG4NETNS" ls | sed 1d)"
  assert_eq "our sockets left" "" "$(our_sockets)"
  assert_eq "UDP sockets left on host" "" "$(ss -Hlun)"
}
our_sockets() { find "$(uapi_dir)" -type s -not -name 'wgp*'; }

is_detached() { [ "${CONTAINERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS-true}" = true ]; }
# in_kit CMD…: where nerdctl puts itself. in_netns CMD…: where it has the CNI plugins work.
in_kit() {
  local net=(--net); ! is_detached || net=()
  nsenter -t "$(cat "$STATE/child_pid")" --user --mount "${net[@]}" --preserve-credentials -- env ROOTLESSKIT_STATE_DIR="$STATE" "$@"
}
in_netns() { if is_detached; then in_kit nsenter --net="$STATE/netns" -- "$@"; else in_kit "$@"; fi; }

# write_network [MAPPING]: the network that nerdctl writes. It tells the plugin which ports to map when it calls it; of ctr the
# plugin learns nothing, so it stands in the file.
write_network() {
  mkdir -p ~/.config/cni/net.d
  cat >~/.config/cni/net.d/nerdctl-bridge.conflist <<J
{ "cniVersion": "1.0.0", "name": "bridge", "plugins": [
  { "type": "bridge", "bridge": "nerdctl0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {
    "type": "host-local", "routes": [{ "dst": "0.0.0.0/0" }], "ranges": [[{ "subnet": "10.4.0.0/24", "gateway": "10.4.0.1" }]] } },
  { "type": "portmap", "runtimeConfig": { "portMappings": [${1-}] } },
  { "type": "firewall" },
  { "type": "tuning" } ] }
J
}

# As nerdctl's, which has rootlesskit's name server before those of its own surroundings.
write_resolv_conf() {
  in_kit rootlessctl info --json | sed -n '/"dns"/,/]/s/^ *"\([0-9.]*\)",*$/nameserver \1/p' >"$W/resolv.conf"
  in_kit grep ^nameserver /etc/resolv.conf >>"$W/resolv.conf"
}

# container FLAG… -- NAME CMD…: in a cgroup that nobody is to set anything of, for there is no systemd to ask for one.
container() {
  local flags=(); while [ "$1" != -- ]; do flags+=("$1"); shift; done
  in_netns ctr run --cgroup= --cpu-shares=0 --mount "type=bind,src=$W/resolv.conf,dst=/etc/resolv.conf,options=rbind:ro" \
    "${flags[@]}" localhost/busybox:latest "${@:2}"
}

# every_container_is_behind_the_tunnel BYTES ADDRESS SERVER: so many are sent; containerd itself is seen as ADDRESS and asks SERVER.
every_container_is_behind_the_tunnel() {
  local tunnel web

  step "every container is behind the tunnel, and asks its name server"
  write_network; write_resolv_conf
  capture container --rm --cni -- first sh -c 'cat /etc/resolv.conf; /bin/busybox timeout 10 wget -qO- http://far.test/; echo; nslookup far.test 10.77.0.53; true'
  said
  assert_status 0
  assert_has "the far end saw" "you are 10.6.0.1" "$OUT"
  assert_has "who is asked, rootlesskit's first" $'nameserver 10.0.2.3\nnameserver '"$3" "$OUT"
  assert_matches "what the host's name server is said to answer" 'Name:.far\.test.Address:.10\.6\.0\.2' "$OUT"
  tunnel=$("$WG4NETNS" ls | awk 'NR == 2 { print $2 }')
  assert_seen "$tunnel"
  [ -n "$(our_sockets)" ] || fail "no socket of ours"
  # The far end has this address, too; beside the tunnel it would say 10.9.0.1.
  assert_eq "a page that the host has a way to" "you are 10.6.0.1" "$(container --rm --cni -- second wget -qO- http://10.9.0.2:8080/)"

  # Where nerdctl pulls images, and where its --net=host puts a container.
  assert_eq "containerd's own network" "you are $2" "$(in_kit curl -sS -m 5 http://10.9.0.2:8080/)"

  step "large packets find their way through the bridge, both ways"
  note "MTU of tap0 and nerdctl0: $(in_netns ip -o link | sed -n 's/.* \(tap0\|nerdctl0\): .* mtu \([0-9]*\) .*/\1 \2/p' | paste -sd ' ')"
  capture container --rm --cni -- third sh -c "head -c $1 /dev/zero | /bin/busybox timeout 10 nc 10.6.0.2 81"; said
  wait_for "$1 bytes" 5 sunk "$1"
  assert_eq "bytes of a large page" 8000000 "$(container --rm --cni -- fourth sh -c '/bin/busybox timeout 10 nc 10.6.0.2 82 </dev/null' | wc -c)"

  step "a published port answers from the host"
  write_network '{ "hostPort": 18080, "containerPort": 80, "protocol": "tcp" }'
  start web not container --rm --cni --pid-file "$W/web.pid" -- web sh -c 'echo hallo >/index.html; exec httpd -f -h /'
  web=$STARTED
  in_kit rootlessctl add-ports 127.0.0.1:18080:18080/tcp >/dev/null
  wait_for "the page" 5 page_is hallo http://127.0.0.1:18080/

  step "kill -9 of the helper leaves no network, and never the host's"
  assert_eq "the far end saw" "you are 10.6.0.1" "$(in_web 1 wget -qO- http://10.9.0.2:8080/)"
  kill -9 "$tunnel"; wait_for "the helper's end" 5 gone "$tunnel"
  no_page http://10.9.0.2:8080/ in_web 2

  kill -9 "$(cat "$W/web.pid")"; wait_for "the container's end" 5 gone "$web"

  step "the daemon's end leaves nothing of ours"
  daemon_ends
  ! page_is hallo http://127.0.0.1:18080/ || fail "the port outlived it"
}
in_web() { in_kit ctr task exec --exec-id "$1" web "${@:2}"; }

inside() {
  export STATE=$XDG_RUNTIME_DIR/containerd-rootless
  install -m 600 "$SHARED/wg0.conf" ~/.config/wg4netns/work.conf
  write_launcher
  note "$(rootlesskit --version), $(containerd --version), $(runc --version | head -n 1)"

  printed_environment nerdctl CONTAINERD_ROOTLESS_ROOTLESSKIT
  no_daemon_without_configuration CONTAINERD_ROOTLESS_ROOTLESSKIT
  assert_lacks "what containerd says" "starting containerd" "$(cat "$W/absent.log")"

  note "with a detached network namespace, nerdctl's way since rootlesskit 2.0"
  daemon detached
  podman save --format docker-archive --output "$W/busybox.tar" busybox 2>"$W/save.log"
  in_kit ctr image import "$W/busybox.tar" >"$W/import.log"
  every_container_is_behind_the_tunnel 8000001 10.9.0.1 10.77.0.53

  note "without, and with the MTU that nerdctl has where no network driver is named"
  export CONTAINERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS=false CONTAINERD_ROOTLESS_ROOTLESSKIT_MTU=65520
  daemon attached
  every_container_is_behind_the_tunnel 8000002 10.6.0.1 10.0.2.3

  step "nothing chosen: the real slirp4netns"
  unset WG4NETNS_CONFIG
  daemon real
  write_network; write_resolv_conf
  assert_eq "a page by way of the host" "you are 10.9.0.1" "$(container --rm --cni -- real wget -qO- http://10.9.0.2:8080/)"
  no_processes || fail "a process of ours"
  daemon_ends
}

in_engine
in_world "$@"
need tun wg wireguard-go socat dnsmasq nft curl engines containerd
daemon_world
echo 'nameserver 10.77.0.53' >"$W/resolv.conf"
export RESOLV_CONF=$W/resolv.conf
engine_canaries
in_engines trixie
assert_engine_canaries_silent
