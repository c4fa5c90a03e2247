#!/bin/bash
# run is transparent: CMD sees what it would see without us, and its caller sees CMD's status.
#
#   CMD wg0 ── wg4netns run :host ── h0 ═ p0 ── (nobody needs to answer: --no-wait)
#
# needs: netns tun wg
# timeout: 90
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg script
peer_world
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
run() { "$WG4NETNS" run -qq --no-wait --config "$W/wg0.conf" -- "$@"; }
# same WHAT CMD…: prints the same with and without us.
same() {
  local what=$1 direct inside; shift
  direct=$("$@"); inside=$(run "$@")
  assert_eq "$what" "$direct" "$inside"
}

step "it is a namespace of its own, with the tunnel in it"
assert_has "wg0" "10.6.0.1/24" "$(run ip -o addr show wg0)"
[ "$(run readlink /proc/self/ns/net)" != "$(readlink /proc/self/ns/net)" ] || fail "the network namespace is ours"

step "umask, limits, signals, descriptors, directory, environment, user"
(umask 037; same "umask" sh -c umask)
(ulimit -Sn 100; ulimit -Hn 200; same "limits" sh -c 'ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -v')
(trap '' USR1 PIPE; same "signals ignored" sh -c 'grep -E "^Sig(Ign|Blk)" /proc/self/status')
same "signals" sh -c 'grep -E "^Sig(Ign|Blk)" /proc/self/status'
(exec 5</dev/null 7>"$W/seven"; same "descriptors" sh -c 'ls /proc/$$/fd'; run sh -c 'echo through >&7')
assert_eq "what was written to descriptor 7" through "$(cat "$W/seven")"
(cd "$W/tmp"; same "directory" pwd)
(export MARK=1; same "environment" sh -c 'env | grep -v ^_= | sort')
same "user and groups" id
same "no new privileges, nice, oom" sh -c 'grep NoNewPrivs /proc/self/status; nice; cat /proc/self/oom_score_adj'
same "arguments" printf '%s|' '' 'a b' "c'd" -- --help
same "session and group leadership" sh -c 'ps -o tty= -p $$'

step "what people wonder about is said once, before the command, and -qq keeps it away"
our_conf "$W/nodns.conf"
capture "$WG4NETNS" run --no-wait --config "$W/nodns.conf" -- sh -c 'echo command >&2'
assert_eq "stderr" "wg4netns: warning: only 10.6.0.0/24, fd06::/64 is reachable inside, by design
wg4netns: warning: no DNS=: names will not resolve; use --dns
command" "$ERR"
our_conf "$W/all.conf" "DNS = 10.6.0.2" -- "AllowedIPs = 0.0.0.0/0, ::/0"
capture "$WG4NETNS" run --no-wait --config "$W/all.conf" -- true
assert_eq "nothing to wonder about" "" "$ERR"

step "stdin, stdout, stderr"
assert_eq "stdin" hello "$(echo hello | run cat)"
capture run sh -c 'echo out; echo err >&2'
assert_eq "stdout" out "$OUT"; assert_eq "stderr" err "$ERR"

step "the status of CMD"
for wanted in 0 1 7 125 255; do capture run sh -c "exit $wanted"; assert_status "$wanted"; done
capture run sh -c 'kill -KILL $$'; assert_status 137
capture run sh -c 'kill -TERM $$'; assert_status 143
capture run surely-not-a-command; assert_status 127
assert_has "it names the command" surely-not-a-command "$ERR"
: >"$W/not-executable"; capture run "$W/not-executable"; assert_status 126
capture run "$W"; assert_status 126
capture "$WG4NETNS" run --config "$W/missing.conf" -- true; assert_status 125
capture "$WG4NETNS" run --no-such-flag -- true; assert_status 125
capture "$WG4NETNS" run -- true; assert_status 125
assert_nothing_left

step "SIGTERM goes to CMD, and CMD's answer is the status"
start term "$WG4NETNS" run --no-wait --config "$W/wg0.conf" -- sh -c 'trap "exit 5" TERM; echo up; while :; do sleep 0.05; done'
wait_for "CMD" 5 grep -q up "$W/term.log"
kill "$STARTED"; status=0; wait "$STARTED" || status=$?
assert_eq "status" 5 "$status"
start int "$WG4NETNS" run --no-wait --config "$W/wg0.conf" -- bash -c 'trap "exit 6" HUP; echo up; while :; do sleep 0.05; done'
wait_for "CMD" 5 grep -q up "$W/int.log"
kill -HUP "$STARTED"; status=0; wait "$STARTED" || status=$?
assert_eq "status" 6 "$status"
assert_nothing_left

step "the terminal: a tty, its size, its keys, and stopping"
typed() { script -qec "$1" /dev/null </dev/null | tr -d '\r'; }
line="'$WG4NETNS' run -qq --no-wait --config '$W/wg0.conf' --"
assert_eq "a terminal" "yes" "$(typed "$line sh -c 'test -t 0 && test -t 1 && test -t 2 && echo yes'")"
assert_eq "/dev/tty" "yes" "$(typed "$line sh -c ': </dev/tty && echo yes'")"
assert_eq "foreground" "yes" "$(typed "$line sh -c 'read -r _ _ _ _ group _ _ front _ </proc/self/stat; test \$group = \$front && echo yes'")"
# ^C reaches CMD once, and its status comes back.
mkfifo "$W/keys"; exec 8<>"$W/keys"
start tty env --default-signal=INT,QUIT script -qec "exec $line sh -c 'trap \"echo caught; exit 9\" INT; echo up; while :; do sleep 0.05; done'" /dev/null <"$W/keys"
TTY=$STARTED
wait_for "CMD" 5 grep -q up "$W/tty.log"
printf '\003' >&8
wait_for "^C to be caught" 5 grep -q caught "$W/tty.log"
status=0; wait "$TTY" || status=$?
assert_eq "status" 9 "$status"
assert_nothing_left

step "exec joins it"
start long "$WG4NETNS" run --no-wait --name joined --config "$W/wg0.conf" -- sh -c 'readlink /proc/self/ns/net; sleep 1000'
wait_for "CMD" 5 grep -q net: "$W/long.log"
assert_eq "the same namespace" "$(grep net: "$W/long.log")" "$("$WG4NETNS" exec joined -- readlink /proc/self/ns/net)"
capture "$WG4NETNS" exec joined -- sh -c 'exit 11'; assert_status 11
capture "$WG4NETNS" exec nobody -- true; assert_status 125
capture "$WG4NETNS" stop joined
assert_status 0
assert_nothing_left 2

step "we and our helpers are confined, whom the command is not"
our_conf "$W/name.conf" "DNS = 10.6.0.2" -- "Endpoint = localhost:51820"
start confined "$WG4NETNS" run --no-wait --name confined -p 127.0.0.1:18080:80 --config "$W/name.conf" -- sh -c 'echo up; sleep 1000'
wait_for "CMD" 5 grep -q up "$W/confined.log"
assert_confined tx rx broker forwarder socket-factory
"$WG4NETNS" stop confined
assert_nothing_left 2
