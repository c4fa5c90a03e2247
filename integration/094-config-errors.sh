#!/bin/bash
# What is said about a configuration that is wrong: file, line, key, what is allowed; never the value of a key. Group E.
#
#   no target, no peer: wg4netns check FILE
#
# needs: wg
# timeout: 60
. "$(dirname "$0")/lib.sh"
need wg
no_world
make_key a; make_key b
key=$(key a); far_key=$(pub b)
good="[Interface]
PrivateKey = $key
Address = 10.6.0.1/24
[Peer]
PublicKey = $far_key
AllowedIPs = 10.6.0.0/24
Endpoint = 192.0.2.1:51820"
cd "$W"

check() { printf '%s\n' "$1" >wg0.conf; chmod 600 wg0.conf; capture "$WG4NETNS" check wg0.conf; }
# wrong 'SAID' FILE-TEXT: refused with this line, status 3; the private key is nowhere.
wrong() {
  check "$2"
  assert_eq "what is said about: $2" "wg4netns: $1" "$(head -n 1 <<<"$ERR")"
  assert_lacks "the key is not quoted" "$key" "$OUT$ERR"
  assert_status 3
}

step "a good one is good: as it is, with BOM, CRLF, tabs, comments, repeated keys"
check "$good"; assert_status 0
check "$(printf '\357\273\277%s' "$good")"; assert_status 0
check "$(sed 's/$/\r/' <<<"$good")"; assert_status 0
check "$(sed 's/ = /\t=\t/; s/$/ # comment/' <<<"$good")"; assert_status 0
check "$good
AllowedIPs = 10.7.0.0/24, fd00::/8"; assert_status 0

step "wrong ones"
wrong '`wg0.conf`: the file is empty' ''
wrong '`wg0.conf`: there is no `[Interface]` section' "[Peer]
PublicKey = $far_key"
wrong '`wg0.conf`:7: `AllowedIPs`: `10.0.0.0/33` is not an address prefix' "$(sed '6a AllowedIPs = 10.0.0.0/33' <<<"$good")"
wrong '`wg0.conf`:2: `PrivateKey`: expected 32 bytes in base64 (44 characters), found 43 characters' "$(sed "2s/=\$//" <<<"$good")"
wrong '`wg0.conf`:5: `PublicKey`: expected 32 bytes in base64 (44 characters), found 4 characters' "$(sed '5s/=.*/= abcd/' <<<"$good")"
wrong '`wg0.conf`:7: `Endpoint`: `fd00::1:51820` is an IPv6 address without brackets; expected `[address]:port`' "$(sed '7s/=.*/= fd00::1:51820/' <<<"$good")"
wrong '`wg0.conf`:7: `Endpoint`: `192.0.2.1` has no port; expected `host:port`' "$(sed '7s/=.*/= 192.0.2.1/' <<<"$good")"
wrong '`wg0.conf`:7: `Endpoint`: `192.0.2.1:65536` has a port that is not a number from 1 to 65535' "$(sed '7s/=.*/= 192.0.2.1:65536/' <<<"$good")"
wrong '`wg0.conf`:5: `PublicKey`: this is the interface'"'"'s own key, not a peer'"'"'s' "$(sed "5s|=.*|= $(pub a)|" <<<"$good")"
wrong '`wg0.conf`:2: `PrivateKey`: a key of zeros is no key' "$(sed '2s/=.*/= AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=/' <<<"$good")"
wrong '`wg0.conf`:8: `Adress` is not a key of `[Peer]`' "$good
Adress = 10.0.0.1"
wrong '`wg0.conf`:8: expected `Key = value`' "$good
what is this"
wrong '`wg0.conf`:8: expected `Key = value`' "$good
$key"
wrong '`wg0.conf`:8: a second `[Interface]` section; the first is on line 1' "$good
[Interface]"
wrong '`wg0.conf`:1: `PrivateKey` stands before any section' "$(tail -n +2 <<<"$good")"
wrong '`wg0.conf`:4: `[Pear]` is not a section' "$(sed '4s/Peer/Pear/' <<<"$good")"

step "files that are none"
capture "$WG4NETNS" check missing.conf; assert_status 3; assert_has "the path" missing.conf "$ERR"
mkdir dir.conf; capture "$WG4NETNS" check dir.conf; assert_status 3
capture timeout 10 "$WG4NETNS" check /dev/zero; assert_status 3
if [ "$(id -u)" != 0 ]; then printf '%s\n' "$good" >secret.conf; chmod 0 secret.conf; capture "$WG4NETNS" check secret.conf; assert_status 3; assert_has "why" "Permission denied" "$ERR"; fi

step "warnings: a key others may read, scripts that are never run, a mark that cannot be set"
printf '%s\n' "$(sed "3a PostUp = touch $W/ran\nPreDown = touch $W/ran\nSaveConfig = true" <<<"$good")" >warned.conf; chmod 644 warned.conf
capture "$WG4NETNS" check warned.conf
assert_status 0
assert_matches "the file's mode" '(others|readable)' "$ERR"
assert_has "scripts" PostUp "$ERR"
test ! -e "$W/ran" || fail "a script was run"
