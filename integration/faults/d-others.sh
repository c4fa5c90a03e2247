# shellcheck shell=bash
# Groups D (configuration socket), E (configuration file) and G (clock).

covered D "endless lines, a thousand stalled clients, half requests, strangers" 200-uapi-abuse

fault D1 "a client is killed amid an answer, a hundred times" "others are served, no packet lost" clients_killed
clients_killed() {
  fresh
  in_target ping -i 0.02 -c 60 -W 1 -q 10.6.0.2 >"$W/ping.out" & local pings=$!
  local n
  for ((n = 0; n < 100; n++)); do
    timeout -s KILL 0.00$((RANDOM % 9 + 1)) "$WG4NETNS" show wg0 >/dev/null 2>&1 || true
  done
  wait "$pings" || fail "the pings failed"
  assert_has "the pings" " 0% packet loss" "$(cat "$W/ping.out")"
  capture "$WG4NETNS" show wg0; assert_status 0; recovery "$TOOK_MS"
}
fault D2 "four hundred get and set at once" "all answered, no packet lost" many_at_once
many_at_once() {
  fresh
  in_target ping -i 0.02 -c 60 -W 1 -q 10.6.0.2 >"$W/ping.out" & local pings=$! n
  printf '%s\n' {1..400} | xargs -P 16 -I '{}' sh -c 'if [ $(({} % 2)) = 0 ]; then "$WG4NETNS" show wg0; else "$WG4NETNS" set wg0 peer "$0" persistent-keepalive 0; fi >/dev/null' "$(pub b)" ||
    fail "one was not answered"
  wait "$pings" || fail "the pings failed"
  assert_has "the pings" " 0% packet loss" "$(cat "$W/ping.out")"
}

covered E "what is said of every wrong configuration, word for word" 094-config-errors
# bad_config 'SED' 'SAID': refused with file and line before the target is touched, and no key is quoted.
bad_config() {
  hostile_target
  sed "$1" "$W/wg0.conf" >"$W/bad.conf"; chmod 600 "$W/bad.conf"
  refuses 3 "$2" "$WG4NETNS" --netns-pid "$TARGET" --config "$W/bad.conf"
  assert_lacks "the key is not quoted" "$(key a)" "$OUT$ERR"
  recovery "$TOOK_MS"; nothing_made "a bad configuration"
}
e() { fault "$1" "$2" "exit 3, file and line, no key" "bad_$1"; }
e E1 "the private key is cut off"; bad_E1() { bad_config 's/^PrivateKey = ..../PrivateKey = /' 'PrivateKey`: expected 32 bytes'; }
e E2 "the private key stands in a line of its own"; bad_E2() { bad_config 's/^PrivateKey = //' 'expected `Key = value`'; }
e E3 "no [Interface]"; bad_E3() { bad_config '/Interface/d' 'before any section'; }
e E4 "an empty file"; bad_E4() { bad_config d 'the file is empty'; }
e E5 "NUL bytes"; bad_E5() { bad_config 's/^Address.*/Address = \x00\x01/' 'bad.conf`:3: `Address`'; }
e E6 "a prefix of 33 bits"; bad_E6() { bad_config 's#10.6.0.0/24#10.6.0.0/33#' 'is not an address prefix'; }
e E7 "five thousand characters in one line"; bad_E7() { bad_config "s/^Address.*/Address = $(printf 'x%.0s' {1..5000})/" 'bad.conf`:3: `Address`'; }
fault E8 "the file is a directory" "exit 3" not_a_file /
fault E9 "the file never ends" "exit 3" not_a_file /dev/zero
not_a_file() { hostile_target; refuses 3 "wg4netns: " "$WG4NETNS" --netns-pid "$TARGET" --config "$1"; nothing_made "no file"; }

covered G1 "the clock went back: the peer refuses us, and we say why" 031-reason-clock
covered G4 "our clock goes back and forward, our machine sleeps for two hours" 032-own-clock
# in_time OFFSETS: in a time namespace where boot time is another.
in_time() {
  unshare -T true 2>/dev/null || skipped time-namespaces "they cannot be made here"
  hostile_target
  rm -f "$W/wg0.ready"
  start wg0 unshare -T "$@" --fork --kill-child "$WG4NETNS" --netns-pid "$TARGET" --config "$W/wg0.conf" --ready-fd 9 9>"$W/wg0.ready"
  OURS=$STARTED
  wait_for "ready" 10 ready_or_dead wg0 "$OURS"
  talks; recovery "$WAITED_MS"
  OURS=$(our_processes | awk '{ print $1 }')
  kill "$OURS"; wait_for "its end" 3 gone "$OURS"; OURS=''
}
fault G2 "booted 30 years ago" "works" in_time --boottime 946080000 --monotonic 946080000
fault G3 "boot time and monotonic time differ by a year" "works" in_time --boottime 31536000
