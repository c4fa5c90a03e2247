#!/bin/bash
# It says why: each reason for a missing handshake, produced for real, on stderr of run and in status.
#
#   CMD wg0 ── wg4netns run :host ── h0 ═ p0 ── wireguard-go :peer, and ports where nobody or a black hole is
#
# needs: netns tun wg wireguard-go nft
# timeout: 120
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go nft
peer_world
start_wireguard_go_peer
on peer nft -f - <<'N'
table inet hole {
  chain in { type filter hook input priority 0; udp dport 7777 drop; }
}
N
make_key other; (umask 077; wg genpsk >"$W/psk")
our_conf "$W/name.conf" -- "Endpoint = surely.invalid:51820"
our_conf "$W/hole.conf" -- "Endpoint = 10.9.0.2:7777"
our_conf "$W/refused.conf" -- "Endpoint = 10.9.0.2:7778"
our_conf "$W/ourkey.conf" "PrivateKey = $(key other)"
our_conf "$W/theirkey.conf" -- "PublicKey = $(pub other)"
our_conf "$W/psk.conf" -- "PresharedKey = $(cat "$W/psk")"

kinds=(name hole refused ourkey theirkey psk)
step "all at once: run waits for a handshake, says so after a second, and gives up with the reason"
begin=$(now_ms); pids=()
for kind in "${kinds[@]}"; do
  "$WG4NETNS" run --config "$W/$kind.conf" -- true >"$W/$kind.out" 2>"$W/$kind.err" &
  pids+=($!); OWN_PIDS+=($!)
done
for index in "${!kinds[@]}"; do
  status=0; wait "${pids[$index]}" || status=$?
  assert_eq "status of ${kinds[$index]}" 125 "$status"
done
took=$(($(now_ms) - begin))
assert_at_most "time to give up (ms)" 14000 "$took"
for kind in "${kinds[@]}"; do note "$kind: $(paste -sd '~' "$W/$kind.err")"; done

reason() { assert_matches "$1" "$2" "$(cat "$W/$1.err")"; }
reason name 'surely\.invalid.*(not resolved|cannot be resolved|cannot resolve)|(not resolved|cannot be resolved|cannot resolve).*surely\.invalid'
reason hole '[2-9] initiations sent, nothing came back'
reason refused 'port refused'
reason ourkey '[2-9] initiations sent, nothing came back'
reason theirkey '[2-9] initiations sent, nothing came back'
reason psk 'fail authentication: wrong (preshared )?key\?'
for kind in "${kinds[@]}"; do
  assert_lacks "no key in what is said" "$(key a)" "$(cat "$W/$kind.err")"
  assert_lacks "no key in what is said" "$(cat "$W/psk")" "$(cat "$W/$kind.err")"
done

step "status says the same, and exits 1"
start_target
ours hole --netns-pid "$TARGET" --config "$W/hole.conf"
in_target ping -c 1 -W 1 10.6.0.2 >/dev/null && fail "the hole answered"
status_says() { "$WG4NETNS" status "$1" >"$W/status.out" 2>&1 && return 1; grep -Eq "$2" "$W/status.out"; }
wait_for "status to name the reason" 20 status_says hole 'nothing came back'
kill "$OURS"; wait_for "the end" 1 gone "$OURS"
ours psk --netns-pid "$TARGET" --config "$W/psk.conf"
in_target ping -c 1 -W 1 10.6.0.2 >/dev/null && fail "the wrong preshared key was accepted"
wait_for "status to name the reason" 20 status_says psk 'fail authentication'
kill "$OURS"; wait_for "the end" 1 gone "$OURS"

assert_nothing_left
