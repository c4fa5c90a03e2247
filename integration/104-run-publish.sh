#!/bin/bash
# run -p and --reach: the command's ports are the host's while it runs, and are free when it has ended.
#
#   curl :host ── wg4netns run -p 8080:80 -- CMD (wg0, lo)
#
# needs: netns tun wg socat curl
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg socat curl
peer_world
our_conf "$W/wg0.conf"
cat >"$W/hello" <<'S'
read -r request
printf 'HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nfrom %s\n' "$SOCAT_PEERADDR"
S
answers() { curl -sS -m 5 http://127.0.0.1:8080/; }
start elsewhere socat TCP4-LISTEN:5432,bind=127.0.0.1,fork,reuseaddr "SYSTEM:sh $W/hello"

step "a server as CMD, an ordinary user inside"
start run "$WG4NETNS" run --no-wait --config "$W/wg0.conf" -p 8080:8000 --reach 127.0.0.1:5432 -- \
  socat TCP4-LISTEN:8000,fork,reuseaddr "SYSTEM:sh $W/hello"
RUN=$STARTED
wait_for "an answer" 10 answers
assert_eq "what it says" "from 10.6.0.1" "$(answers)"
name=$("$WG4NETNS" ls | awk 'NR == 2 { print $1 }')
assert_eq "reached from inside" "from 127.0.0.1" "$("$WG4NETNS" exec "$name" -- curl -sS -m 5 http://127.0.0.1:5432/)"
assert_has "status" "tcp 0.0.0.0:8080 to 10.6.0.1:8000" "$("$WG4NETNS" status "$name" || true)"

step "^C goes to CMD and not to what forwards its ports"
start interrupted setsid --wait script -qfc "$WG4NETNS run --no-wait --config $W/wg0.conf --name i -p 8081:8000 -- sh -c 'trap : INT; echo up; socat TCP4-LISTEN:8000,fork,reuseaddr SYSTEM:sh\ $W/hello & sleep 1; echo woken; sleep 30'" /dev/null
wait_for "CMD" 10 grep -q up "$W/interrupted.log"
group=$(for pid in $(our_processes); do ps -o tpgid= -p "$pid"; done | awk '$1 > 0' | head -n 1 | tr -d ' ')
kill -INT -- "-$group"
again() { curl -sS -m 5 http://127.0.0.1:8081/; }
wait_for "CMD to go on" 10 grep -q woken "$W/interrupted.log"
capture "$WG4NETNS" status i --json
assert_has "the port is still forwarded" "0.0.0.0:8081" "$OUT"
"$WG4NETNS" stop i

step "a port that is taken: 125, one line, CMD does not run"
capture "$WG4NETNS" run --no-wait --config "$W/wg0.conf" -p 8080:80 -- touch "$W/ran"
assert_status 125
assert_has "what it says" "cannot listen on \`0.0.0.0:8080\` (tcp) to publish it: Address" "$ERR"
not test -e "$W/ran" || fail "CMD ran"

step "when CMD has ended the port is free at once, and nothing is left"
kill "$RUN"; wait_for "the end" 5 gone "$RUN"
capture answers
assert_status 7
assert_nothing_left
