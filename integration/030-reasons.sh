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
waiting='wg4netns: warning: waiting up to 10 s for a peer to answer'
for kind in "${kinds[@]}"; do assert_eq "one line while $kind waits" 1 "$(grep -cxF "$waiting" "$W/$kind.err")"; done
for kind in "${kinds[@]}"; do
  assert_lacks "no key in what is said" "$(key a)" "$(cat "$W/$kind.err")"
  assert_lacks "no key in what is said" "$(cat "$W/psk")" "$(cat "$W/$kind.err")"
done


# patterns as above
declare -A says=([name]='surely\.invalid' [hole]='[2-9] initiations sent, nothing came back' [refused]='port refused'
  [ourkey]='[2-9] initiations sent, nothing came back' [theirkey]='[2-9] initiations sent, nothing came back' [psk]='fail authentication: wrong (preshared )?key\?')
step "attach --wait-handshake: meanwhile status says the same and exits 1; then it gives up with the reason, and exits 1"
start_target
pids=()
for kind in "${kinds[@]}"; do
  "$WG4NETNS" --netns-pid "$TARGET" --config "$W/$kind.conf" --name "$kind" --interface "$kind" --wait-handshake=12 >"$W/$kind.out" 2>"$W/$kind.err" &
  pids+=($!); OWN_PIDS+=($!)
done
status_says() { # NAME PATTERN
  STATUS=0; "$WG4NETNS" status "$1" >"$W/status.out" 2>&1 || STATUS=$?
  [ "$STATUS" = 1 ] && grep -Eq "$2" "$W/status.out"
}
for kind in "${kinds[@]}"; do wait_for "status of $kind to name the reason" 11 status_says "$kind" "${says[$kind]}"; done
for index in "${!kinds[@]}"; do
  kind=${kinds[$index]} status=0
  wait "${pids[$index]}" || status=$?
  assert_eq "status of attach for $kind" 1 "$status"
  assert_matches "attach's reason for $kind" "wg4netns: no handshake within 12 s: .*${says[$kind]}" "$(cat "$W/$kind.err")"
done
not in_target ip link show hole 2>/dev/null || fail "the interface of a tunnel that gave up is left"
assert_nothing_left
