#!/bin/bash
# exec: a command in a running tunnel's namespaces. It is as transparent as run: what CMD finds is what the caller has.
#
#   CMD ─┐
#        wg0 ── wg4netns run, or attach to a container :host ── h0 ═ p0 ── (nobody needs to answer)
#
# needs: netns tun wg script jq
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg script jq
peer_world
our_conf "$W/wg0.conf" "DNS = 10.6.0.2"
start joined "$WG4NETNS" run --no-wait --name joined --config "$W/wg0.conf" -- sh -c 'readlink /proc/self/ns/net /proc/self/ns/user /proc/self/ns/mnt; sleep 100000'
RUN=$STARTED
wait_for "CMD" 5 grep -q mnt: "$W/joined.log"
inside() { "$WG4NETNS" exec joined -- "$@"; }
same() { # WHAT CMD…: prints the same with and without us
  local what=$1 direct through; shift
  direct=$("$@"); through=$(inside "$@")
  assert_eq "$what" "$direct" "$through"
}

step "it is in the tunnel's namespaces, with its resolv.conf"
assert_eq "network, user and mount namespace" "$(grep -E '^(net|user|mnt):' "$W/joined.log")" "$(inside readlink /proc/self/ns/net /proc/self/ns/user /proc/self/ns/mnt)"
assert_has "wg0" "10.6.0.1/24" "$(inside ip -o addr show wg0)"
assert_has "resolv.conf" "nameserver 10.6.0.2" "$(inside cat /etc/resolv.conf)"

step "umask, limits, signals, descriptors, directory, environment, arguments"
(umask 037; same "umask" sh -c umask)
(ulimit -Sn 100; ulimit -Hn 200; same "limits" sh -c 'ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -v')
(trap '' USR1 PIPE; same "signals ignored" sh -c 'grep -E "^Sig(Ign|Blk)" /proc/self/status')
same "signals" sh -c 'grep -E "^Sig(Ign|Blk)" /proc/self/status'
(exec 5</dev/null 7>"$W/seven"; same "descriptors" sh -c 'ls /proc/$$/fd'; inside sh -c 'echo through >&7')
assert_eq "what was written to descriptor 7" through "$(cat "$W/seven")"
(exec <&-; same "a closed standard stream" sh -c 'ls /proc/$$/fd')
(cd "$W/tmp"; same "directory" pwd)
(export MARK=1; same "environment" sh -c 'env | grep -v ^_= | sort')
same "arguments" printf '%s|' '' 'a b' "c'd" -- --help
same "user and groups" id -u
assert_eq "stdin" hello "$(echo hello | inside cat)"
capture inside sh -c 'echo out; echo err >&2'
assert_eq "stdout" out "$OUT"; assert_eq "stderr" err "$ERR"

step "the terminal is the caller's"
typed() { script -qec "$1" /dev/null </dev/null | tr -d '\r'; }
line="'$WG4NETNS' exec joined --"
assert_eq "a terminal" "yes" "$(typed "$line sh -c 'test -t 0 && test -t 1 && test -t 2 && : </dev/tty && echo yes'")"
assert_eq "foreground" "yes" "$(typed "$line sh -c 'read -r _ _ _ _ group _ _ front _ </proc/self/stat; test \$group = \$front && echo yes'")"
assert_eq "its size" "$(typed "stty size")" "$(typed "$line stty size")"

step "it becomes CMD: the same process, CMD's status, CMD's signals"
"$WG4NETNS" exec joined -- sh -c 'echo $$ >"$W/pid"; exec sleep 1000' & pid=$!; OWN_PIDS+=("$pid")
wait_for "CMD" 5 test -s "$W/pid"
assert_eq "the process" "$pid" "$(cat "$W/pid")"
kill "$pid"; status=0; wait "$pid" || status=$?
assert_eq "status" 143 "$status"
for wanted in 0 1 11 125 255; do capture inside sh -c "exit $wanted"; assert_status "$wanted"; done

# says CODE 'TEXT' 'HINT' ARG…
says() {
  local wanted="wg4netns: $2"
  [ -z "$3" ] || wanted+=$'\n'"hint: $3"
  capture "$WG4NETNS" exec "${@:4}"
  assert_eq "what is said" "$wanted" "$ERR"
  assert_status "$1"
}
step "126, 127, 125"
says 127 'cannot execute `surely-not-a-command`: No such file or directory (os error 2)' '' joined -- surely-not-a-command
: >"$W/not-executable"
says 126 "cannot execute \`$W/not-executable\`: Permission denied (os error 13)" '' joined -- "$W/not-executable"
says 126 "cannot execute \`$W\`: Permission denied (os error 13)" '' joined -- "$W"
says 125 'no tunnel named `nobody` is running' '`wg4netns ls` lists those that run' nobody -- true
capture "$WG4NETNS" exec --no-such-flag joined -- true; assert_status 125

step "-v and --log-format are heard"
capture "$WG4NETNS" exec -v joined -- true
assert_matches "a decision" '^wg4netns: debug: entering the namespace name=joined target="?pid [0-9]+' "$ERR"
capture "$WG4NETNS" exec -v --log-format json joined -- true
assert_eq "as a document" '"entering the namespace"' "$(jq -c .message <<<"$ERR")"
capture "$WG4NETNS" exec joined -- true
assert_eq "nothing without" "" "$ERR"

step "the shell of the caller, without a command"
assert_eq "a shell" "10.6.0.1" "$(echo 'ip -o -4 addr show wg0 | grep -o "10.6.0.1"' | SHELL=/bin/sh "$WG4NETNS" exec joined)"
kill "$RUN"; wait_for "the end of run" 5 gone "$RUN"
says 125 'no tunnel named `joined` is running' '`wg4netns ls` lists those that run' joined -- true

step "into an attached container: its network, its mounts, its users"
unshare -Urnm bash -c 'mount -t tmpfs tmpfs /mnt && echo container >/mnt/where && exec sleep 100000' </dev/null >/dev/null 2>&1 &
TARGET=$!; OWN_PIDS+=("$TARGET")
wait_for "the target's namespaces" 5 own_netns "$TARGET"
attach
inside() { "$WG4NETNS" exec wg0 -- "$@"; }
assert_eq "network namespace" "$(readlink "/proc/$TARGET/ns/net")" "$(inside readlink /proc/self/ns/net)"
assert_has "wg0" "10.6.0.1/24" "$(inside ip -o addr show wg0)"
assert_eq "its mounts" container "$(inside cat /mnt/where)"
assert_eq "its root" 0 "$(inside id -u)"
inside ip link set wg0 mtu 1300 || fail "it is not root over its network"
capture inside sh -c 'exit 7'; assert_status 7
kill "$TARGET"; wait_for "the end with the container" 5 gone "$OURS"
says 125 'no tunnel named `wg0` is running' '`wg4netns ls` lists those that run' wg0 -- true
assert_nothing_left
