#!/bin/bash
# wg(8) of wireguard-tools works against our socket, and our own commands print what it prints.
#
#   wg ── /run/wireguard/wg0.sock ── wg4netns :host ── h0 ═ p0 ── wireguard-go :peer
#
# As root the socket is where wg looks; as an ordinary user our directory is bound over wg's.
#
# needs: netns tun wg wireguard-go
# timeout: 60
. "$(dirname "$0")/lib.sh"
in_world "$@"
need tun wg wireguard-go
peer_world
start_wireguard_go_peer
start_target
our_conf "$W/wg0.conf" "ListenPort = 51900"
attach
in_target ping -c 1 -W 5 10.6.0.2 >/dev/null || fail "no answer"
real_wg() {
  if [ "$(uapi_dir)" = /var/run/wireguard ]; then wg "$@"
  else unshare -m sh -c 'mount --bind "$0" /run/wireguard && exec wg "$@"' "$(uapi_dir)" "$@"; fi
}

step "show, dump, showconf: the same text from both programs"
for what in "show wg0 private-key" "show wg0 public-key" "show wg0 listen-port" "show wg0 fwmark" "show wg0 peers" "show wg0 preshared-keys" \
  "show wg0 endpoints" "show wg0 allowed-ips" "show wg0 persistent-keepalive" "showconf wg0" "show wg0 latest-handshakes" "show wg0 dump" "show all dump"; do
  # shellcheck disable=SC2086 # words
  capture real_wg $what; assert_status 0; theirs=$OUT
  # shellcheck disable=SC2086
  capture "$WG4NETNS" $what; assert_status 0
  assert_eq "$what" "$theirs" "$OUT"
done
# These count seconds and bytes: compared without the numbers.
plain() { sed -E 's/[0-9.]+ (second|minute|B|KiB|MiB)s?/N \1/g'; }
capture real_wg show wg0; assert_status 0; theirs=$(plain <<<"$OUT")
capture "$WG4NETNS" show wg0; assert_status 0
assert_eq "show wg0" "$theirs" "$(plain <<<"$OUT")"
capture env WG_COLOR_MODE=always "$WG4NETNS" show wg0
assert_has "colours" $'\033[' "$OUT"
capture env WG_HIDE_KEYS=never "$WG4NETNS" show wg0
assert_has "the key when asked for" "$(key a)" "$OUT"
capture real_wg show interfaces; assert_has "listed by wg" wg0 "$OUT"
capture "$WG4NETNS" show wg0 --json; jq -e . >/dev/null <<<"$OUT" || fail "show --json is not JSON"

step "wg set: keepalive, preshared key, a second peer, its removal"
(umask 077; wg genpsk >"$W/psk")
capture real_wg set wg0 peer "$(pub b)" persistent-keepalive 25 preshared-key "$W/psk"; assert_status 0
assert_has "keepalive" 25 "$(real_wg show wg0 persistent-keepalive)"
assert_has "preshared key" "$(cat "$W/psk")" "$("$WG4NETNS" show wg0 preshared-keys)"
wg set wgp0 peer "$(pub a)" preshared-key "$W/psk"
in_target ping -c 1 -W 10 10.6.0.2 >/dev/null || fail "no answer with the preshared key"
make_key c
capture real_wg set wg0 peer "$(pub c)" allowed-ips 10.6.0.77/32 endpoint '[fd09::9]:1'; assert_status 0
assert_has "the second peer" "10.6.0.77/32" "$(real_wg show wg0 allowed-ips)"
capture real_wg set wg0 peer "$(pub c)" remove; assert_status 0
assert_lacks "it is gone" "$(pub c)" "$(real_wg show wg0 peers)"

step "wg setconf, addconf, syncconf"
real_wg showconf wg0 >"$W/saved.conf"
capture real_wg syncconf wg0 "$W/saved.conf"; assert_status 0
printf '[Peer]\nPublicKey = %s\nAllowedIPs = 10.6.0.78/32\n' "$(pub c)" >"$W/more.conf"
capture real_wg addconf wg0 "$W/more.conf"; assert_status 0
assert_has "added" "10.6.0.78/32" "$(real_wg show wg0 allowed-ips)"
capture real_wg setconf wg0 "$W/saved.conf"; assert_status 0
assert_lacks "replaced" "$(pub c)" "$(real_wg show wg0 peers)"
in_target ping -c 1 -W 10 10.6.0.2 >/dev/null || fail "no answer after setconf"

step "the new private key is used at once"
make_key e
capture real_wg set wg0 private-key "$W/e.key"; assert_status 0
wg set wgp0 peer "$(pub e)" preshared-key "$W/psk" allowed-ips 10.6.0.1/32
in_target ping -c 1 -W 10 10.6.0.2 >/dev/null || fail "no answer with the new key"

step "what is refused is refused with wg's words, and changes nothing"
before=$(real_wg showconf wg0)
capture real_wg set wg0 fwmark 7
assert_status 1
assert_has "fwmark needs a privilege" "Operation not permitted" "$ERR"
assert_eq "configuration" "$before" "$(real_wg showconf wg0)"
