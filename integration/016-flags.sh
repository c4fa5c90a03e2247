#!/bin/bash
# What else can be said to attach and run: resolv.conf, log level and format, where the configuration comes from.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# needs: netns tun wg wireguard-go jq
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go jq
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf" "DNS = 10.6.0.2, fd06::2, corp.example"
end() { kill "$OURS"; wait_for "the end" 5 gone "$OURS"; }

step "--write-resolv-conf: the configuration's servers, those of --dns and --dns-search, none"
resolv() { # WANTED ARG…
  local wanted=$1; shift
  rm -f "$W/resolv.conf"
  attach --write-resolv-conf "$W/resolv.conf" "$@"
  assert_eq "resolv.conf ($*)" "# written by wg4netns$wanted" "$(cat "$W/resolv.conf")"
  end
}
resolv $'\nsearch corp.example\nnameserver 10.6.0.2\nnameserver fd06::2'
resolv $'\nsearch corp.example\nnameserver 9.9.9.9' --dns 9.9.9.9
resolv $'\nsearch a.test b.test\nnameserver 9.9.9.9\nnameserver 2620:fe::fe' --dns 9.9.9.9 --dns 2620:fe::fe --dns-search a.test --dns-search b.test
resolv '' --dns none --dns-search .
refused 1 "cannot write \`$W/nowhere/resolv.conf\`: No such file or directory (os error 2)" '' -- \
  "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --write-resolv-conf "$W/nowhere/resolv.conf"
refused 2 "\`--dns\` needs \`--write-resolv-conf FILE\`" '' -- "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --dns 9.9.9.9

step "--dns of run, in the command's resolv.conf"
capture "$WG4NETNS" run --no-wait --config "$W/wg0.conf" --dns 9.9.9.9 --dns-search a.test -- cat /etc/resolv.conf
assert_eq "resolv.conf" $'# written by wg4netns\nsearch a.test\nnameserver 9.9.9.9' "$OUT"

# logged ARG…: what a tunnel with these flags says from its start over a ping to its end.
logged() { : >"$W/wg0.log"; attach "$@"; in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"; end; }

step "log levels: information, -v decisions, -vv packets, -q warnings, -qq errors"
chmod 644 "$W/wg0.conf"
logged
assert_has "the start" "wg4netns: ready name=wg0" "$(cat "$W/wg0.log")"
assert_has "a warning" "wg4netns: warning: " "$(cat "$W/wg0.log")"
assert_lacks "no decisions" "debug: " "$(cat "$W/wg0.log")"
logged -v
assert_has "decisions" "wg4netns: debug: " "$(cat "$W/wg0.log")"
assert_lacks "no key" "$(key a)" "$(cat "$W/wg0.log")"
logged -vv
assert_lacks "no key" "$(key a)" "$(cat "$W/wg0.log")"
logged -q
assert_eq "warnings alone" "" "$(grep -v '^wg4netns: warning: ' "$W/wg0.log" || true)"
assert_has "a warning" "wg4netns: warning: " "$(cat "$W/wg0.log")"
logged -qq
assert_eq "nothing" "" "$(cat "$W/wg0.log")"

step "--log-format json: each line is a document with level and message"
logged -v --log-format json
jq -es 'length > 3 and all(.[]; (.message | type) == "string" and (.level | IN("DEBUG", "INFO", "WARN")))' "$W/wg0.log" >/dev/null || fail "not all lines are such documents"
assert_eq "the line of the start" '"wg0"' "$(jq -c 'select(.message == "ready") | .name' "$W/wg0.log")"
assert_eq "documents and lines" "$(wc -l <"$W/wg0.log")" "$(jq -c . "$W/wg0.log" | wc -l)"
chmod 600 "$W/wg0.conf"

step "the configuration on standard input, in a variable that the command does not see, by name"
capture "$WG4NETNS" run --config - -- ping -c 1 -W 5 10.6.0.2 <"$W/wg0.conf"
assert_status 0
WG_SECRET=$(cat "$W/wg0.conf"); export WG_SECRET
capture "$WG4NETNS" run --config-env WG_SECRET -- sh -c 'ping -c 1 -W 5 10.6.0.2 >/dev/null && env'
assert_status 0
assert_lacks "the variable is gone" WG_SECRET "$OUT"
assert_lacks "and the key with it" "$(key a)" "$OUT"
unset WG_SECRET
mkdir "$XDG_CONFIG_HOME/wg4netns"; cp "$W/wg0.conf" "$XDG_CONFIG_HOME/wg4netns/office.conf"
start office "$WG4NETNS" run --config office -- sleep 1000
wait_for "the name" 5 sh -c '"$WG4NETNS" ls | grep -q office'
kill "$STARTED"; wait_for "the end" 5 gone "$STARTED"

step "the MTU is what the way to the peer leaves, unless it is given"
mtu_is() { # WANTED ARG…
  attach "${@:2}"
  assert_eq "MTU ($*)" "mtu $1" "$(in_target ip link show wg0 | grep -o 'mtu [0-9]*')"
  in_target ping -c 1 -s 3000 -W 5 10.6.0.2 >/dev/null || fail "no answer"
  end
}
mtu_is 1420
ip link set h0 mtu 1400; on peer ip link set p0 mtu 1400
mtu_is 1320
mtu_is 1300 --mtu 1300
ip link set h0 mtu 9000; on peer ip link set p0 mtu 9000
mtu_is 8920
ip route add 10.9.0.2 dev h0 mtu 1492
mtu_is 1412
our_conf "$W/wg0.conf" "MTU = 1290"
mtu_is 1290
our_conf "$W/wg0.conf" -- "Endpoint = surely.invalid:1"
attach
assert_eq "MTU while no way is known" "mtu 1420" "$(in_target ip link show wg0 | grep -o 'mtu [0-9]*')"
end
assert_nothing_left
