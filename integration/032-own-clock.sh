#!/bin/bash
# Our own clock goes back an hour and forward a day under a running tunnel, a tunnel is started while it is behind, and
# the machine sleeps for two hours. No namespace has a wall clock of its own, so it is wg4netns that is in the virtual
# machine here: the static binary, as an ordinary user.
#
#   CMD wg0 ── wg4netns run :virtual machine ── eth0 (10.5.0.2) ═ tap0 (10.5.0.1) ── wireguard-go :host
#
# The sleep is a real one, to RAM, and the machine's boot time goes on by it; only that its hardware clock is set two hours
# ahead meanwhile, instead of waiting for them. For the far end no time passes: it would still take the old session.
#
# needs: netns tun wg vm wireguard-go nft socat musl
# as: user
# timeout: 150
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg vm wireguard-go nft socat
grep -qa '/ld-linux\|/ld-musl' <(head -c 4096 "$WG4NETNS") && skip musl "the binary under test is not static: build with --profile dist --target x86_64-unknown-linux-musl"
make_key a; make_key b
start_vm -rtc base=2026-06-01T10:00:00 -monitor "unix:$W/monitor,server=on,wait=off"
start wgp0 env WG_PROCESS_FOREGROUND=1 LOG_LEVEL=verbose wireguard-go wgp0
wait_for "wireguard-go's socket" 5 test -S /run/wireguard/wgp0.sock
wg set wgp0 private-key "$W/b.key" listen-port 51820 peer "$(pub a)" allowed-ips 10.6.0.1/32,fd06::1/128
ip addr add 10.6.0.2/24 dev wgp0; ip link set wgp0 mtu 1420 up
# Which of our messages come; handshakes can be stopped.
nft -f - <<'N'
table inet seen {
  set stopped { type inet_service; }
  counter initiations {}
  counter data {}
  chain in {
    type filter hook input priority 0
    iifname "tap0" udp dport 51820 @th,64,8 1 counter name initiations
    iifname "tap0" udp dport 51820 @th,64,8 4 counter name data
    iifname "tap0" udp dport @stopped @th,64,8 1 drop
  }
  chain out {
    type filter hook output priority 0
    oifname "tap0" udp sport @stopped @th,64,8 1 drop
  }
}
N
seen() { nft -j list counter inet seen "$1" | sed 's/.*"packets": *\([0-9]*\).*/\1/'; }

step "an ordinary user in the virtual machine, with our binary"
start serve socat -u "FILE:$WG4NETNS" TCP-LISTEN:4444,bind=10.5.0.1
wait_for "the port" 5 sh -c 'ss -Hltn | grep -q :4444'
vm 'busybox nc 10.5.0.1 4444 </dev/null >/bin/wg4netns; busybox chmod 755 /bin/wg4netns; busybox chmod 666 /dev/net/tun'
assert_eq "bytes that have come" "$(stat -c %s "$WG4NETNS")" "$(vm 'busybox stat -c %s /bin/wg4netns')"
vm 'echo u:x:1000:1000::/u:/bin/sh >/etc/passwd; echo u:x:1000: >/etc/group; : >/etc/resolv.conf; : >/etc/nsswitch.conf; busybox mkdir -m 700 /u /u/run'
our_conf "$W/wg0.conf" -- "Endpoint = 10.5.0.1:51820"
vm "echo $(base64 -w 0 "$W/wg0.conf") | busybox base64 -d >/u/wg0.conf; busybox chmod 600 /u/wg0.conf; busybox chown -R u:u /u"
u() { vm "busybox su u -c 'cd; export XDG_RUNTIME_DIR=/u/run; $1' </dev/null"; }
# begin_tunnel [ARG…]; answered: a packet is, once. session: when the far end made it, for its own clock.
begin_tunnel() { u "wg4netns run --name t --config /u/wg0.conf $* -- sleep 1000 >/u/out 2>&1 &"; }
answered() { u "wg4netns exec t -- /usr/bin/ping -c 1 -W ${1:-5} 10.6.0.2" >"$W/ping.out"; }
session() { wg show wgp0 latest-handshakes | cut -f2; }
clock() { vm "busybox date -s @\$((\$(busybox date +%s) $1)) >/dev/null"; } # '+ SECONDS' | '- SECONDS'
is_healthy() { u "wg4netns status t" >"$W/status.out" || fail "status does not find it healthy: $(cat "$W/status.out")"; }
begin_tunnel
wait_for "an answer" 20 answered
first=$(session)

