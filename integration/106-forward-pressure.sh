#!/bin/bash
# Whoever does not read holds up whoever writes, on either side of a forwarded port, and nothing is kept or lost for it. Questions
# that nobody answers are bounded, and what is answered late is given to nobody else.
#
#   writers, readers :host ── wg4netns (-p, --reach) ── lo of target: writers, readers
#   target: asks 10.0.2.3, 10.0.2.4 ── wg4netns (--dns-forward) ── wg0 ── h0 ═ p0 ── wireguard-go :peer, a name server on 10.6.0.2
#
# needs: netns tun wg wireguard-go socat perl jq
# timeout: 120
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go socat perl jq
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
seq 1 8000000 >"$W/stream"
cat >"$W/read" <<S
#!/bin/sh
# read NAME: takes nothing until it is told to, then the stream.
until [ -e "$W/go" ]; do sleep 0.05; done
cmp -s - "$W/stream" && : >"$W/\$1.whole"
S
chmod 755 "$W/read"
inside=(nsenter -t "$TARGET" -U -n --preserve-credentials --)
forwards() { "$WG4NETNS" status wg0 --json || true; }
forwarder() { local pid; for pid in $(our_processes); do tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q -- __forwarder && echo "$pid"; done; true; }
resident() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$1/status"; }
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

start echo "${inside[@]}" socat TCP4-LISTEN:8002,fork,reuseaddr SYSTEM:cat
start reader "${inside[@]}" socat -u TCP4-LISTEN:8000 "SYSTEM:$W/read published-to-server"
start writer "${inside[@]}" socat -u "OPEN:$W/stream,rdonly" TCP4-LISTEN:8001; writers=("$STARTED")
start reader socat -u TCP4-LISTEN:5001,bind=127.0.0.1 "SYSTEM:$W/read reached-to-server"
start writer socat -u "OPEN:$W/stream,rdonly" TCP4-LISTEN:5002,bind=127.0.0.1; writers+=("$STARTED")
listening() { [ "$(in_target ss -Hltn '( sport >= 8000 and sport <= 8002 )' | wc -l)" = 3 ] && [ "$(ss -Hltn '( sport = 5001 or sport = 5002 )' | wc -l)" = 2 ]; }
wait_for "the servers" 5 listening
attach -p 127.0.0.1:18000:8000 -p 127.0.0.1:18001:8001 -p 127.0.0.1:18002:8002 --reach 127.0.0.1:5001 --reach 127.0.0.1:5002 --dns-forward 10.0.2.3 --dns-forward 10.0.2.4
FORWARDER=$(forwarder)
assert_eq "an answer beside nobody" "word" "$(echo word | timeout 5 socat -t 5 - TCP4:127.0.0.1:18002)"
before=$(resident "$FORWARDER")

step "a stalled reader at each end of -p and --reach: its writer waits, nothing grows, nothing spins, others are served"
start writer socat -u "OPEN:$W/stream,rdonly" TCP4:127.0.0.1:18000; writers+=("$STARTED")
start reader socat -u TCP4:127.0.0.1:18001 "SYSTEM:$W/read published-to-client"
start writer "${inside[@]}" socat -u "OPEN:$W/stream,rdonly" TCP4:127.0.0.1:5001; writers+=("$STARTED")
start reader "${inside[@]}" socat -u TCP4:127.0.0.1:5002 "SYSTEM:$W/read reached-to-client"
four() { [ "$(forwards | jq '[.forwards[] | select(.transport == "tcp") | .active] | add')" = 4 ]; }
wait_for "four connections" 5 four
stays "four connections" 1 four
used=$(ticks "$FORWARDER")
# shellcheck disable=SC2317 # called by stays
all_wait() { local pid; for pid in "${writers[@]}"; do alive "$pid" || return 1; done; }
stays "the four writers, with 63 MB each to write" 2 all_wait
assert_at_most "the forwarder's work meanwhile (hundredths of a second)" 20 $(($(ticks "$FORWARDER") - used))
assert_at_most "the forwarder's growth (KiB)" 2048 $(($(resident "$FORWARDER") - before))
assert_eq "an answer beside them" "word" "$(echo word | timeout 5 socat -t 5 - TCP4:127.0.0.1:18002)"

step "the readers read on: all of it arrives, in order"
: >"$W/go"
whole() { [ -e "$W/published-to-server.whole" ] && [ -e "$W/published-to-client.whole" ] && [ -e "$W/reached-to-server.whole" ] && [ -e "$W/reached-to-client.whole" ]; }
wait_for "four whole streams" 40 whole
note "after $WAITED_MS ms"
for pid in "${writers[@]}"; do wait_for "a writer's end" 5 gone "$pid"; done
none() { [ "$(forwards | jq '[.forwards[] | select(.transport == "tcp") | .active] | add')" = 0 ]; }
wait_for "no connection to be open" 5 none

