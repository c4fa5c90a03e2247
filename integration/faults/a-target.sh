# shellcheck shell=bash
# Group A: the target and its namespace.

covered A1-16 "the target is gone, reused, ours, a zombie; names; no TUN" 095-errors
covered A7-9 "the target ends, its file is unmounted, deleted" 060-lifetime

fault A7 "the target is killed while it sends as fast as it can" "ends ≤ 1 s, nothing left" target_killed_under_load
target_killed_under_load() {
  fresh
  start flood nsenter -t "$TARGET" -U -n --preserve-credentials -- ping -f -q -s 1000 10.6.0.2
  # shellcheck disable=SC2317 # called by wait_for
  flooding() { [ "$("$WG4NETNS" show wg0 transfer | cut -f 2)" -gt 200000 ]; }
  wait_for "the flood" 10 flooding
  local begin; begin=$(now_ms)
  kill -9 "$TARGET"
  # What still runs inside holds the namespace, not the tunnel.
  wait_for "the helper's end" 3 gone "$OURS"; recovery $(($(now_ms) - begin))
  kill -9 "$STARTED"
}

# change 'WHAT CONTAINER ROOT DOES' 'HOW IT IS UNDONE': the tunnel lives, and works again when it is undone.
change() {
  fresh
  in_target sh -c "$1"
  stays "the helper" 1 alive "$OURS"
  in_target sh -c "$2"
  recovers 2
}
undo_routes='ip addr replace 10.6.0.1/24 dev wg0; ip route replace 10.6.0.0/24 dev wg0'
fault A11a "container root sets the link down, and up" "lives, ≤ 2 s" change_down
change_down() { change 'ip link set wg0 down' 'ip link set wg0 up'; }
fault A11b "container root sets MTU 68" "follows" change_mtu_small
change_mtu_small() { change 'ip link set wg0 mtu 68; ping -c 3 -i 0.05 -W 0.1 10.6.0.2 >/dev/null || true' "ip link set wg0 mtu 1420; $undo_routes"; }
fault A11c "container root sets MTU 65535, sends 60 kB" "follows, no panic" change_mtu_large
change_mtu_large() { change 'ip link set wg0 mtu 65535; ping -c 3 -i 0.05 -s 60000 -W 0.1 10.6.0.2 >/dev/null || true' 'ip link set wg0 mtu 1420'; }
fault A11d "container root renames the link" "follows" change_name
change_name() { change 'ip link set wg0 down; ip link set wg0 name vpn7; ip link set vpn7 up' 'ip link set vpn7 down; ip link set vpn7 name wg0; ip link set wg0 up'; }
fault A11e "container root flushes addresses and routes" "lives" change_flush
change_flush() { change 'ip addr flush dev wg0; ip route flush table main' "$undo_routes"; }
fault A11f "container root adds a link with a route of its own" "lives, nothing out" change_link
change_link() { change 'ip link add e0 type veth peer name e1; ip link set e0 up; ip link set e1 up; ip route add 192.0.2.0/24 dev e0; ping -c 1 -W 0.2 192.0.2.1 >/dev/null || true' 'ip link del e0'; }
fault A11g "container root moves the link to another namespace" "lives or ends cleanly" change_namespace
change_namespace() {
  fresh
  nsenter -t "$TARGET" -U -n --preserve-credentials -- unshare -n sleep 1000 & local other=$!; OWN_PIDS+=("$other")
  wait_for "another namespace" 5 own_netns "$other"
  in_target ip link set wg0 netns "$other"
  nsenter -t "$other" -U -n --preserve-credentials -- sh -c 'ip addr add 10.6.0.1/24 dev wg0; ip link set wg0 up'
  wait_for "an answer there" 3 nsenter -t "$other" -U -n --preserve-credentials -- ping -c 1 -W 0.3 10.6.0.2
  recovery "$WAITED_MS"
  kill -9 "$other"; wait_for "the helper's end with the link" 3 gone "$OURS"
}
fault A11h "container root deletes the link" "exit 0 ≤ 1 s" change_delete
change_delete() {
  fresh
  in_target ip link del wg0
  wait_for "the helper's end" 1 gone "$OURS"; recovery "$WAITED_MS"
  local status=0; wait "$OURS" || status=$?
  assert_eq "status" 0 "$status"
}
fault A11k "the far end advertises routers, container root does, too" "not obeyed; where obeyed, nothing out" routers
routers() {
  hostile_target
  our_conf "$W/all.conf" -- "AllowedIPs = 0.0.0.0/0, ::/0"
  ours wg0 --netns-pid "$TARGET" --config "$W/all.conf" --name wg0
  talks
  # It sends to itself, too, and is not to be led.
  on peer sh -c 'echo 0 >/proc/sys/net/ipv6/conf/wgp0/accept_ra'
  on peer ip addr replace fe80::1/64 dev wgp0 nodad
  wg set wgp0 peer "$(pub a)" allowed-ips 10.6.0.1/32,fd06::1/128,ff02::1/128
  start router nsenter --net=/run/netns/peer -- "$FAULTS/advertise" "$(on peer ip -o link show wgp0 | cut -d : -f 1)" fe80::1 ff02::1 fd06::1
  local router=$STARTED
  # shellcheck disable=SC2317 # called by wait_for
  heard_ten() { [ "$(in_target awk '$1 == "Icmp6InRouterAdvertisements" { print $2 }' /proc/net/snmp6)" -ge 10 ]; }
  # shellcheck disable=SC2317
  obeyed() { in_target ip -6 route show proto ra | grep -q 'via fe80::1 '; }
  wait_for "ten advertisements inside" 10 heard_ten
  not obeyed || fail "a router was obeyed"
  # Whoever owns the namespace may obey it all the same.
  in_target sh -c 'echo 2 >/proc/sys/net/ipv6/conf/wg0/accept_ra'
  wait_for "the advertised route" 10 obeyed
  stays "the helper" 1 alive "$OURS"
  recovers 2
  kill "$router"
  wg set wgp0 peer "$(pub a)" allowed-ips 10.6.0.1/32,fd06::1/128
  on peer ip addr del fe80::1/64 dev wgp0
}
fault A11i "container root forges virtio headers, two seconds long" "no panic, memory ≤ 4 MB more" vnet_flood
vnet_flood() {
  fresh
  local before; before=$(resident)
  capture in_target "$FAULTS/vnet-flood" "$(how_many 2 20)"
  assert_status 0; tell "$OUT"
  lives
  [ $(($(resident) - before)) -le 4096 ] || fail "resident memory grew by $(($(resident) - before)) kB"
  recovers 2
}
fault A12 "the target is three user namespaces deep" "works" nested_target
nested_target() {
  unshare -Urn unshare -Urn unshare -Urn sleep 100000 & TARGET=$!; OWN_PIDS+=("$TARGET")
  wait_for "the namespaces" 5 own_netns "$TARGET"; watch_namespace "$TARGET"
  babble
  attach; talks
}
