#!/bin/bash
# Clients of the configuration socket that mean no good: endless lines, a thousand that stall, half a request, bytes that
# are no text, other users. What they ask is not done, others are served meanwhile, and the tunnel carries on.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#                     │
#                     └── wg0.sock ◄── abuse
#
# needs: netns tun wg wireguard-go perl socat
# timeout: 90
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go perl socat
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf" "ListenPort = 51821"
attach
SOCKET=$(uapi_dir)/wg0.sock
status_kb() { sed -n "s/^$1:[ \t]*\([0-9]*\) kB/\1/p" "/proc/$OURS/status"; }
configured() { "$WG4NETNS" showconf wg0; }
shows() { "$WG4NETNS" show wg0 >/dev/null; }
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no tunnel to begin with"
start pings nsenter -t "$TARGET" -U -n --preserve-credentials -- ping -i 0.1 10.6.0.2; PINGS=$STARTED
for _ in {1..20}; do shows; done
BEFORE=$(configured)

# say PRINTF-TEXT: sends it, closes that half, prints the answer.
# shellcheck disable=SC2059 # its escapes are wanted
say() { printf "$1" | timeout 20 socat -t 10 - "UNIX-CONNECT:$SOCKET" 2>/dev/null || true; }

step "a line of 200 MiB is cut at 4 KiB and costs no memory"
rss=$(status_kb VmRSS); peak=$(status_kb VmHWM)
cat >"$W/endless" <<'P'
use IO::Socket::UNIX; $SIG{PIPE} = "IGNORE";
my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!";
my ($sent, $chunk) = (0, "x" x 65536);
syswrite($s, "set=1\nlisten_port=1\nprivate_key=");
while ($sent < 200 * 1048576) { my $n = syswrite($s, $chunk) or last; $sent += $n; }
my $answer = ""; sysread($s, $answer, 100);
print $sent >> 10, " ", $answer =~ tr/\n/ /r, "\n";
P
read -r sent errno <<<"$(timeout 60 perl "$W/endless" "$SOCKET")"
assert_at_most "KiB that were taken, the socket's own buffer included" 1024 "$sent"
assert_eq "the answer" "errno=-90" "$errno"
for _ in {1..8}; do timeout 60 perl "$W/endless" "$SOCKET" >/dev/null & clients+=($!); done
wait "${clients[@]}"
assert_at_most "growth of the peak (kB), eight more at once" 1024 $(($(status_kb VmHWM) - peak))
assert_at_most "growth of resident memory (kB)" 1024 $(($(status_kb VmRSS) - rss))

step "a thousand clients that stall: the others are served in time"
cat >"$W/stall" <<'P'
use IO::Socket::UNIX; $SIG{PIPE} = "IGNORE"; $| = 1;
use Errno; my @held;
for my $i (1 .. 1000) {
  my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect $i: $!";
  # Idle; half a line; half a request; answers that are not read.
  syswrite($s, ("", "set=1\nlisten_po", "set=1\nlisten_port=7\n", "get=1\n\n" x 50)[$i % 4]);
  push @held, $s;
}
sub cut_off { my $s = shift; $s->blocking(0); while (1) { my $n = sysread($s, my $b, 65536); return !$!{EAGAIN} unless defined $n; return 1 unless $n; } }
my $evicted = 0;
for (1 .. 500) { $evicted = grep { cut_off($_) } @held; last if $evicted >= 936; select(undef, undef, undef, 0.02); }
print "evicted $evicted\n";
sleep 1 while 1;
P
ulimit -n 1100 2>/dev/null || true
start stall perl "$W/stall" "$SOCKET"; STALL=$STARTED
wait_for "a thousand clients" 20 grep -q evicted "$W/stall.log"
assert_eq "all but 64 were made to leave" "evicted 936" "$(cat "$W/stall.log")"
for _ in {1..10}; do
  capture shows; assert_status 0
  echo "$TOOK_MS" >>"$W/shows"
done
assert_at_most "the median of ten \`show\` (ms)" 100 "$(sort -n "$W/shows" | sed -n 5p)"
kill "$STALL"; wait_for "their end" 5 gone "$STALL"

step "a client of a byte a second is cut off, one that is idle is not"
cat >"$W/slow" <<'P'
use IO::Socket::UNIX; $SIG{PIPE} = "IGNORE"; use Time::HiRes qw(time sleep);
my $idle = IO::Socket::UNIX->new(Peer => $ARGV[0]); my $slow = IO::Socket::UNIX->new(Peer => $ARGV[0]);
my $begin = time; while (time - $begin < 30 and syswrite($slow, "g")) { sleep 0.25 }
printf "%d ", time - $begin;
syswrite($idle, "get=1\n\n"); sysread($idle, my $answer, 11); print "$answer\n";
P
read -r seconds answer <<<"$(perl "$W/slow" "$SOCKET")"
assert_at_most "seconds until it is cut off" 8 "$seconds"
assert_eq "the idle one is served" private_key "$answer"

step "half a request applies nothing"
assert_eq "cut off amid it" "" "$(say 'set=1\nlisten_port=9\nreplace_peers=true\n')"
assert_eq "cut off amid its last line" "" "$(say 'set=1\nlisten_port=9\nreplace_peers=true\nfwmark=0')"
start half perl -e 'use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die; syswrite($s, "set=1\nreplace_peers=true\n"); syswrite(STDOUT, "sent\n"); sleep 60' "$SOCKET"
wait_for "half a request" 5 grep -q sent "$W/half.log"
kill -9 "$STARTED"; wait_for "its end" 5 gone "$STARTED"
assert_eq "the configuration" "$BEFORE" "$(configured)"