step "its clock goes back an hour: the session lives on"
clock '- 3600'
wait_for "an answer" 20 answered
is_healthy
assert_eq "session" "$first" "$(session)"

step "the next handshake carries a time later than the last, and is accepted"
initiations=$(seen initiations)
u "wg4netns set t peer $(pub b) remove && wg4netns set t peer $(pub b) endpoint 10.5.0.1:51820 allowed-ips 10.6.0.0/24"
wait_for "an answer" 20 answered
[ "$(seen initiations)" -gt "$initiations" ] || fail "there was no handshake"

step "a tunnel that is started with the clock behind: silence, and the clock is in the hint"
u "wg4netns stop t"
capture u "wg4netns run --name t --config /u/wg0.conf -- true 2>&1"
assert_status 125
note "$(paste -sd '~' <<<"$OUT")"
assert_has "the line while it waits" "wg4netns: warning: waiting up to 10 s for a peer to answer" "$OUT"
assert_matches "the reason" 'wg4netns: no handshake within 10 s: [2-9] initiations sent, nothing came back' "$OUT"
assert_matches "the hint" "hint: .* and this machine's clock" "$OUT"
begin_tunnel --no-wait
says_clock() {
  # Without a packet nobody is called.
  u "wg4netns exec t -- /usr/bin/ping -c 1 -W 1 10.6.0.2" >/dev/null && fail "an answer"
  u "wg4netns status t --json" >"$W/status.out" && fail "status finds it healthy"
  grep -q '"reason": ".* sent, nothing came back"' "$W/status.out" && grep -q '"hint": ".* and this machine.s clock"' "$W/status.out"
}
wait_for "status to say the same" 20 says_clock

step "the clock is put right: accepted, without anybody's help"
clock '+ 3600'
wait_for "an answer" 30 answered
is_healthy
right=$(session)

step "the clock goes forward a day: the session lives on"
clock '+ 86400'
wait_for "an answer" 20 answered
is_healthy
assert_lacks "the age of the handshake" " d" "$(grep handshake "$W/status.out")"
assert_eq "session" "$right" "$(session)"

step "the machine sleeps for two hours"
mkfifo "$W/monitor.in"
exec {MONITOR}<>"$W/monitor.in"
start monitor socat - "UNIX-CONNECT:$W/monitor" <"$W/monitor.in"
monitor() { printf '%s\n' "$@" >&"$MONITOR"; }
machine_is() { monitor 'info status'; grep -a '^VM status' "$W/monitor.log" | tail -n 1 | grep -q "$1"; }
boot_time() { vm 'busybox cut -d . -f 1 /proc/uptime'; }
uptime=$(boot_time)
nft add element inet seen stopped '{ 51820 }'
vm_begin 'echo mem >/sys/power/state'
wait_for "it to sleep" 20 machine_is suspended
initiations=$(seen initiations) data=$(seen data)
# The hour of the hardware clock: a byte of two decimal digits.
monitor 'o/b 0x70 4' 'o/b 0x71 0x12' system_wakeup
wait_for "it to wake" 20 machine_is running
vm_end || fail "it did not sleep"
slept=$(($(boot_time) - uptime))
[ "$slept" -ge 6600 ] || fail "boot time went on by $slept s only"
note "boot time went on by $slept s"

step "the session is that old, too: nothing is sent in it, though the far end would take it"
answered 2 && fail "an answer in a session two hours old"
assert_eq "data messages" "$data" "$(seen data)"
[ "$(seen initiations)" -gt "$initiations" ] || fail "no initiation"
u "wg4netns status t" >"$W/status.out" && fail "status finds it healthy"
assert_matches "the age of the handshake" "[12] h" "$(grep 'latest handshake' "$W/status.out" || true)"

step "a new handshake, without anybody's help"
nft delete element inet seen stopped '{ 51820 }'
wait_for "an answer" 30 answered
[ "$(session)" -gt "$right" ] || fail "the session is the old one"
is_healthy
u "wg4netns stop t"
assert_eq "left in its directory" "" "$(vm 'busybox find /u/run -not -type d')"
