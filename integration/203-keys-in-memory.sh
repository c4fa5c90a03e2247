#!/bin/bash
# Where keys are in the memory of the tunnel and its helpers: those in use once, as bytes; nowhere those that wg has replaced or removed,
# nor the text of a configuration that came in the environment.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer, a preshared key between them
#
# What cannot be searched for, because nobody outside knows it: what is computed from these keys, of which the AEAD keeps the keys
# of sessions.
#
# needs: netns tun wg wireguard-go perl
# timeout: 90
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go perl
peer_world
start_wireguard_go_peer
make_key c; make_key d
for psk in one two three; do (umask 077; wg genpsk >"$W/$psk.psk"); done
SECRETS=(a.key c.key d.key one.psk two.psk three.psk)
# A name, so that there is a broker.
cp /etc/hosts "$W/hosts"; echo '10.9.0.2 far.test' >>"$W/hosts"; mount --bind "$W/hosts" "$(realpath /etc/hosts)"
our_conf "$W/wg0.conf" -- "Endpoint = far.test:51820" "PresharedKey = $(cat "$W/one.psk")"

# holds WHAT FILE…: our tunnel has these secrets, each once and as bytes; no process of ours has another or in another form.
holds() {
  local what=$1 found expected='' pids pid number word name; shift
  read -ra pids <<<"$(our_processes)"
  found=$(cd "$W" && cat "${SECRETS[@]}" | "$INTEGRATION/tools/memory-holds" "${pids[@]}")
  for pid in "${pids[@]}"; do
    for number in "${!SECRETS[@]}"; do
      word=0
      if [ "$pid" = "$(tunnel)" ]; then for name; do if [ "$name" = "${SECRETS[number]}" ]; then word=1; fi; done; fi
      expected+="$pid $((number + 1)) $word 0 0"$'\n'
    done
  done
  assert_eq "$what: process, secret, copies as bytes, as base64, as hex" "${expected%$'\n'}" "$found"
  note "$what: ${#pids[@]} processes, $# of ${#SECRETS[@]} secrets"
}
# The process that our helpers are children of.
tunnel() {
  local pid
  for pid in $(our_processes); do
    tr '\0' '\n' <"/proc/$pid/cmdline" | sed -n 2p | grep -q '^__' || echo "$pid"
  done
}
# far_end_knows KEY PSK: of us.
far_end_knows() {
  wg set wgp0 peer "$(pub "$1")" preshared-key "$W/$2.psk" allowed-ips 10.6.0.1/32,fd06::1/128
}
answers() { wait_for "an answer" 10 in_target ping -c 1 -W 1 10.6.0.2; }

step "the search finds what is there, in every form"
start holder env "X=$(key a) $(base64 -d <"$W/c.key" | od -An -v -tx1 | tr -d ' \n')" sleep 1000
wait_for "its memory" 5 grep -q sleep "/proc/$STARTED/cmdline"
assert_eq "copies" "$STARTED 1 0 1 0 $STARTED 2 0 0 1" "$(cd "$W" && cat a.key c.key | "$INTEGRATION/tools/memory-holds" "$STARTED" | paste -sd ' ')"

step "attached"
start_target
far_end_knows a one
ours wg0 -vv --netns-pid "$TARGET" --config "$W/wg0.conf" --uapi-dir /run/wireguard -p 127.0.0.1:8080:8080
answers
assert_eq "processes: broker, forwarder, factory, tunnel" 4 "$(wc -w <<<"$(our_processes)")"
holds "attached" a.key one.psk

step "wg set: another private key, another preshared key"
far_end_knows c two
wg set wg0 private-key "$W/c.key" peer "$(pub b)" preshared-key "$W/two.psk"
answers
holds "wg set" c.key two.psk

step "wg syncconf: both again"
our_conf "$W/sync.conf" "Address =" "PrivateKey = $(key d)" -- "PresharedKey = $(cat "$W/three.psk")"
far_end_knows d three
wg syncconf wg0 "$W/sync.conf"
answers
holds "wg syncconf" d.key three.psk

step "our own commands: set, switch"
far_end_knows c two
capture "$WG4NETNS" set --uapi-dir /run/wireguard wg0 private-key "$W/c.key" peer "$(pub b)" preshared-key "$W/two.psk"; assert_status 0
answers
holds "set" c.key two.psk
far_end_knows a one
capture "$WG4NETNS" switch --uapi-dir /run/wireguard wg0 "$W/wg0.conf"; assert_status 0
answers
holds "switch" a.key one.psk

step "a peer that is removed takes its preshared key with it; a private key that is taken away is gone"
wg set wg0 peer "$(pub b)" remove
holds "no peer" a.key
wg set wg0 private-key /dev/null
holds "no key"
kill "$OURS"; wait_for "the end" 5 gone "$OURS"

# in_no_environment WORD: of none of our processes.
in_no_environment() {
  local pid
  for pid in $(our_processes); do
    ! grep -qaF -- "$1" "/proc/$pid/environ" || fail "it is in the environment of $(tr '\0' ' ' <"/proc/$pid/cmdline")"
  done
}

step "a configuration from the environment: attach"
CONF=$(cat "$W/wg0.conf"); export CONF
grep -qaF "$(key a)" <(env) || fail "it is not in ours either"
ours wg0 -vv --netns-pid "$TARGET" --config-env CONF --uapi-dir /run/wireguard -p 127.0.0.1:8080:8080
answers
in_no_environment "$(key a)"; in_no_environment "$(cat "$W/one.psk")"; in_no_environment PrivateKey
holds "attached" a.key one.psk
kill "$OURS"; wait_for "the end" 5 gone "$OURS"
kill "$TARGET"

step "in the background, and run, whose command does not find it either"
start_target
capture "$WG4NETNS" --background --name back --netns-pid "$TARGET" --config-env CONF; assert_status 0
answers
in_no_environment PrivateKey
holds "in the background" a.key one.psk
"$WG4NETNS" stop back; wait_for "the end" 5 no_processes
start run "$WG4NETNS" run --config-env CONF -- sh -c 'tr "\0" "\n" </proc/self/environ; echo up; exec sleep 1000'
RUN=$STARTED
wait_for "the command" 10 grep -q up "$W/run.log"
assert_lacks "the command's environment" PrivateKey "$(cat "$W/run.log")"
in_no_environment PrivateKey
holds "run" a.key one.psk
kill "$RUN"; wait_for "the end" 5 gone "$RUN"
assert_nothing_left