step "what is wrong anywhere in a request is answered, and nothing of it is applied"
HEX=$(wg pubkey <"$W/b.key" | base64 -d | od -An -tx1 -v | tr -d ' \n')
wrong() { # ERRNO LINES
  assert_eq "the answer to $2" "errno=$1" "$(say "set=1\nlisten_port=9\n$2\n\n" | head -n 1)"
}
wrong -22 'listen_port=99999'
wrong -22 'listen_port=-1'
wrong -22 'listen_port=4294967296'
wrong -22 'private_key=%s' # no hex
wrong -22 "private_key=${HEX}0"
wrong -22 "private_key=${HEX%?}"
wrong -71 'no equals sign'
wrong -22 'replace_peers=false'
wrong -22 'listen_port=5\\000'
wrong -22 'listen_port=5\\r'
wrong -22 'listen_port=\\377'
wrong -22 '\\377\\376=1'
wrong -22 '=1'
wrong -22 "public_key=$HEX\nallowed_ip=10.0.0.0/33"
wrong -22 "public_key=$HEX\nendpoint=vpn.example:5"
wrong -22 "public_key=$HEX\nprotocol_version=2"
wrong -22 "public_key=$HEX\npersistent_keepalive_interval=65536"
wrong -22 "public_key=$HEX\nremove=true\nlisten_port=5"
assert_eq "no operation" "" "$(say 'hello\n\n')"
assert_eq "a get with lines" "errno=22" "$(say 'get=1\nx=1\n\n' | head -n 1)"
assert_eq "a million keys" "errno=-22" "$({ printf 'set=1\nlisten_port=9\n'; awk 'BEGIN { for (i = 0; i < 1000000; i++) print "nosuch=1"; print "" }'; } | timeout 20 socat -t 10 - "UNIX-CONNECT:$SOCKET" | head -n 1)"
assert_eq "the configuration" "$BEFORE" "$(configured)"

step "an unknown peer may be removed, or updated only if it is there: nothing happens"
other=$(wg genkey | wg pubkey | base64 -d | od -An -tx1 -v | tr -d ' \n')
assert_eq "removed" "errno=0" "$(say "set=1\npublic_key=$other\nremove=true\n\n" | head -n 1)"
assert_eq "updated" "errno=0" "$(say "set=1\npublic_key=$other\nupdate_only=true\nallowed_ip=10.9.9.0/24\n\n" | head -n 1)"
assert_eq "the configuration" "$BEFORE" "$(configured)"

step "the tunnel has not noticed"
kill -INT "$PINGS"; wait_for "the pings' end" 5 grep -q 'packet loss' "$W/pings.log"
assert_has "the pings" " 0% packet loss" "$(cat "$W/pings.log")"
assert_at_most "lines in its log" 60 "$(wc -l <"$W/wg0.log")"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
assert_nothing_left

step "another user is refused, and so is the root of a container"
if [ "$WG4NETNS_WORLD" != root ]; then note "there is only one user here"; exit 0; fi
attach
open_for_all() { chmod 755 "$(uapi_dir)"; chmod 666 "$SOCKET"; chmod 755 "$W"; }
open_for_all
asks() { printf 'get=1\n\n' | timeout 5 socat -t 5 - "UNIX-CONNECT:$SOCKET" 2>/dev/null | head -n 1; }
export -f asks; export SOCKET
assert_has "ourselves" private_key "$(asks)"
assert_eq "uid 12345" "" "$(setpriv --reuid 12345 --regid 12345 --clear-groups -- bash -c asks)"
assert_has "it is logged" "refused a configuration client of another user" "$(cat "$W/wg0.log")"
unshare -U sleep 1000 & box=$!; OWN_PIDS+=("$box")
wait_for "its namespace" 5 grep -q sleep "/proc/$box/comm"
wait_for "its user namespace" 5 sh -c "[ \"\$(readlink /proc/$box/ns/user)\" != \"\$(readlink /proc/self/ns/user)\" ]"
echo '0 100000 65536' >"/proc/$box/uid_map"; echo '0 100000 65536' >"/proc/$box/gid_map"
assert_eq "it is root in there" 0 "$(nsenter -t "$box" -U --setuid 0 --setgid 0 -- id -u)"
assert_eq "root of a container" "" "$(nsenter -t "$box" -U --setuid 0 --setgid 0 -- bash -c asks)"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"

step "a server inside a user namespace trusts its own user only: everybody else is the overflow user there"
mkdir -m 755 "$W/inner"; chown 100000:100000 "$W/inner"
cp "$W/wg0.conf" "$W/inner/wg0.conf"; chown 100000:100000 "$W/inner/wg0.conf"
nsenter -t "$box" -U --setuid 0 --setgid 0 -- unshare -Urn sleep 1000 & INNER=$!; OWN_PIDS+=("$INNER")
wait_for "the inner target" 5 own_netns "$INNER"
start inner nsenter -t "$box" -U --setuid 0 --setgid 0 -- env XDG_RUNTIME_DIR="$W/inner" \
  "$WG4NETNS" --netns-pid "$INNER" --config "$W/inner/wg0.conf" --uapi-dir "$W/inner/uapi" --ready-fd 9 9>"$W/inner.ready"
wait_for "ready" 10 test -s "$W/inner.ready"
SOCKET=$W/inner/uapi/wg0.sock
chmod 755 "$W/inner/uapi"; chmod 666 "$SOCKET"
assert_has "its own user" private_key "$(nsenter -t "$box" -U --setuid 0 --setgid 0 -- bash -c asks)"
assert_eq "another user of that namespace" "" "$(nsenter -t "$box" -U --setuid 7 --setgid 7 -- bash -c asks)"
assert_eq "a stranger from outside" "" "$(setpriv --reuid 12345 --regid 12345 --clear-groups -- bash -c asks)"
