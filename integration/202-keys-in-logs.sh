#!/bin/bash
# No key reaches a log, wherever it goes: the journal or, without one, a file of ours; not when everything is said (-vv), not
# when a handshake fails, keys are changed by `wg`, or a configuration with a broken key is refused.
#
#   target wg0 ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer, a preshared key between them
#
# needs: netns tun wg wireguard-go socat perl
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go socat perl
peer_world
start_wireguard_go_peer
(umask 077; wg genpsk >"$W/psk")
wg set wgp0 peer "$(pub a)" preshared-key "$W/psk"
our_conf "$W/wg0.conf" -- "PresharedKey = $(cat "$W/psk")"
make_key late
start_target

hex() { base64 -d <<<"$1" | od -An -v -tx1 | tr -d ' \n'; } # KEY
lives() { # LOG: a tunnel that leaves its caller and says all; its log must have something, and none of the keys
  local log=$1 secret
  capture "$WG4NETNS" -vv --background --netns-pid "$TARGET" --config "$W/wg0.conf"
  assert_status 0
  local said=$OUT$ERR
  wait_for "an answer" 10 in_target ping -c 1 -W 1 -p 6c65616b 10.6.0.2
  # A line for each, and what is in it is not there.
  for part in initiation 10.6.0.2; do wait_for "$part in the log" 5 grep -qaF "$part" "$log"; done
  ! grep -qaF leakleak "$log" || fail "the content of packets is in $log"
  capture "$WG4NETNS" set wg0 private-key "$W/late.key"; assert_status 0; said+=$OUT$ERR
  capture in_target ping -c 2 -i 0.2 -W 0.5 10.6.0.2 # to a peer that does not know us any more
  capture "$WG4NETNS" set wg0 private-key "$W/a.key"; assert_status 0; said+=$OUT$ERR
  wait_for "an answer again" 10 in_target ping -c 1 -W 1 10.6.0.2
  capture "$WG4NETNS" stop wg0; assert_status 0; said+=$OUT$ERR
  wait_for "the log" 5 grep -qa 'session established' "$log"
  for secret in "$(key a)" "$(key late)" "$(cat "$W/psk")"; do
    for form in "$secret" "$(hex "$secret")"; do
      assert_lacks "what was said" "$form" "$said"
      ! grep -qaF -- "$form" "$log" || fail "a key is in $log"
    done
    # As bytes, too: a line of debugging might print them so.
    HEX=$(hex "$secret") perl -e 'local $/; open my $f, "<:raw", $ARGV[0] or die; my $k = pack "H*", $ENV{HEX}; exit(index(<$f>, $k) >= 0)' "$log" ||
      fail "a key is in $log as bytes"
  done
  note "$(wc -c <"$log") bytes of log"
}

step "without a journal: a file"
[ ! -e /run/systemd/journal/socket ] || fail "this world has a journal"
lives "$XDG_STATE_HOME/wg4netns/wg0.log"

step "with a journal"
mkdir -p /run/systemd/journal
start journal socat -u UNIX-RECV:/run/systemd/journal/socket "OPEN:$W/journal,creat,append"
wait_for "the journal" 5 test -S /run/systemd/journal/socket
lives "$W/journal"

step "a broken key is not quoted"
sed 's/^PrivateKey = ./PrivateKey = /' "$W/wg0.conf" >"$W/broken.conf"; chmod 600 "$W/broken.conf"
capture "$WG4NETNS" -vv --netns-pid "$TARGET" --config "$W/broken.conf"
assert_status 3
cut=$(key a)
assert_lacks "the refusal" "${cut:1}" "$OUT$ERR"