cat >"$W/ask" <<'P'
# ask FROM-PORT NUMBER NAME…: puts the questions to the alias at $ALIAS; prints what comes back to the last one.
use strict; use warnings; use Socket; use Time::HiRes qw(sleep);
my ($port, $number, @names) = @ARGV;
socket(my $s, PF_INET, SOCK_DGRAM, 17); bind($s, sockaddr_in($port, INADDR_ANY)) or die "bind: $!";
connect($s, sockaddr_in(53, inet_aton($ENV{ALIAS} // "10.0.2.3"))) or die "connect: $!";
for (@names) { send($s, pack("n6", $number++, 0x0100, 1, 0, 0, 0) . join("", map { pack("C/a*", $_) } split /\./) . pack("xnn", 1, 1), 0); sleep 0.0005; }
alarm 10;
while (defined recv($s, my $answer, 512, 0)) {
  my ($its, $flags) = unpack("nn", $answer);
  next if $its != $number - 1;
  my @labels = unpack("(C/a*)3", substr($answer, 12)); pop @labels;
  print join(".", grep { length } @labels), " ", $flags & 15 ? "fails" : join(".", unpack("C4", substr($answer, -4))), "\n";
  last;
}
P
ask() { in_target timeout 12 perl "$W/ask" "$@"; }
questions() { forwards | jq '[.forwards[] | select(.kind == "dns" and .transport == "udp") | .active] | add'; }
echo 192.0.2.7 >"$W/answer"
start names nsenter --net=/run/netns/peer -- "$INTEGRATION/faults/names" 10.6.0.2 "$W/answer"
wait_for "the name server" 5 grep -q answering "$W/names.log"

step "3000 questions that nobody answers at each of two addresses: a bounded number is open, the rest wait or are lost"
assert_eq "an answer" "name.test 192.0.2.7" "$(ask 0 1 name.test)"
before=$(resident "$FORWARDER")
echo hold >"$W/answer"
mapfile -t names < <(printf 'n%d.test\n' {1..3000})
start crowd "${inside[@]}" env ALIAS=10.0.2.4 perl "$W/ask" 0 1 "${names[@]}"
start crowd "${inside[@]}" perl "$W/ask" 0 1 "${names[@]}"
crowded() { [ "$(questions)" -ge 200 ]; }
wait_for "a crowd" 5 crowded
most=0 descriptors=0
until gone "$STARTED"; do
  now=$(find "/proc/$FORWARDER/fd" -mindepth 1 | wc -l); [ "$now" -le "$descriptors" ] || descriptors=$now
  now=$(questions); [ "$now" -le "$most" ] || most=$now
  [ "$now" -ge 200 ] || break
  [ "$most" -lt 257 ] || break
done
assert_at_most "questions open at a time" 256 "$most"
assert_at_most "descriptors of the forwarder" 320 "$descriptors"
[ "$descriptors" -ge 200 ] || fail "only $descriptors descriptors: that was no crowd"
assert_at_most "the forwarder's growth (KiB)" 4096 $(($(resident "$FORWARDER") - before))

step "when the server answers again, so does the alias, and no question stays open"
echo 192.0.2.8 >"$W/answer"
again() { [ "$(ask 0 5000 later.test)" = "later.test 192.0.2.8" ]; }
wait_for "an answer" 30 again
no_questions() { [ "$(questions)" = 0 ]; }
wait_for "no question to be open" 20 no_questions
kill "$STARTED" 2>/dev/null || true

step "a late answer is not given to the next one, though it has the same port and the same number"
in_target sh -c 'echo "40000 40000" >/proc/sys/net/ipv4/ip_local_port_range'
echo hold >"$W/answer"
assert_eq "who asked in vain" "first.test fails" "$(ask 50001 7 first.test)"
echo 192.0.2.9 >"$W/answer"
assert_eq "who asked then" "second.test 192.0.2.9" "$(ask 50002 7 second.test)"
assert_eq "the ports they were asked from" "40000 40000 40000" "$(sed -n 's/^asked for \(first\|second\).test from //p' "$W/names.log" | paste -sd ' ')"
assert_eq "late answers that were sent before it" "2" "$(grep -c '^late, to 40000$' "$W/names.log")"

step "the end"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
kill "$TARGET"
wait_for "no process of ours to be left" 5 no_processes
no_files || fail "files are left"
